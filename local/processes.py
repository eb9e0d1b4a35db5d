"""Child processes: started directly, waited for, stopped with all that they started; none outlives us.

On Linux the kernel itself signals a child when its parent dies, kill -9 included. That is tied to the
thread which started the child: start children from the main thread.
"""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import IO, ClassVar
from urllib.parse import urlsplit

from shared.errors import GuiAgentError

POLL_SECONDS = 0.05
TAIL_LINES = 15
TAIL_BYTES = 16_384
PR_SET_PDEATHSIG = 1

Condition = Callable[[], bool]


class ProcessFailed(GuiAgentError):
    """A child died, or did not get ready in time. The message ends with the last lines that it wrote."""

    code: ClassVar[str] = "process_failed"


@dataclass(frozen=True)
class User:
    """Whom a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run, where, as whom, what it reads; `death_signal` is what it gets when we die (Linux)."""

    name: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    cwd: Path = Path("/")
    stdin: bytes = field(default=b"", repr=False)  # where a password stands in no process list
    user: User | None = None
    death_signal: Signals = signal.SIGKILL
    pass_fds: Sequence[int] = ()


class Child:
    """A running program, in a process group of its own. What it writes goes to the end of its log file."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.log = program.log
        self.log_start = _size(program.log)
        with program.log.open("ab") as output, _input(program) as stdin:
            self._process = _spawn(program, stdin, output)

    @property
    def pid(self) -> int:
        """The process id; the process group has the same."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.poll()

    def wait_until(self, ready: Condition, seconds: float) -> None:
        """Returns once the condition holds. Raises `ProcessFailed` if the child dies or runs out of time."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessFailed(self._report(f"did not get ready within {seconds:g} s"))
            time.sleep(POLL_SECONDS)

    def wait_for_line(self, beginning: str, seconds: float) -> str:
        """The rest of the line that begins so, once the child has written it. Raises as `wait_until` does."""
        found: list[str] = []

        def written() -> bool:
            found[:] = [line for line in self.tail() if line.startswith(beginning)]
            return bool(found)

        self.wait_until(written, seconds)
        return found[0].removeprefix(beginning).strip()

    def wait_done(self, seconds: float) -> None:
        """Waits for the end of a child that has one. Raises `ProcessFailed` unless it succeeds in time."""
        try:
            in_time = self.wait_gone(seconds)
        finally:
            self.kill()  # it took too long, or we were interrupted
        if not in_time:
            raise ProcessFailed(self._report(f"did not end within {seconds:g} s"))
        if self.exit_code:
            self.check()

    def check(self) -> None:
        """Raises `ProcessFailed` if the child is dead."""
        if self.exit_code is not None:
            raise ProcessFailed(self._report(f"stopped with {ending(self.exit_code)}"))

    def stop(self, with_signal: Signals = signal.SIGTERM, grace: float = 10) -> None:
        """Asks the child to end, and ends it and its whole group after the grace."""
        stop_all([self], with_signal, grace)

    def send(self, with_signal: Signals) -> None:
        """Signals the child alone; nothing happens if it is dead."""
        if self.exit_code is None:
            self._process.send_signal(with_signal)

    def wait_gone(self, seconds: float) -> bool:
        """Whether the child has ended by then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0, seconds))
        return self.exit_code is not None

    def kill(self) -> None:
        """Ends the child and its group at once."""
        with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> list[str]:
        """The last lines that it wrote."""
        with self.log.open("rb") as log:
            log.seek(max(self.log_start, _size(self.log) - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]

    def trim_log(self, limit: int) -> None:
        """Begins the log anew once it is larger than so many bytes."""
        if _size(self.log) > limit:
            os.truncate(self.log, 0)
            self.log_start = 0

    def _report(self, what: str) -> str:
        lines = [f"{self.name} {what}", *(f"  {line}" for line in self.tail())]
        return "\n".join(lines)


def stop_all(children: Iterable[Child], with_signal: Signals = signal.SIGTERM, grace: float = 10) -> None:
    """Stops the children at the same time, within one grace for all of them."""
    children = list(children)
    deadline = time.monotonic() + grace
    for child in children:
        child.send(with_signal)
    for child in children:
        child.wait_gone(deadline - time.monotonic())
        child.kill()  # whatever is left of its group, even if the child itself ended well


def ending(exit_code: int) -> str:
    """How a child ended, in words."""
    return f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"


def answers_200(url: str) -> Condition:
    """The condition that a GET of the http URL succeeds. No proxy is asked."""
    parts = urlsplit(url)

    def ready() -> bool:
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        try:
            connection.request("GET", parts.path or "/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listened on just now; somebody else may take it first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Whether there is such a process, anybody's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _input(program: Program) -> Iterator[IO[bytes] | int]:
    """What the program reads, as a file that only its user can open: no pipe, which none but we could."""
    if not program.stdin:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(program.stdin)
        file.seek(0)
        if program.user is not None:
            os.fchown(file.fileno(), program.user.uid, program.user.gid)
        yield file


def _spawn(program: Program, stdin: IO[bytes] | int, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    uid, gid = (program.user.uid, program.user.gid) if program.user else (None, None)
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside other threads: what runs before exec takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            program.argv,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=program.cwd,
            env=dict(program.environment),
            process_group=0,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else (),
            pass_fds=program.pass_fds,
            preexec_fn=_die_with_parent(program.death_signal),  # noqa: PLW1509 - see above
        )


def _die_with_parent(death_signal: Signals) -> Callable[[], None] | None:
    """What a child does before it becomes the program: have itself signalled when we die."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: the child may do next to nothing between fork and exec
    parent = os.getpid()

    def before_exec() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # we died before the call above, so the signal will never come
            os.kill(os.getpid(), signal.SIGKILL)

    return before_exec


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
