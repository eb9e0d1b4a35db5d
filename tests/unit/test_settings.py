"""Every setting is described, has one variable, and stands in `.env.example`; the manual's names work."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from shared.settings import LybicSettings, Settings, StorageSettings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def fields() -> list[tuple[str, FieldInfo]]:
    groups = [field.annotation for field in Settings.model_fields.values()]
    return [
        (f"{group.__name__}.{name}", field)
        for group in groups
        if isinstance(group, type) and issubclass(group, BaseModel)
        for name, field in group.model_fields.items()
    ]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for _, field in fields():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


@pytest.mark.parametrize(("name", "field"), fields())
def test_each_setting_is_described_and_documented(name: str, field: FieldInfo) -> None:
    assert field.description, name
    variable = str(field.validation_alias)
    assert re.search(rf"^# ?{variable}=", EXAMPLE.read_text(), re.MULTILINE), f"{variable} is missing"


def test_example_names_no_unknown_setting() -> None:
    named = set(re.findall(r"^# ?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert named == {str(field.validation_alias) for _, field in fields()}


def test_names_of_the_manual_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LOG_LEVEL": "DEBUG",
        "LYBIC_API_KEY": "sk-1",
        "LYBIC_ORG_ID": "org",
        "LYBIC_API_ENDPOINT": "https://lybic.example/",
        "ARK_API_KEY": "ark-1",
        "TASK_STORAGE_BACKEND": "postgres",
        "POSTGRES_CONNECTION_STRING": "postgresql://u:p@h/d",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.log.level == "DEBUG"
    assert settings.lybic.api_key == SecretStr("sk-1")
    assert settings.lybic.org_id == "org"
    assert settings.lybic_endpoints == {"https://lybic.example"}
    assert settings.model.api_key == SecretStr("ark-1")
    assert settings.storage.backend == "postgres"
    assert settings.storage.url == SecretStr("postgresql://u:p@h/d")


def test_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LYBIC_ORG_ID=from-file\n")
    assert Settings().lybic.org_id == "from-file"


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYBIC_API_KEY", "")
    assert Settings().lybic.api_key is None


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYBIC_ALLOWED_ENDPOINTS", "https://a.example/, https://b.example")
    assert Settings().lybic_endpoints == {"https://api.lybic.cn", "https://a.example", "https://b.example"}


def test_no_secret_in_a_repr() -> None:
    settings = Settings(
        lybic=LybicSettings(api_key=SecretStr("sk-secret")),
        storage=StorageSettings(url=SecretStr("postgresql://u:hidden@h/d")),
    )
    assert "sk-secret" not in repr(settings)
    assert "hidden" not in repr(settings)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().lybic = LybicSettings()


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "LOUD"), ("AGENT_SETTLE_SECONDS", "-1")])
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name):
        Settings()
