"""A batch against a server that refuses, forgets to answer, fills up and goes away."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from client.batch import attempts, watcher
from client.batch.results import Result
from client.cli import make_app
from client.exits import ExitCode
from tests.scripted import Answer, Handler, Script, answer, hang_up, refused, scripted

COMMAND = str(Path(sys.executable).with_name("lybic-guiagent"))
INFO = answer({"success": True, "version": "1", "model": {"name": "m", "endpoint": "e"}})
TASK_LIMIT = refused(429, "too_many_active_tasks", "no more than 2")


@dataclass
class Service:
    """Tasks that end, as their instructions say, after so many `looks` at those that are active.

    An instruction is a status or an error code. At most `room` tasks are active. A submission whose number is
    in `odd` is answered otherwise, though it came through.
    """

    script: Script
    looks: int = 1
    room: int = 500
    odd: dict[int, Answer] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    most: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.script.answers = [self]

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            request = self.script.requests.pop()
            name = (
                urlsplit(request.path).path.removeprefix("/api/agent/").removeprefix("task/").partition("/")
            )
            self.calls[name[0]] += 1
            found: Answer = getattr(self, f"_{name[0]}")(request, name[2])
        found(handler)

    def _info(self, *_: object) -> Answer:
        return INFO

    def _submit(self, request: Any, _: str) -> Answer:
        key, words = request.headers["idempotency-key"], request.body["instruction"]
        if words in {"invalid_request", "missing_credentials"}:
            return refused(400, words)
        if key not in self.tasks:
            if len(self.active) >= self.room:
                return TASK_LIMIT
            labels = request.body["metadata"]
            task = {"task_id": key, "status": "running", "query": words, "metadata": labels}
            self.tasks[key] = self.active[key] = task
            self.most = max(self.most, len(self.active))
        return self.odd.pop(self.calls["submit"], answer({"success": True, "task_id": key}))

    def _list(self, request: Any, _: str) -> Answer:
        asked = parse_qs(urlsplit(request.path).query)
        assert asked["status"] == ["pending,running,human_intervention"]
        shown = []
        for task in list(self.active.values()):
            self.seen[task["task_id"]] += 1
            if self.seen[task["task_id"]] > self.looks:
                self._end(task)
            elif asked["metadata"] == [f"batch:{task['metadata']['batch']}"]:
                shown.append(task)
        return answer({"success": True, "tasks": shown, "count": len(shown), "next_cursor": None})

    def _end(self, task: dict[str, Any]) -> None:
        del self.active[task["task_id"]]
        ended = task["query"] if task["query"] in {"finished", "cancelled"} else "error"
        task |= {"status": ended, "usage": {"model_calls": 1, "input_tokens": 5, "output_tokens": 1}}
        if ended == "error":
            task |= {"error_code": task["query"], "error_message": "so it is"}

    def _status(self, _: Any, task_id: str) -> Answer:
        return answer(self.tasks[task_id]) if task_id in self.tasks else refused(404, "task_not_found")


@pytest.fixture
def service() -> Iterator[Service]:
    with scripted() as script:
        yield Service(script)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watcher, "SHORTEST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(watcher, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "LONGEST_RETRY_SECONDS", 0.005)
    monkeypatch.setattr(attempts, "FULL_SECONDS", 0.005)
    monkeypatch.chdir(tmp_path)


def run(service: Service, *instructions: str, options: str = "", code: ExitCode = ExitCode.DONE) -> str:
    """What the command says of a batch of these instructions."""
    lines = [json.dumps({"instruction": instruction}) for instruction in instructions]
    Path("jobs.jsonl").write_text("\n".join(lines))
    arguments = ["batch", "jobs.jsonl", "--out", "out.jsonl", "--url", service.script.url, *options.split()]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def results() -> dict[int, dict[str, Any]]:
    """The results, of which each row has one."""
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len({one["row"] for one in found}) == len(found)
    return {one["row"]: one for one in found}


def codes() -> dict[int, str | None]:
    return {row: one["error_code"] for row, one in sorted(results().items())}


def test_each_row_has_a_result_and_its_task_is_labelled(service: Service) -> None:
    said = run(
        service,
        *["finished"] * 9,
        "timeout",
        "cancelled",
        options="--name b --max-active 3",
        code=ExitCode.TASK_FAILED,
    )
    assert re.search(r"finished\t\t9\n.*11 of 11 rows of b done", said, re.DOTALL)
    assert codes() == {**dict.fromkeys(range(1, 10)), 10: "timeout", 11: None}
    assert service.most == 3
    assert [task["metadata"] for task in service.tasks.values()] == [
        {"batch": "b", "row": n} for n in range(1, 12)
    ]


def test_answers_that_are_lost_make_no_second_task(service: Service) -> None:
    service.odd = {1: hang_up, 2: refused(503, "storage_unavailable"), 5: hang_up, 6: answer("", 504)}
    run(service, *["finished"] * 4)
    assert len(service.tasks) == 4
    assert service.calls["submit"] == 8


def test_a_full_server_is_waited_for_by_one_at_a_time(service: Service) -> None:
    service.room, service.looks = 2, 3
    said = run(service, *["finished"] * 8, options="--max-active 8")
    assert service.most == 2
    assert said.count("no more than 2; waiting") == 1
    # Each round of looks at the active ones leaves time for few submissions, however many rows wait.
    assert service.calls["submit"] <= 8 + 4 * service.calls["list"]


def test_few_requests_follow_many_tasks(service: Service) -> None:
    service.looks = 20
    run(service, *["finished"] * 60, options="--max-active 60")
    assert service.calls["list"] <= 21 + 60
    assert service.calls["status"] == service.calls["submit"] == 60


def test_passing_errors_are_tried_again_and_never_too_often(service: Service) -> None:
    rows = ("sandbox_error", "agent_failed", "finished")
    run(service, *rows, options="--retries 2", code=ExitCode.TASK_FAILED)
    assert {row: one["attempts"] for row, one in results().items()} == {1: 3, 2: 1, 3: 1}
    assert results()[1]["usage"] == {"model_calls": 3, "input_tokens": 15, "output_tokens": 3}
    assert len(service.tasks) == 5
    # A result that a crash took away is found again: nothing is tried once more.
    before = results()
    Path("out.jsonl").write_text("")
    run(service, *rows, options="--retries 2", code=ExitCode.TASK_FAILED)
    assert results() == before
    assert len(service.tasks) == 5


def test_the_codes_to_try_again_are_the_user_s(service: Service) -> None:
    rows = ("sandbox_error", "agent_failed")
    run(service, *rows, options="--retries 1 --retry-on agent_failed,timeout", code=ExitCode.TASK_FAILED)
    assert {row: one["attempts"] for row, one in results().items()} == {1: 1, 2: 2}
    said = run(service, *rows, options="--retry-on agent_faild", code=ExitCode.USAGE)
    assert "agent_faild is none of agent_failed" in said


def test_a_row_that_is_refused_is_a_result(service: Service) -> None:
    service.odd = {3: refused(404, "task_not_found")}
    run(service, "finished", "invalid_request", "finished", code=ExitCode.TASK_FAILED)
    assert codes() == {1: None, 2: "invalid_request", 3: "task_not_found"}
    assert (results()[2]["task_id"], results()[2]["attempts"]) == (None, 0)


def test_a_task_that_is_gone_is_a_result(service: Service) -> None:
    service.odd = {1: answer({"success": True, "task_id": "gone"})}
    run(service, "finished", "finished", code=ExitCode.TASK_FAILED)
    assert codes() == {1: "task_not_found", 2: None}


@pytest.mark.parametrize(
    ("strange", "code"),
    [
        (refused(401, "unauthenticated"), ExitCode.FAILED),
        (refused(403, "forbidden"), ExitCode.FAILED),
        (refused(500, "internal"), ExitCode.FAILED),
        (refused(400, "missing_credentials"), ExitCode.FAILED),
        (answer("<html>", 404, "text/html"), ExitCode.FAILED),
        (answer("<html>", 200, "text/html"), ExitCode.FAILED),
    ],
)
def test_what_is_no_fault_of_a_row_ends_the_command_which_can_go_on(
    service: Service, strange: Answer, code: ExitCode
) -> None:
    rows = ["finished"] * 9
    service.odd = {5: strange}
    said = run(service, *rows, options="--max-active 2", code=code)
    assert "The same command goes on from here." in said
    assert set(codes().values()) <= {None}
    assert len(results()) < 9
    run(service, *rows)
    assert codes() == dict.fromkeys(range(1, 10))
    assert len(service.tasks) == 9


def test_nothing_is_begun_with_a_server_that_is_not_there(service: Service) -> None:
    service.script.answers = [refused(401, "unauthenticated", "no key")]
    assert "no key" in run(service, "finished", code=ExitCode.FAILED)
    assert sorted(os.listdir()) == ["jobs.jsonl"]


def test_what_is_done_needs_no_server(service: Service) -> None:
    run(service, "finished", "finished")
    before = service.calls.total()
    told = json.loads(run(service, "finished", "finished", options="--json"))
    assert (told["done"], told["left"], told["failed"], told["results"]) == (2, 0, 0, "out.jsonl")
    assert service.calls.total() == before


def test_the_same_rows_run_again_under_a_new_name_and_not_under_the_old_one(service: Service) -> None:
    for options, tasks in (("--name a", 2), ("--name a", 2), ("--name b", 4), ("", 6), ("", 8)):
        run(service, "finished", "finished", options=options)
        assert len(service.tasks) == tasks
        os.unlink("out.jsonl")


def test_a_batch_is_not_renamed(service: Service) -> None:
    run(service, "finished", options="--name a")
    said = run(service, "finished", options="--name b", code=ExitCode.FAILED)
    assert "these are the results of a: choose another --out for b" in said


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--set steps=3", "write it FIELD=VALUE"),
        ("--set max_steps", "write it FIELD=VALUE"),
        ("--set instruction.x=y", "write it FIELD=VALUE"),
        ("--set model=x --set model.name=y", "model must be an object"),
        ("--label x", "write it NAME=VALUE"),
        ("--template {", "brace without a column"),
        ("--template {a} --template-file jobs.jsonl", "say one of"),
        ("--max-active 501", "less than or equal to 500"),
    ],
)
def test_wrong_usage(service: Service, options: str, problem: str) -> None:
    said = run(service, "finished", options=options, code=ExitCode.USAGE)
    assert problem in " ".join(said.replace("│", " ").split())
    assert sorted(os.listdir()) == ["jobs.jsonl"]


@pytest.mark.parametrize("given", [["no.jsonl"], ["."], ["jobs.txt"]])
def test_a_file_that_can_t_be_opened_is_wrong_usage(given: list[str]) -> None:
    result = CliRunner().invoke(make_app(), ["batch", *given, "--out", "out.jsonl"])
    assert result.exit_code == ExitCode.USAGE


def test_the_page_tells_of_every_option_and_of_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()
    shown = CliRunner().invoke(make_app(), ["batch", "--help"], env={"COLUMNS": "200"}).output
    options = r"(?<![\w-])--[a-z][a-z-]+"
    foreign = {"--slurpfile", "--help"}
    assert set(re.findall(options, page)) - foreign == set(re.findall(options, shown)) - foreign
    assert set(Result.model_fields) <= set(re.findall(r"`(\w+)`", page))


# What a process took before it became the command counts as well: so it is begun by a small one.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_rows(service: Service, tmp_path: Path) -> None:
    peaks = []
    row = json.dumps({"instruction": "finished", "padding": "x" * 1000}) + "\n"
    for rows in (100, 10_000):
        file = tmp_path / f"{rows}.jsonl"
        file.write_text(row * rows)
        command = [COMMAND, "batch", file, "--out", f"{file}.out", "--max-active", "200"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *command, "--url", service.script.url],
            capture_output=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 8, f"MiB at 100 and at 10,000 rows: {peaks}"
