"""compose.yaml and what makes its .env: schema, secrets, networks, and what each service is told."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.up import setting_names
from shared.secrets import Vault
from shared.settings import ModelSettings, Settings
from tests.containers import FOREIGN, ROOT, compose

SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "CREDENTIALS_KEYS", "FLOWER_BASIC_AUTH"}
MADE = SECRETS | {"METRICS_TOKEN"}
SOME = {name: f"a-{name}" for name in SECRETS}
ACCOUNT = {"LYBIC_API_KEY": "sk-1", "LYBIC_ORG_ID": "org", "ARK_API_KEY": "ark-1"}
LOCAL = {"COMPOSE_PROFILES": "local"}
OURS = {"lybic-guiagent-api", "lybic-guiagent-worker"}
AGENTS = ("api", "worker")


def services(**environment: str) -> dict[str, dict[str, Any]]:
    """The services as they are with these variables, and with all secrets."""
    return dict(compose(SOME | environment)["services"])


def test_the_file_is_what_the_specification_wants(tmp_path: Path) -> None:
    paths = [ROOT / "compose.yaml"]
    for number, environment in enumerate(({}, ACCOUNT, LOCAL)):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(compose(SOME | environment)))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *paths]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_nothing_starts_without_a_secret_and_the_error_says_what_to_do(name: str) -> None:
    with pytest.raises(KeyError, match=f"{name}: run sh deploy/make-env.sh"):
        compose(SOME | {name: ""})


@pytest.mark.parametrize("name", services())
def test_each_container_may_do_no_more_than_it_must(name: str) -> None:
    service = services()[name]
    ours = service["image"] in OURS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ours or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "container_name" not in service, "or it could not be scaled"
    one_shot = name == "migrate"
    assert service["restart"] == ("no" if one_shot else "unless-stopped")
    assert ours or "test" in service["healthcheck"], "ours have one in their image"
    assert service.get("healthcheck", {}).get("disable", False) == one_shot


def test_only_the_api_is_published_and_by_default_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:5000:5000"]}
    elsewhere = services(PUBLISH_ADDRESS="10.0.0.1", PUBLISH_PORT="80")["api"]["ports"]
    assert elsewhere == ["10.0.0.1:80:5000"]
    assert compose(SOME)["networks"]["backend"] == {"internal": True}
    outside = {name for name, service in services().items() if service["networks"] != ["backend"]}
    assert outside == set(AGENTS)


def test_all_wait_for_what_they_need() -> None:
    after = {name: service.get("depends_on", {}) for name, service in services().items()}
    assert after["migrate"] == {"postgres": {"condition": "service_healthy"}}
    for name in AGENTS:
        assert after[name]["migrate"] == {"condition": "service_completed_successfully"}


def test_a_worker_has_the_time_to_finish_an_action() -> None:
    settings = Settings()
    assert services()["worker"]["stop_grace_period"] == "1m"
    assert settings.worker.drain_seconds + settings.lybic.timeout_seconds < 60


@pytest.mark.parametrize("name", services())
def test_nothing_is_set_that_nobody_reads(name: str) -> None:
    assert services()[name].get("environment", {}).keys() <= setting_names() | FOREIGN


def test_what_is_read_is_documented() -> None:
    example = (ROOT / "deploy" / "compose.env.example").read_text()
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    documented = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    assert documented <= read
    assert read - documented <= setting_names() | SECRETS


def test_the_page_names_only_what_there_is() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)\b", page))
    known = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    assert named
    assert named <= setting_names() | known
    override = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["services"]
    assert override == {"flower": {"ports": ["127.0.0.1:5555:5555"], "networks": ["outside"]}}
    assert "--port=5555" in services()["flower"]["command"]


# --- with and without an account ------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    for setting in setting_names():
        monkeypatch.delenv(setting, raising=False)
    return monkeypatch


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    """What the service would read in its container."""
    for variable, value in services(**environment)[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    return Settings()


@pytest.mark.parametrize("name", AGENTS)
def test_the_profile_local_leads_to_the_stand_ins(name: str, elsewhere: pytest.MonkeyPatch) -> None:
    settings, there = settings_of(name, elsewhere, **LOCAL), services()
    for stand_in, access in (("sandbox", settings.lybic), ("model", settings.model)):
        assert there[stand_in]["profiles"] == ["local"]
        assert access.endpoint == f"http://{stand_in}:8000"
        assert access.api_key is not None
        key = f"--api-key={access.api_key.get_secret_value()}"
        assert {key, "--host=0.0.0.0", "--port=8000"} < set(there[stand_in]["command"])
    assert settings.lybic.org_id


def test_only_with_the_stand_ins_are_there_no_api_keys(elsewhere: pytest.MonkeyPatch) -> None:
    local = settings_of("api", elsewhere, **LOCAL).api
    assert not local.keys_required
    assert local.trusted_hosts == ("localhost", "127.0.0.1"), "or a foreign page could pass for ours"
    assert settings_of("api", elsewhere).api.keys_required


@pytest.mark.parametrize("name", AGENTS)
def test_with_an_account_that_is_asked(name: str, elsewhere: pytest.MonkeyPatch) -> None:
    bare = settings_of(name, elsewhere)
    assert (bare.lybic.api_key, bare.model.api_key) == (None, None), "requests bring their own"
    settings = settings_of(name, elsewhere, **ACCOUNT)
    assert settings.lybic.api_key is not None
    assert settings.lybic.api_key.get_secret_value() == "sk-1"
    assert settings.lybic.endpoint == "https://api.lybic.cn"
    assert settings.model.endpoint == ModelSettings.model_fields["endpoint"].default


# --- deploy/make-env.sh ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    for name in ("make-env.sh", "compose.env.example"):
        (tmp_path / "deploy" / name).write_bytes((ROOT / "deploy" / name).read_bytes())
    return tmp_path


def make_env(checkout: Path) -> dict[str, str]:
    subprocess.run(["sh", checkout / "deploy" / "make-env.sh"], timeout=20, check=True, cwd="/")
    lines = (checkout / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_make_env_makes_all_that_is_asked_for(checkout: Path) -> None:
    made = make_env(checkout)
    assert made.keys() == MADE | {"COMPOSE_PROFILES"}
    assert len(set(made.values())) == len(made)
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
    Vault(Settings.model_validate({"storage": {"CREDENTIALS_KEYS": made["CREDENTIALS_KEYS"]}}).storage)


def test_make_env_changes_nothing_that_is_there(checkout: Path) -> None:
    before = "POSTGRES_PASSWORD=mine\nLYBIC_ORG_ID=org\nFLOWER_BASIC_AUTH=\n#REDIS_PASSWORD=no"
    (checkout / ".env").write_text(before)
    once = make_env(checkout)
    assert (checkout / ".env").read_text().startswith(f"{before}\n")
    assert once.keys() == MADE | {"LYBIC_ORG_ID"}
    assert all(once.values())
    assert make_env(checkout) == once
