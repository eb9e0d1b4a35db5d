"""`lybic-guiagent up`: from one command to a running service, and back to nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from local.demo import isolated
from local.folders import Folder, remove_abandoned
from local.stack import Plan
from local.up import JsonScreen
from tests.conftest import wait_until

COMMAND = Path(sys.executable).with_name("lybic-guiagent")
# Nobody listens there: these tests are about processes, and a task may wait.
ELSEWHERE = {
    "LYBIC_API_KEY": "key-of-nobody",
    "LYBIC_ORG_ID": "org",
    "LYBIC_API_ENDPOINT": "http://127.0.0.1:9",
    "ARK_API_KEY": "key-of-nobody",
    "ARK_API_ENDPOINT": "http://127.0.0.1:9",
}
CHILDREN = {
    "PostgreSQL": rb"/postgres\0-D",
    "Valkey": rb"/(valkey|redis)-server",
    "sandbox": rb"\0local.sandbox\0",
    "model": rb"\0local.model\0",
    "worker1": rb"\0worker.app\0worker\0",
    "api": rb"\0gunicorn\0",
    "flower": rb"\0worker.app\0flower\0",
}

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


class Up:
    """A running `up`, as a user at a terminal sees it."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.output = folder / f"output-{len(list(folder.glob('output-*')))}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [COMMAND, "up", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**isolated(os.environ), "TMPDIR": str(folder), **environment},
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        found = re.search(r"^API +(\S+)$", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    def ready(self) -> "Up":
        wait_until(lambda: "Ready." in self.said or self.process.poll() is not None, 60)
        assert "Ready." in self.said, self.said
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def descendants(self) -> list[int]:
        """The ids of all processes that it started, and they."""
        children = by_parent()
        found, waiting = [], [self.process.pid]
        while waiting:
            waiting += (new := children.get(waiting.pop(), []))
            found += new
        return found

    def children(self) -> dict[str, int]:
        """The ids of the processes that it looks after, by their names."""
        commands = {pid: command(pid) for pid in by_parent().get(self.process.pid, [])}
        return {
            name: pid
            for name, words in CHILDREN.items()
            for pid, shown in commands.items()
            if re.search(words, shown)
        }

    def has_again(self, name: str, before: int, ports: set[int]) -> bool:
        """Whether a new process does what the one before did, on the same ports."""
        pid = self.children().get(name, before)
        return pid != before and listening(pid) == ports

    def submit(self, instruction: str) -> str:
        return str(request(f"{self.url}/api/agent/task/submit", {"instruction": instruction})["task_id"])

    def status(self, task: str) -> dict[str, Any]:
        return request(f"{self.url}/api/agent/task/status/{task}")

    def finish(self, instruction: str) -> str:
        """A task that is done."""
        task = self.submit(instruction)
        wait_until(lambda: self.status(task)["status"] == "finished", 60)
        return task


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*options: str, **environment: str) -> Up:
        started.append(Up(tmp_path, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def request(url: str | urllib.request.Request, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def answers(url: str) -> bool:
    with suppress(OSError):
        return bool(request(url))
    return False


def by_parent() -> dict[int, list[int]]:
    """The ids of all processes, by that of their parent."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    return children


def command(pid: int) -> bytes:
    """What the process runs; nothing if it ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def listening(pid: int) -> set[int]:
    """The ports on which the process listens."""
    sockets = set()
    with suppress(OSError):  # files come and go
        for file in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(str(file.readlink()))
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = [row[1] for row in table if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return {int(address.rpartition(":")[2], 16) for address in own}


def working_in(folder: Path) -> list[bytes]:
    """What runs in the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if str(place.readlink()).startswith(str(folder)):
                found.append(command(int(place.parent.name)))
    return found


def gone(pid: int) -> bool:
    """Whether the process ended; it may wait for init to take note of that."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def all_gone(pids: list[int]) -> bool:
    return all(map(gone, pids))


def temporary_folders(folder: Path) -> list[Path]:
    return list(folder.glob("lybic-guiagent-*"))


@pytest.mark.long
def test_everything_runs_until_sigterm_and_nothing_is_left(tmp_path: Path, up: Callable[..., Up]) -> None:
    one = up("--port", "0", "--flower-port", "0", "--workers", "2").ready()
    assert "simulated" in one.said
    assert "scripted" in one.said
    assert "throw-away" in one.said
    assert request(f"{one.url}/api/health") == {"status": "ok"}
    flower = re.search(r"^Flower +(\S+)$", one.said, re.MULTILINE)
    assert flower
    with urllib.request.urlopen(f"{flower[1]}/healthcheck", timeout=10) as answer:
        assert answer.status == 200

    pids = one.descendants()
    shown = b"\0".join(map(command, pids))
    assert shown.count(b"worker.app\0worker") == 2
    [folder] = temporary_folders(tmp_path)
    for secret in (folder / "credentials.key", folder / "postgres" / "password"):
        assert secret.read_bytes() not in shown

    one.signal(signal.SIGTERM)
    assert one.exit_code() == 0, one.said
    assert all_gone(pids)
    assert temporary_folders(tmp_path) == []


@pytest.mark.long
def test_kept_state_outlives_kill_9_and_ends_with_fresh(tmp_path: Path, up: Callable[..., Up]) -> None:
    options = ("--port", "0", "--no-flower", "--state-dir", str(tmp_path / "state"))
    one = up(*options, **ELSEWHERE).ready()
    assert f"kept in {tmp_path / 'state'}" in one.said
    task = one.submit("wait for better times")

    other = up(*options, **ELSEWHERE)
    assert other.exit_code() == 1
    assert f"in use by process {one.process.pid}" in other.said

    pids = one.descendants()
    one.signal(signal.SIGKILL)
    one.exit_code()
    wait_until(lambda: all_gone(pids), 10)

    one = up(*options, **ELSEWHERE).ready()
    assert one.status(task)["query"] == "wait for better times"
    one.signal(signal.SIGINT)
    assert one.exit_code() == 0, one.said

    one = up(*options, "--fresh", **ELSEWHERE).ready()
    with pytest.raises(HTTPError, match="404"):
        one.status(task)
    one.signal(signal.SIGTERM)
    assert one.exit_code() == 0, one.said


@pytest.mark.long
def test_whatever_dies_is_started_again_until_sigterm(tmp_path: Path, up: Callable[..., Up]) -> None:
    one = up("--port", "0", "--flower-port", "0", AGENT_SETTLE_SECONDS="0").ready()
    task = one.finish("Open notepad and type Hello World")
    before = one.children()
    assert before.keys() == CHILDREN.keys()
    ports = {name: listening(pid) for name, pid in before.items()}
    assert [name for name in ports if not ports[name]] == ["worker1"]

    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in before.items():
        wait_until(partial(one.has_again, name, pid, ports[name]))
        assert f"\n{name:<10} died with signal 9, starting again in 0.2 s\n" in one.said
    wait_until(lambda: answers(f"{one.url}/api/ready"))
    assert one.status(task)["status"] == "finished", "the throw-away database keeps what was committed"
    one.finish("Open notepad and type that all is well")

    for name in ("PostgreSQL", "worker1"):
        os.kill(one.children()[name], signal.SIGKILL)
    wait_until(lambda: one.said.count("starting again") >= len(CHILDREN) + 2)
    one.signal(signal.SIGTERM)  # in the midst of starting them again
    assert one.exit_code() == 0, one.said
    assert working_in(tmp_path) == []
    assert temporary_folders(tmp_path) == []


def test_killed_throwaway_leaves_a_folder_that_the_next_one_removes(
    tmp_path: Path, up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = up("--port", "0", "--no-flower", **ELSEWHERE)
    wait_until(lambda: "Redis" in one.said)  # in the midst of starting
    pids = one.descendants()
    assert pids
    one.signal(signal.SIGKILL)
    one.exit_code()
    wait_until(lambda: all_gone(pids), 10)
    [left] = temporary_folders(tmp_path)
    os.utime(left / Folder.MARK, (0, 0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remove_abandoned()
    assert temporary_folders(tmp_path) == []


@pytest.mark.parametrize("option", ["--port", "--flower-port", "--metrics-port"])
def test_taken_port_is_named_and_nothing_starts(tmp_path: Path, up: Callable[..., Up], option: str) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        port = rival.getsockname()[1]
        one = up("--port", "0", "--flower-port", "0", option, str(port))
        assert one.exit_code() == 1
    assert f"port {port} on 127.0.0.1 is in use" in one.said
    assert option in one.said
    assert "Traceback" not in one.said
    assert temporary_folders(tmp_path) == []


def test_programs_read_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = JsonScreen()
    screen.warn("mind this")
    screen.ready(Plan(environment={}, port=5001, flower_port=5556), tmp_path)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in said] == ["Warning", "Logs", "Flower", "API", "Playground", "ready"]
    assert said[-1]["text"] == "http://127.0.0.1:5001"


def test_the_port_may_stand_in_a_file_of_settings(tmp_path: Path, up: Callable[..., Up]) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        port = rival.getsockname()[1]
        (tmp_path / ".env").write_text(f"API_HOST=localhost\nAPI_PORT={port}\n")
        one = up("--flower-port", "0")
        assert one.exit_code() == 1
    assert f"port {port} on localhost is in use" in one.said


def test_bad_setting_is_named_without_its_value(up: Callable[..., Up]) -> None:
    one = up("--port", "0", LOG_LEVEL="secret-level")
    assert one.exit_code() == 1
    assert "LOG_LEVEL" in one.said
    assert "secret-level" not in one.said
    assert "Traceback" not in one.said


def test_on_a_network_a_throwaway_database_is_refused_for_want_of_keys(
    tmp_path: Path, up: Callable[..., Up]
) -> None:
    one = up("--host", "0.0.0.0", "--port", "0", "--no-flower")
    assert one.exit_code() == 1
    assert "0.0.0.0" in one.said
    assert "--state-dir" in one.said
    assert "Traceback" not in one.said
    assert temporary_folders(tmp_path) == []


@pytest.mark.long
def test_a_kept_database_opens_only_to_its_keys(tmp_path: Path, up: Callable[..., Up]) -> None:
    state_dir = ("--state-dir", str(tmp_path / "state"))
    key = subprocess.run(
        [COMMAND, "keys", "create", "alice", *state_dir],
        cwd=tmp_path,
        env=isolated(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    one = up("--port", "0", "--no-flower", *state_dir, API_KEYS="required", **ELSEWHERE).ready()
    url = f"{one.url}/api/agent/tasks"
    with pytest.raises(HTTPError, match="401"):
        request(url)
    assert request(urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"}))["count"] == 0
    logs = "".join(log.read_text() for log in (tmp_path / "state" / "logs").iterdir())
    assert key not in f"{one.said}{logs}"
    one.signal(signal.SIGTERM)
    assert one.exit_code() == 0, one.said


@pytest.mark.long
def test_demo_types_into_the_simulated_notepad_and_writes_a_note_on_the_phone(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "demo"],
        cwd=tmp_path,
        env={**os.environ, **ELSEWHERE, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the notepad on the simulated desktop holds 'Hello World" in done.stdout
    assert "the newest note on the simulated phone holds 'Hello World" in done.stdout
    for sheet in ("demo-screens.png", "demo-screens-phone.png"):
        assert (tmp_path / sheet).read_bytes().startswith(b"\x89PNG")
    assert temporary_folders(tmp_path) == []
