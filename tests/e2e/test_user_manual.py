"""docs/manual.md is true: its examples are run as they stand, one after the other."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from local.demo import isolated
from tests.e2e.conftest import System
from tests.e2e.curl import Shell, blocks

ROOT = Path(__file__).parents[2]
MANUAL = list(blocks((ROOT / "docs" / "manual.md").read_text(encoding="utf-8")))
COMMANDS = [block for block in MANUAL if block.language == "bash"]
PROGRAMS = [block.text for block in MANUAL if block.language == "python"]


@pytest.fixture
def environment(system: System) -> Mapping[str, str]:
    """What a reader's shell has, with the command and this server in it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **isolated(os.environ),
        "PATH": path,
        "LYBIC_GUIAGENT_URL": system.stack.plan.url,
        "NO_COLOR": "1",
    }


def run(arguments: list[str], environment: Mapping[str, str], folder: Path) -> str:
    """What a program says; fails with all of it unless it succeeds."""
    done = subprocess.run(
        arguments,
        check=False,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_commands(environment: Mapping[str, str], tmp_path: Path) -> None:
    """In one shell: what one example finds out, others use."""
    script = "\n".join(block.text for block in COMMANDS if "curl" not in block.text)
    said = run(["bash", "-euxo", "pipefail", "-c", script], environment, tmp_path)
    assert "Hello World" in said
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert len((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_the_requests(system: System) -> None:
    shell = Shell(system.http)
    for block in COMMANDS:
        if "curl" in block.text:
            shell.run(block.text)
    assert [answer and answer.status_code for answer in shell.answers] == [200] * 3


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs(program: str, environment: Mapping[str, str], tmp_path: Path) -> None:
    assert run([sys.executable, "-c", program], environment, tmp_path)
