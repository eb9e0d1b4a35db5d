"""PostgreSQL and Valkey of our own: real servers on the loopback address, each with a folder of its own."""

import os
import pwd
import secrets
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import Self

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

from local.binaries import PostgresSoftware, valkey_binary
from local.folders import Folder, keep_secret
from local.processes import POLL_SECONDS, Child, ProcessFailed, Program, User, free_port, is_alive
from shared.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
START_SECONDS = 60  # after a crash PostgreSQL replays its log first
INIT_SECONDS = 120
ATTEMPTS = 5
# What a server says when its port was taken meanwhile, or when orphans of a killed one are not gone yet.
PASSING_TROUBLE = ("Address already in use", "pre-existing shared memory block")
# Nothing of the user's: PGPORT and the like would change what the server does.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
POSTGRES_SETTINGS = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "max_connections": "200"}
POSTMASTER_PORT_LINE = 3  # of postmaster.pid, from 0
# Without a care for a crash of the machine; what was committed survives that of the server all the same.
POSTGRES_THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class Server(ABC):
    """A server process with a folder of its own. It may be started again after it was stopped or killed.

    Once started it keeps its port, so that its URL stays true.
    """

    name: str
    stop_signal: Signals = signal.SIGTERM

    def __init__(self, folder: Path, *, throwaway: bool = False, log: Path | None = None) -> None:
        self.folder = Folder(folder)
        self.throwaway = throwaway
        self.log = log or self.folder.path / "log"
        self.port = 0
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, with user and password."""

    @property
    def child(self) -> Child:
        """Its process."""
        if self._child is None:
            raise ValueError(f"{self.name} was not started")
        return self._child

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return self.child.pid

    def start(self) -> None:
        """Returns when it answers. Raises `ConfigurationError` or `ProcessFailed`; nothing is left then."""
        self.folder.claim()
        try:
            self._launch()
        except BaseException:
            self.kill()
            raise

    def start_again(self) -> None:
        """Once more, after it died under our hands. Whoever needs it has to try until it answers."""
        self._child = self._spawn()

    def stop(self) -> None:
        """Ends it in order."""
        if self._child is not None:
            self._child.stop(self.stop_signal)
        self._cleanup()

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self._child is not None:
            self._child.kill()
        self._cleanup()

    @abstractmethod
    def _spawn(self) -> Child:
        """Starts it on its port."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it takes our password there."""

    def _cleanup(self) -> None:
        self.folder.release()

    def _launch(self) -> None:
        known = self.port
        for attempts_left in reversed(range(ATTEMPTS)):
            self.port = known or free_port()
            self._child = self._spawn()
            try:
                self._child.wait_until(self._answers, START_SECONDS)
            except ProcessFailed as error:
                if not attempts_left or not _passing(error):
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return


class Postgres(Server):
    """PostgreSQL. Its data lies in the folder under its major version; run by root it runs as `nobody`."""

    name = "PostgreSQL"
    user = "guiagent"
    database = "guiagent"

    def __init__(self, folder: Path, *, throwaway: bool = False, log: Path | None = None) -> None:
        super().__init__(folder, throwaway=throwaway, log=log)
        # Both let go of clients at once; immediate shutdown does not care for the data.
        self.stop_signal = signal.SIGQUIT if throwaway else signal.SIGINT
        self._software = PostgresSoftware()
        self._password = ""

    @classmethod
    def running(cls, folder: Path) -> str | None:
        """The URL of the server that works in the folder, if one does."""
        server = cls(folder)
        with suppress(OSError, ValueError, IndexError):
            lines = (server._data / "postmaster.pid").read_text().splitlines()
            server.port = int(lines[POSTMASTER_PORT_LINE])
            server._password = server._read_password()
            return server.url if server._answers() else None
        return None

    @property
    def url(self) -> str:
        """Of the database that the start makes."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Of any database in it."""
        return f"postgresql://{self.user}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self.folder.path / str(self._software.major)

    def _launch(self) -> None:
        if (self._data / "PG_VERSION").exists():
            self._password = self._read_password()
        else:
            self._refuse_other_versions()
            self._password = keep_secret(self.folder.path / "password", _new_password)
            self._initialise()
        super()._launch()
        self._create_database()

    def _read_password(self) -> str:
        try:
            return (self.folder.path / "password").read_text()
        except OSError as error:
            raise ConfigurationError(f"the password of {self._data} is gone: {error.strerror}") from error

    def _refuse_other_versions(self) -> None:
        for entry in self.folder.path.iterdir():
            if entry.name.isdigit() and (entry / "PG_VERSION").exists():
                raise ConfigurationError(
                    f"{entry} was made by PostgreSQL {entry.name}, and this is {self._software.major}: "
                    "move the data with pg_dump, or take another folder"
                )

    def _initialise(self) -> None:
        # Renamed when complete: a folder with the right name is never half made.
        new = self._data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if user := _server_user(new):
            os.chown(new, user.uid, user.gid)
        # The C locale is the one that every build has, ICU or not.
        options = [f"--username={self.user}", "--pwfile=/dev/stdin", "--auth=scram-sha-256", "--no-locale"]
        options += ["--encoding=UTF8", *(["--no-sync"] if self.throwaway else [])]
        self._execute("initdb", new, options, self._password.encode()).wait_done(INIT_SECONDS)
        new.rename(self._data)

    def _spawn(self) -> Child:
        _forget_dead_postmaster(self._data)
        settings = POSTGRES_SETTINGS | (POSTGRES_THROWAWAY if self.throwaway else {}) | {"port": self.port}
        return self._execute(
            "postgres", self._data, [f"--{name}={value}" for name, value in settings.items()]
        )

    def _execute(self, binary: str, data: Path, options: Sequence[str], stdin: bytes = b"") -> Child:
        user = _server_user(data)
        with _opened(data) as number:
            # By this name `nobody` reaches the folder even where a parent of it is closed.
            place = f"/proc/self/fd/{number}" if user and sys.platform == "linux" else str(data)
            program = Program(
                name=self.name,
                argv=[str(self._software.for_user(user) / binary), "-D", place, *options],
                log=self.log,
                environment=SERVER_ENVIRONMENT,
                stdin=stdin,
                user=user,
                death_signal=self.stop_signal,
                pass_fds=[self.folder.fileno(), number],
            )
            return Child(program)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url_of("postgres"), connect_timeout=2).close()
            return True
        return False

    def _create_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    def _cleanup(self) -> None:
        super()._cleanup()
        self._software.remove_copy()


class Valkey(Server):
    """Valkey, or Redis: what was written survives a restart unless it is a throw-away one."""

    name = "Valkey"

    def __init__(self, folder: Path, *, throwaway: bool = False, log: Path | None = None) -> None:
        super().__init__(folder, throwaway=throwaway, log=log)
        self._password = _new_password()

    @property
    def url(self) -> str:
        """Of its first database."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def _spawn(self) -> Child:
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no" if self.throwaway else "yes",
            "maxmemory-policy": "noeviction",
        }
        program = Program(
            name=self.name,
            argv=[str(valkey_binary()), "-"],
            log=self.log,
            environment=SERVER_ENVIRONMENT,
            cwd=self.folder.path,
            stdin="".join(f"{name} {value}\n" for name, value in settings.items()).encode(),
            death_signal=self.stop_signal,
            pass_fds=[self.folder.fileno()],
        )
        return Child(program)

    def _answers(self) -> bool:
        with suppress(RedisError), Redis.from_url(self.url, socket_timeout=2) as client:
            return bool(client.ping())
        return False


def _new_password() -> str:
    """One that needs no quoting in a URL or a configuration file."""
    return secrets.token_urlsafe(24)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)


def _server_user(data: Path) -> User | None:
    """Whom the server runs as: us, but never root; then the owner of the data, `nobody` at first."""
    if os.geteuid() != 0:
        return None
    owner = data.stat()
    if owner.st_uid != 0:
        return User(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return User(nobody.pw_uid, nobody.pw_gid)


def _forget_dead_postmaster(data: Path) -> None:
    """Removes the pid file that a killed server left: the number may be another process's by now."""
    pid_file = data / "postmaster.pid"
    with suppress(FileNotFoundError):
        pid = pid_file.read_text().partition("\n")[0]
        # One that was killed while it wrote the file left it empty.
        if pid.isdecimal() and _works_in(int(pid), data):
            raise ConfigurationError(f"{data} is in use by the PostgreSQL server of process {pid}")
        pid_file.unlink()


def _works_in(pid: int, folder: Path) -> bool:
    # Where there is no /proc to tell, a living process may be the server.
    place = Path("/proc") / str(pid) / "cwd"
    with suppress(OSError):
        return place.samefile(folder)
    return not Path("/proc/self").exists() and is_alive(pid)


def _passing(error: ProcessFailed) -> bool:
    return any(hint in error.message for hint in PASSING_TROUBLE)
