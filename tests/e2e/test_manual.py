"""The original server's user manual, `manual.md` beside this file: all that it prints works here, unchanged.

Its client programs run as processes, and its curl commands in a small interpreter, as curl and jq need not be
installed. Only the server behind localhost:5000 is this test's own, and so are its sandboxes and its model.
"""

import ast
import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.e2e.conftest import System, read
from tests.e2e.curl import SERVER, Answer, Shell, blocks

MANUAL = Path(__file__).with_name("manual.md")
SHA256 = "b864ffa46f72887eb60742422f0ee7ff2be39bfe0bff1cda35f0eae61409ea07"

BLOCKS = tuple(blocks(MANUAL.read_text(encoding="utf-8")))


def test_the_manual_is_verbatim() -> None:
    """Formatters know Markdown, and would change the programs in it."""
    assert hashlib.sha256(MANUAL.read_bytes()).hexdigest() == SHA256


def ended(system: System, task_id: str) -> dict[str, Any]:
    """The task's status when it has finished well."""
    status = system.wait(task_id)
    assert (status["status"], status["error_code"]) == ("finished", None), status
    assert status["finished_output"]
    return status


# What is to come of each of them.

Outcome = Callable[[System, Answer], None]


def good(answer: Answer) -> httpx.Response:
    assert answer is not None
    assert answer.status_code == 200, answer.text
    return answer


def refused(answer: Answer) -> tuple[int, str, str]:
    """Status, code and message of an error. Clients of the original server read `detail`."""
    assert answer is not None
    body = answer.json()
    assert body["success"] is False
    assert body["detail"] == body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["error"]["message"]


def healthy(system: System, answer: Answer) -> None:
    assert good(answer).json() == {"status": "ok"}


def streamed(system: System, answer: Answer) -> None:
    """A task, watched until it has finished."""
    assert good(answer).headers["content-type"].startswith("text/event-stream")
    events = list(read(good(answer)))
    assert {"thinking", "action"} < {event["type"] for event in events}
    assert events[-1]["type"] == "finished", events[-1]
    assert events[-1]["output"] == ended(system, events[0]["task_id"])["finished_output"]


def submitted(system: System, answer: Answer) -> None:
    """A task, which finishes by itself."""
    ended(system, good(answer).json()["task_id"])


def polled(system: System, answer: Answer) -> None:
    """A task's status, whatever it is for now: in the end the task has finished."""
    assert good(answer).json()["status"] in ("pending", "running", "finished")
    ended(system, good(answer).json()["task_id"])


def created(system: System, answer: Answer) -> None:
    """A sandbox that is really there."""
    made = good(answer).json()
    assert (made["success"], made["shape"]) == (True, "beijing-2c-4g-cpu")
    assert system.desktop(made["sandbox_id"])["gone"] is False


def not_json(system: System, answer: Answer) -> None:
    """`{...}` stands for something that the reader fills in."""
    status, code, message = refused(answer)
    assert (status, code) == (400, "invalid_request")
    assert "not valid JSON" in message


def unknown(task_id: str) -> Outcome:
    """A task's id that is made up, or a variable's name which single quotes keep."""

    def outcome(system: System, answer: Answer) -> None:
        status, code, message = refused(answer)
        assert (status, code) == (404, "task_not_found")
        assert task_id in message

    return outcome


def elsewhere(system: System, answer: Answer) -> None:
    """Asks the real Lybic: not for us."""
    assert answer is None


OUTCOMES: dict[str, list[Outcome]] = {
    "3. Verify Installation": [healthy],
    "Streaming Mode (Real-time)": [streamed],
    "Async Mode (Background)": [submitted, polled],
    "Creating Sandboxes": [created],
    "Context Continuation": [not_json, not_json],
    "Cancelling Tasks": [not_json, not_json],
    "Example 1: Simple Task Execution": [streamed],
    "Example 2: Async Task with Status Polling": [
        submitted,
        unknown("550e8400-e29b-41d4-a716-446655440000"),
    ],
    "Example 3: Creating and Using Sandbox": [created, streamed],
    "Example 4: Context Continuation": [submitted, unknown("$TASK_ID")],
    "3. Start Services": [healthy],
    "5. cURL Examples": [created, streamed, submitted, polled],
    "Common Issues": [elsewhere, unknown("stuck-task-id")],
}


def answers(system: System, section: str) -> list[Answer]:
    """What a section's curl commands are answered."""
    shell = Shell(system.http)
    for block in BLOCKS:
        if block.section == section and block.language == "bash" and "curl" in block.text:
            shell.run(block.text)
    return shell.answers


@pytest.mark.parametrize("section", OUTCOMES)
def test_the_curl_commands(system: System, section: str) -> None:
    for outcome, answer in zip(OUTCOMES[section], answers(system, section), strict=True):
        outcome(system, answer)


def test_no_curl_command_is_left_out() -> None:
    """Wherever the word stands in the manual, it is a command with an outcome."""
    words = re.findall(r"\bcurl\b", MANUAL.read_text(encoding="utf-8"))
    assert len(words) == sum(len(outcomes) for outcomes in OUTCOMES.values())


# The documented answers.


def block_after(label: str) -> str:
    (block,) = (block for block in BLOCKS if block.label == label)
    return block.text


def assert_fits(real: Any, shown: Any) -> None:
    """All that is shown is there, with values of the same types."""
    assert type(real) is type(shown), (real, shown)
    if isinstance(shown, dict):
        assert shown.keys() <= real.keys()
        for name, value in shown.items():
            assert_fits(real[name], value)


def test_the_answers_are_as_shown(system: System) -> None:
    submission, _ = answers(system, "Example 2: Async Task with Status Polling")
    answer, shown = good(submission).json(), json.loads(block_after("**Response:**"))
    assert_fits(answer, shown)
    assert answer == {**shown, "task_id": str(UUID(answer["task_id"]))}

    status = ended(system, answer["task_id"])
    shown = json.loads(block_after("**Status Response:**").replace("{...}", "{}"))
    assert_fits(status, shown)
    assert (status["task_id"], status["query"]) == (answer["task_id"], shown["query"])
    assert status["sandbox_info"]["sandbox_id"] == shown["sandbox_info"]["sandbox_id"]


def test_the_events_are_as_shown(system: System) -> None:
    block = block_after("**Response** (Server-Sent Events stream):")
    shown = [json.loads(line.removeprefix("data: ")) for line in block.splitlines() if line]
    contents = {event["type"]: event.get("content") or event["output"] for event in shown}
    calls = (
        "click(point='<point>5 5</point>')",
        f"output(content='{contents['result']}')",
        f"finished(content='{contents['finished']}')",
    )
    body = {"instruction": "\n".join(f"script> {call}" for call in calls)}
    events = list(read(system.http.post("/api/agent/run", json=body)))
    for example in shown:
        alike = [event for event in events if event["type"] == example["type"]]
        assert alike
        for event in alike:
            assert_fits(event, example)
    for kind, name in (("result", "content"), ("finished", "output")):
        assert [event[name] for event in events if event["type"] == kind] == [contents[kind]]


# The client programs.

# Leads localhost:5000 here, and nothing anywhere else. The programs wait two seconds before they ask again:
# a hundredth of that is enough here, and still no busy loop.
REDIRECTED = """
import runpy, socket, sys, time

program, address, port = sys.argv[1:]
look_up, sleep = socket.getaddrinfo, time.sleep


def redirected(host, wanted, *more, **options):
    assert (host, wanted) == ("localhost", 5000), f"{host}:{wanted} is asked"
    return look_up(address, int(port), *more, **options)


socket.getaddrinfo = redirected
time.sleep = lambda seconds: sleep(seconds / 100)
runpy.run_path(program, run_name="__main__")
"""

PROGRAMS = {
    block.section: block.text for block in BLOCKS if block.language == "python" and SERVER in block.text
}
SIMPLE = "Example 5: Python Client"
PRODUCTION = "4. Client Example with API Keys in Requests"


def printed(system: System, section: str, folder: Path) -> list[str]:
    """The lines that a client program prints until it ends well."""
    program = folder / "program.py"
    program.write_text(PROGRAMS[section], encoding="utf-8")
    plan = system.stack.plan
    done = subprocess.run(
        [sys.executable, "-c", REDIRECTED, program, plan.host, str(plan.port)],
        env={**os.environ, "NO_PROXY": "localhost", "no_proxy": "localhost", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_no_client_program_is_left_out() -> None:
    """Nor any that would be hidden behind another under its heading."""
    found = [block.section for block in BLOCKS if block.language != "bash" and SERVER in block.text]
    assert sorted(found) == sorted(PROGRAMS) == sorted([SIMPLE, PRODUCTION])


def test_the_simple_client(system: System, tmp_path: Path) -> None:
    """`LybicAgentClient`: watches one task, submits another and asks for its status."""
    *events, status = map(ast.literal_eval, printed(system, SIMPLE, tmp_path))
    assert {"thinking", "action"} < {event["type"] for event in events}
    assert events[-1]["type"] == "finished"
    assert system.status(events[-1]["task_id"])["query"] == "Open calculator"
    assert status["status"] in ("pending", "running", "finished")
    assert ended(system, status["task_id"])["query"] == "Create file test.txt"


def test_the_production_client(system: System, tmp_path: Path) -> None:
    """`ProductionLybicClient`: creates a sandbox, searches in it, and clicks on what was found."""
    lines = printed(system, PRODUCTION, tmp_path)
    told = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("["))
    headings = [line for line in lines if ": " not in line and not line.startswith("[")]
    assert headings == [
        "Creating sandbox...",
        "Executing task (streaming)...",
        "Continuing conversation...",
        "All tasks completed!",
    ]
    kinds = [line[1 : line.index("]")] for line in lines if line.startswith("[")]
    assert {"thinking", "action"} < set(kinds)
    assert kinds[-1] == "finished"
    assert "Python best practices" in told["Task completed"]
    assert told["Status"] == "finished"
    status = ended(system, told["Follow-up task submitted"])
    assert status["finished_output"] == told["Final output"]
    assert status["sandbox_info"]["sandbox_id"] == told["Sandbox created"]


def test_what_the_production_client_can_do_besides(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its methods that the manual shows and does not call: a task continued, one cancelled, all cancelled."""
    monkeypatch.setenv("NO_PROXY", system.stack.plan.host)
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[PRODUCTION], encoding="utf-8")
    client = runpy.run_path(str(program))["ProductionLybicClient"](
        system.stack.plan.url, "sk-your-lybic-api-key", "your-lybic-org-id", "your-ark-api-key"
    )
    sandbox_id = client.create_sandbox()["sandbox_id"]
    first = [*client.run_task_stream("Open notepad", sandbox_id)][-1]["task_id"]
    second = list(client.run_task_stream("Type Hello", sandbox_id, continue_context=True, task_id=first))
    assert second[-1]["type"] == "finished"
    assert client.get_task_status(second[0]["task_id"])["parent_task_id"] == first
    for one in (True, False):
        task_id = client.submit_task_async("script> hang 60\nscript> wait()", sandbox_id)["task_id"]
        assert client.cancel_task(task_id if one else None)["success"] is True
        assert system.wait(task_id)["status"] == "cancelled"
