"""Batches against the real system: interrupted, killed, helped, and gone on with."""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import make_app
from client.exits import ExitCode
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.e2e.test_cli import COMMAND, HANG, LOGIN, Terminal, terminal

__all__ = ["terminal"]

SLOW = "script> delay 2\nscript> finished(content='slow')"
BROKEN = "script> status 400 9\nscript> wait()"


@pytest.fixture(autouse=True)
def _surroundings(system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LYBIC_GUIAGENT_URL", system.stack.plan.url)
    monkeypatch.chdir(tmp_path)


def write(*instructions: str) -> None:
    lines = [json.dumps({"instruction": instruction}) for instruction in instructions]
    Path("jobs.jsonl").write_text("\n".join(lines))


def command(*options: str, stdin: bytes = b"", code: ExitCode = ExitCode.DONE) -> str:
    """What the command writes into a pipe, run in this process."""
    result = CliRunner().invoke(make_app(), ["batch", *options, "--out", "out.jsonl"], input=stdin)
    assert result.exit_code == code, result.output
    return str(result.stdout)


class Running:
    """The command as a process, whose words go into a file."""

    def __init__(self, *options: str) -> None:
        self._said = Path("said")
        with self._said.open("wb") as said:
            arguments = [COMMAND, "batch", "jobs.jsonl", "--out", "out.jsonl", *options]
            self._process = subprocess.Popen(arguments, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: signal.Signals | None = None) -> int:
        """The exit code, after a signal if there is one."""
        if number is not None:
            self.send(number)
        return self._process.wait(90)


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*options: str) -> Running:
        started.append(Running(*options))
        return started[-1]

    yield start
    for one in started:
        one.end(signal.SIGKILL)


def lines() -> int:
    file = Path("out.jsonl")
    return file.read_bytes().count(b"\n") if file.exists() else 0


def results() -> dict[int, dict[str, Any]]:
    """The results, of which each row has one."""
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len({one["row"] for one in found}) == len(found)
    return {one["row"]: one for one in found}


def tasks(system: System) -> Counter[int]:
    """How many tasks the server has of each row."""
    name = json.loads(Path("out.jsonl.batch").read_text())["name"]
    found = system.http.get("/api/agent/task/list", params={"metadata": f"batch:{name}", "limit": 500}).json()
    assert found["next_cursor"] is None
    return Counter(task["metadata"]["row"] for task in found["tasks"])


@pytest.mark.long
def test_interrupted_and_killed_it_ends_with_one_task_and_one_result_of_each_row(
    system: System, running: Callable[..., Running]
) -> None:
    rows = [f"script> finished(content='row {row}')" for row in range(1, 31)]
    rows[4], rows[10], rows[20] = BROKEN, SLOW, SLOW
    write(*rows)
    options = ("--max-active", "4", "--retries", "1")

    one = running(*options)
    wait_until(lambda: lines() >= 6, 60)
    assert one.end(signal.SIGINT) == ExitCode.INTERRUPTED
    assert "the same command comes back to them" in one.said

    one = running(*options)
    wait_until(lambda: lines() >= 16, 60)
    one.send(signal.SIGSTOP)
    rival = running(*options)
    assert rival.end() == ExitCode.FAILED
    assert "in use by another batch" in rival.said
    one.end(signal.SIGKILL)
    with Path("out.jsonl").open("ab") as file:
        file.write(b'{"row": 30, "sta')  # as by a machine that went off

    assert running(*options).end() == ExitCode.TASK_FAILED
    done = results()
    assert {row: done[row]["output"] for row in done if row not in {5, 11, 21}} == {
        row: f"row {row}" for row in range(1, 31) if row not in {5, 11, 21}
    }
    assert {
        row: (done[row]["status"], done[row]["error_code"], done[row]["attempts"]) for row in (5, 11, 21)
    } == {
        5: ("error", "model_error", 2),
        11: ("finished", None, 1),
        21: ("finished", None, 1),
    }
    assert tasks(system) == Counter(dict.fromkeys(range(1, 31), 1) | {5: 2})


def test_at_a_terminal_ctrl_c_leaves_the_tasks_or_cancels_them(
    system: System, terminal: Callable[..., Terminal]
) -> None:
    write(HANG, "script> finished(content='1')", HANG)
    screen = terminal("batch", "jobs.jsonl", "--out", "out.jsonl")
    screen.expect("1 of 3 done, 2 running")
    assert "━" in screen.shown
    screen.type("\x03")
    assert screen.exit_code() == ExitCode.INTERRUPTED
    left = dict(re.findall(r"row (\d)  (\S{36})", screen.shown))
    assert left.keys() == {"1", "3"}
    assert {system.status(task_id)["status"] for task_id in left.values()} == {"running"}

    screen = terminal("batch", "jobs.jsonl", "--out", "out.jsonl", "--on-interrupt", "cancel")
    screen.expect("1 of 3 done, 2 running")
    screen.type("\x03")
    assert screen.exit_code() == ExitCode.INTERRUPTED
    assert "Cancelling 2 task(s)" in screen.shown
    assert {row: one["status"] for row, one in results().items()} == {
        1: "cancelled",
        2: "finished",
        3: "cancelled",
    }
    assert {str(row): results()[row]["task_id"] for row in (1, 3)} == left
    assert tasks(system) == Counter([1, 2, 3])


@pytest.mark.parametrize(("mode", "status"), [("cancel", "cancelled"), ("leave", "human_intervention")])
def test_a_row_that_calls_a_human_fails(system: System, mode: str, status: str) -> None:
    write(LOGIN)
    command("jobs.jsonl", "--on-human", mode, code=ExitCode.TASK_FAILED)
    one = results()[1]
    assert (one["status"], one["error_code"]) == (status, "human_intervention")
    assert system.status(one["task_id"])["status"] == status
    system.http.post("/api/agent/cancel", json={"task_id": one["task_id"]})


def test_a_human_is_waited_for(system: System, running: Callable[..., Running]) -> None:
    write(LOGIN)
    one = running("--on-human", "wait", "--on-interrupt", "wait")
    called = r"row 1 waits for a human: help it, then `lybic-guiagent resume (\S+)`"
    found = wait_until(lambda: re.search(called, one.said), 60)
    system.http.post(f"/api/agent/task/{found[1]}/resume").raise_for_status()
    assert one.end(signal.SIGINT) == ExitCode.INTERRUPTED, "though all that was under way has ended"
    assert results()[1]["output"] == "Thank you"
    assert one.said.count("waits for a human") == 1


def test_columns_become_instructions(system: System) -> None:
    rows = 'id,what,max_steps,metadata.team\nfirst,"a, b",,docs\nsecond,c,1,\nthird\n'
    said = command(
        *("-", "--format", "csv", "--template", "script> wait(t=0.1)\nscript> finished(content='{what}')"),
        *("--set", "language=en", "--label", "team=none", "--label", "kind=x", "--json"),
        stdin=rows.encode(),
        code=ExitCode.TASK_FAILED,
    )
    told = json.loads(said)
    assert (told["rows"], told["left"], told["finished"], told["failed"]) == (3, 0, 1, 2)
    found = {one["id"]: one for one in results().values()}
    assert found["first"]["output"] == "a, b"
    assert (found["second"]["error_code"], found["second"]["steps"]) == ("max_steps", 1)
    assert found["3"]["error_message"] == "line 4 has 1 cells, the first line 4"
    labels = [system.status(found[name]["task_id"])["metadata"] for name in ("first", "second")]
    assert [(one["team"], one["kind"]) for one in labels] == [("docs", "x"), ("none", "x")]
