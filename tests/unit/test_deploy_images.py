"""The Dockerfiles, as far as they can be judged unbuilt; tests/e2e/test_containers.py carries them out."""

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from tests.containers import ROOT, Image, instructions

DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_satisfy_their_linter(name: str) -> None:
    lint = [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / name]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_are_built_in_the_same_way_and_share_it() -> None:
    first, second = (list(instructions(ROOT / name)) for name in DOCKERFILES)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]
    assert [word for word, _ in shared].count("FROM") == 3, (
        "all of the playground and the builder, and what the last stage begins with"
    )


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nobody_is_root_and_the_volume_is_theirs(name: str) -> None:
    image = Image.read(name)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user), "by number, which Kubernetes can check"
    assert ("COPY", f"--from=builder --chown={image.user} /data /data") in instructions(ROOT / name)


def test_only_what_is_installed_reaches_a_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    files = {"LICENSE", "README.md", "pyproject.toml", "requirements.lock", "requirements-build.lock"}
    assert "*" in rules
    assert let_through == packages | files | {"playground"}
    assert {"**/node_modules", "api/static"} <= set(rules), "what was built here, not there"


def test_the_wheel_is_built_with_what_the_developers_lock_says() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements-build.lock") < pins("requirements-dev.lock")
