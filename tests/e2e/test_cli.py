"""The command line at a terminal, in pipes and in scripts, against the real system."""

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import make_app
from client.commands import Status
from client.exits import ExitCode
from shared.states import JobStatus
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.scripted import answer, event, hang_up, refused, scripted, stream

# Ctrl-C is for the process whose terminal it is.
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
COMMAND = str(Path(sys.executable).with_name("lybic-guiagent"))
HANG = "script> click(point='<point>5 5</point>')\nscript> hang 60\nscript> wait()"
LOGIN = "script> call_user(content='Please log in.')\nscript> finished(content='Thank you')"
CLICKS = "script> repeat 3 click(point='<point>{i} 5</point>')\nscript> finished(content='All clicked')"
HOSTILE = "\x1b[2J\x07[bold]loud[/bold] \u202egnp \x9b31m 雪"
HARMLESS = "�[2J�[bold]loud[/bold] �gnp �31m 雪"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture(autouse=True)
def _surroundings(system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LYBIC_GUIAGENT_URL", system.stack.plan.url)
    for name in "LYBIC_GUIAGENT_API_KEY", "FORCE_COLOR", "NO_COLOR":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def command(*arguments: str, stdin: str = "", code: ExitCode = ExitCode.DONE) -> str:
    """What the command writes into a pipe, run in this process."""
    result = CliRunner().invoke(make_app(), arguments, input=stdin)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return str(result.stdout)


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class Terminal:
    """The command as a process at a terminal of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._end, inside = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, COMMAND, *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
            start_new_session=True,
        )
        os.close(inside)
        self._raw = b""

    @property
    def shown(self) -> str:
        return self._raw.decode(errors="replace")

    def expect(self, text: str) -> None:
        """Returns once this is shown."""
        wait_until(lambda: self._read() and text in self.shown, 60)

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def exit_code(self) -> int:
        wait_until(lambda: not self._read(), 60)
        return self._process.wait(60)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._end)

    def _read(self) -> bool:
        """Takes what there is; whether there may be more."""
        if select.select([self._end], [], [], 0.05)[0]:
            try:
                piece = os.read(self._end, 65536)
            except OSError:  # the other end is closed
                return False
            self._raw += piece
        return True


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


# --- at a terminal --------------------------------------------------------------------------------------


def test_a_task_is_watched_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("run", CLICKS)
    assert screen.exit_code() == ExitCode.DONE
    assert re.search(r"step 2 .*\x1b\[36m▸ click\(point='<point>2 5</point>'\)", screen.shown)
    assert re.search(r"finished .*\x1b\[1;32mAll clicked", screen.shown)
    assert "\x1b[?25l" in screen.shown  # something moves at the bottom,
    assert screen.shown.rindex("\x1b[?25h") > screen.shown.rindex("\x1b[?25l")  # and the cursor comes back


def test_a_human_is_asked_at_a_terminal(system: System, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("run", LOGIN, NO_COLOR="1")
    screen.expect("tell the model more")
    assert "Please log in." in screen.shown
    screen.type("I have logged in\n")
    assert screen.exit_code() == ExitCode.DONE
    assert "Thank you" in screen.shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", screen.shown)
    (task_id,) = set(re.findall(r"Task ([0-9a-f-]{36})", screen.shown))
    told = [event["content"] for event in system.events(task_id) if event.get("resumed")]
    assert told == ["I have logged in"]
    # Who watches it later is not asked again.
    assert command("watch", task_id).splitlines()[-1].endswith("Thank you")


def test_ctrl_c_leaves_a_task_or_cancels_it(system: System, terminal: Callable[..., Terminal]) -> None:
    for options, status in ((), "running"), (("--cancel-on-interrupt",), "cancelled"):
        screen = terminal("run", HANG, *options)
        screen.expect("step 1")
        screen.type("\x03")
        assert screen.exit_code() == ExitCode.INTERRUPTED
        task_id = re.findall(r"Task ([0-9a-f-]{36})", screen.shown)[0]
        assert system.wait(task_id, status)["status"] == status
        assert (f"lybic-guiagent watch {task_id}" in screen.shown) is (status == "running")
        assert "Traceback" not in screen.shown
        command("cancel", task_id)


# --- in pipes and scripts -------------------------------------------------------------------------------


def test_in_a_pipe_each_event_is_a_plain_line_or_its_own_json(system: System) -> None:
    done = subprocess.run([COMMAND, "run", CLICKS], capture_output=True, text=True, check=True)
    first, *lines = done.stdout.splitlines()
    task_id = first.removeprefix("Task ")
    events = [event for event in system.events(task_id) if event["type"] != "observation"]
    assert len(lines) == len(events)
    assert all(re.fullmatch(r" +\d+\.\d s  (step \d+|status|finished) +\S.*", line) for line in lines)
    assert done.stderr == ""
    assert documents(command("watch", task_id, "--json", "--after", "3")) == system.events(task_id, after=3)


def test_a_task_that_fails_is_cancelled_or_needs_help_is_told_by_the_exit_code(system: System) -> None:
    command("run", CLICKS, "--max-steps", "1", code=ExitCode.TASK_FAILED)
    task_id = command("submit", HANG).strip()
    system.wait(task_id, "running")
    assert "is yours" in command("takeover", task_id)
    command("watch", task_id, code=ExitCode.NEEDS_HUMAN)
    assert documents(command("cancel", task_id, "--json"))[0]["status"] == "cancelled"
    command("watch", task_id, code=ExitCode.CANCELLED)
    *_, last = documents(command("run", LOGIN, "--json", code=ExitCode.NEEDS_HUMAN))
    assert last["type"] == "human_intervention"
    assert "goes on" in command("resume", last["task_id"])
    assert (
        command("watch", last["task_id"], "--after", str(last["seq"])).splitlines()[-1].endswith("Thank you")
    )
    (status,) = documents(command("submit", LOGIN, "--wait", "--json", code=ExitCode.NEEDS_HUMAN))
    assert status["status"] == "human_intervention"
    command("cancel", status["task_id"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("status", "no-such-task"), ExitCode.FAILED),
        (("resume", "no-such-task"), ExitCode.FAILED),
        (("takeover", "no-such-task"), ExitCode.FAILED),
        (("submit", " "), ExitCode.FAILED),
        (("submit", "x", "--label", "nameless"), ExitCode.USAGE),
        (("submit", "x", "--priority", "10"), ExitCode.USAGE),
        (("submit", "\udcff"), ExitCode.USAGE),
        (("cancel",), ExitCode.USAGE),
        (("cancel", "x", "--all"), ExitCode.USAGE),
        (("list", "--status", "lost"), ExitCode.USAGE),
        (("list", "--url", "localhost:5000"), ExitCode.USAGE),
        (("no-such-command",), ExitCode.USAGE),
    ],
)
def test_what_goes_wrong_is_told_by_the_exit_code(arguments: tuple[str, ...], code: ExitCode) -> None:
    command(*arguments, code=code)


def test_a_server_that_is_not_there_has_an_exit_code_of_its_own() -> None:
    with scripted() as server:
        for gone in hang_up, answer("<h1>Bad Gateway</h1>", 502, "text/html", Retry_After="3600"):
            server.answers = [gone]
            told = command("resume", "x", "--json", "--url", server.url, code=ExitCode.UNREACHABLE)
            assert documents(told)[0]["error"]["code"] in ("connection_failed", "http_502")


def test_an_error_is_told_in_json_where_json_is_wanted(system: System) -> None:
    (told,) = documents(command("status", "no-such-task", "--json", code=ExitCode.FAILED))
    body = system.http.get("/api/agent/task/status/no-such-task").json()
    assert told == {name: body[name] for name in ("success", "error")} | {"request_id": told["request_id"]}


def test_the_text_of_others_can_do_nothing_to_a_terminal(terminal: Callable[..., Terminal]) -> None:
    task = {"task_id": "t", "status": "finished", "query": HOSTILE, "finished_output": HOSTILE}
    step = {"number": 1, "run": 1, "status": "done", "raw": HOSTILE}
    watched = [
        answer(task),
        stream(event(1, "thinking", content=HOSTILE), event(2, "finished", output="Bye")),
    ]
    with scripted() as server:
        to_it = ("--url", server.url)
        for arguments, answers in (
            (("status", "t"), [answer(task)]),
            (("list",), [answer({"tasks": [{**task, "status": HOSTILE}], "next_cursor": None})]),
            (("steps", "t"), [answer({"steps": [step], "next_after": None})]),
            (("submit", "x"), [answer({"task_id": HOSTILE})]),
            (("cancel", "t"), [answer({"message": HOSTILE})]),
            (("watch", "t"), list(watched)),
        ):
            server.answers = answers
            shown = command(*arguments, *to_it)
            assert HARMLESS in shown
            assert not UNSAFE.search(shown)
        server.answers = [answer(task)]
        as_json = command("status", "t", "--json", *to_it)
        assert as_json.removesuffix("\n").isprintable()
        assert documents(as_json) == [task]
        server.answers = watched
        screen = terminal("watch", "t", *to_it)
        assert screen.exit_code() == ExitCode.DONE
        server.answers = [refused(404, "task_not_found", HOSTILE)]
        refusal = terminal("status", "t", *to_it)
        assert refusal.exit_code() == ExitCode.FAILED
    for one in screen, refusal:
        assert HARMLESS in one.shown
        assert not re.search("\x1b\\[2J|\x07|\u202e|\x9b", one.shown)


# --- the other commands ---------------------------------------------------------------------------------


def test_the_options_are_the_fields_of_the_request(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "LYBIC_API_KEY", "LYBIC_ORG_ID", "ARK_API_KEY", "LYBIC_GUIAGENT_WEBHOOK_SECRET":
        monkeypatch.setenv(name, f"secret-{name}")
    given = "--sandbox-id S --no-keep-sandbox --continue T --max-steps 3 --timeout 60 --max-model-calls 4"
    given += " --max-tokens 5 --model M --language en --system-prompt P --use-memory --priority 7"
    given += " --label a=1 --label b=x=y --webhook-url https://w --own-credentials --idempotency-key K"
    with scripted() as server:
        server.answers = [answer({"success": True, "task_id": "t"})]
        assert documents(command("submit", "Do it", *given.split(), "--url", server.url, "--json")) == [
            {"task_id": "t"}
        ]
        command("submit", "Do it", "--url", server.url)
        full, bare = server.requests
    assert full.body == {
        "instruction": "Do it",
        "sandbox_id": "S",
        "keep_sandbox": False,
        "continue_context": True,
        "task_id": "T",
        "max_steps": 3,
        "timeout_seconds": 60,
        "max_model_calls": 4,
        "max_tokens": 5,
        "model": {"name": "M"},
        "language": "en",
        "user_system_prompt": "P",
        "use_memory": True,
        "priority": 7,
        "metadata": {"a": "1", "b": "x=y"},
        "webhook_url": "https://w",
        "webhook_secret": "secret-LYBIC_GUIAGENT_WEBHOOK_SECRET",
        "authentication": {"api_key": "secret-LYBIC_API_KEY", "org_id": "secret-LYBIC_ORG_ID"},
        "ark_apikey": "secret-ARK_API_KEY",
    }
    assert full.headers["idempotency-key"] == "K"
    assert bare.body == {"instruction": "Do it"}


def test_tasks_are_listed_shown_and_reported(system: System) -> None:
    label = ("--label", "test=cli")
    (done,) = documents(command("submit", CLICKS, *label, "--wait", "--json"))
    task_id = done["task_id"]
    (row,) = command("list", *label, "--status", "finished").splitlines()
    assert row.split("\t")[:2] == [task_id, "finished"]
    assert command("list", *label, "--active") == ""
    assert command("list", "--search", task_id[:13]) == f"{row}\n"
    assert [one["task_id"] for one in documents(command("list", *label, "--json"))] == [task_id]
    shown = dict(line.split("\t", 1) for line in command("status", task_id).splitlines())
    assert (shown["Answer"], shown["Labels"], shown["Steps"]) == (
        "All clicked",
        "test=cli",
        "4 of at most 50",
    )
    assert "llm_context" not in documents(command("status", task_id, "--json"))[0]
    assert "llm_context" in documents(command("status", task_id, "--json", "--context"))[0]
    assert [row.split("\t")[1] for row in command("steps", task_id).splitlines()] == ["done"] * 4
    assert command("report", task_id) == f"{task_id}.html\n"
    assert Path(f"{task_id}.html").read_text(encoding="utf-8") == command("report", task_id, "--out", "-")
    sandbox_id = command("sandbox", "--life", "600").strip()
    assert system.desktop(sandbox_id)
    assert "Workers\tok" in command("info")


def test_the_statuses_are_those_of_the_server() -> None:
    assert [status.value for status in Status] == [status.value for status in JobStatus]


# --- starting -------------------------------------------------------------------------------------------


def test_help_tells_of_all_commands() -> None:
    shown = command("--help")
    names = re.findall(r"^│ ([a-z]+) +\S", shown, re.MULTILINE)
    assert {"batch", "cancel", "run", "status", "submit", "demo", "keys", "up"} <= set(names)
    assert all(f"{code.value:>3}  {code.meaning}" in shown for code in ExitCode)
    assert "LYBIC_GUIAGENT_API_KEY" in shown


def test_it_starts_fast_and_loads_no_server(system: System) -> None:
    task_id = system.submit("Open calculator")
    script = (
        "import json, sys, time; from client.cli import make_app; make_app()(standalone_mode=False); "
        "names = {name.partition('.')[0] for name in sys.modules}; "
        "print(json.dumps([time.process_time(), *sorted(names)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, "status", task_id], capture_output=True, check=True)
    seconds, *loaded = json.loads(done.stderr)
    assert "client" in loaded
    ours = {"api", "local", "migrations", "shared", "worker"}
    heavy = {
        "alembic",
        "celery",
        "flask",
        "gevent",
        "lybic",
        "openai",
        "pydantic_settings",
        "redis",
        "sqlalchemy",
    }
    assert not (ours | heavy) & set(loaded)
    assert seconds < 1.5  # 0.3 where nothing else runs


def test_a_command_whose_packages_are_not_installed_says_so() -> None:
    script = "import sys; sys.modules['sqlalchemy'] = None; from client.cli import main; main()"
    command = [sys.executable, "-c", script, "keys", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert (
        done.stderr
        == "`keys` needs sqlalchemy, which is not installed: pip install 'lybic-guiagent[local]'\n"
    )


@pytest.mark.long
def test_shells_complete_commands_options_and_tasks(system: System, tmp_path: Path) -> None:
    task_id = system.submit(f"Open calculator {HOSTILE} $(touch pwned) \\$(touch pwned)")
    script = f"""
        PATH={Path(COMMAND).parent}:$PATH
        eval "$(lybic-guiagent --show-completion)"
        complete_line() {{
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _lybic_guiagent_completion lybic-guiagent
            echo "${{COMPREPLY[*]}}"
        }}
        complete_line lybic-guiagent st
        complete_line lybic-guiagent submit --max-s
        complete_line lybic-guiagent keys cr
        complete_line lybic-guiagent watch {task_id[:8]}
        _arguments() {{  # zsh's own evaluates the list once more
            local list=${{1#*((}}
            eval "found=( ${{list%))}} )"
            echo "${{found[*]}}"
        }}
        export _TYPER_COMPLETE_ARGS="lybic-guiagent watch "
        eval $(_LYBIC_GUIAGENT_COMPLETE=complete_zsh lybic-guiagent)
    """
    bash = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    *lines, zsh = bash.stdout.splitlines()[:5]
    assert lines == ["status steps", "--max-steps", "create", task_id], bash.stderr
    assert task_id in zsh
    assert not list(tmp_path.iterdir())  # nothing was carried out
