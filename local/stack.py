"""All processes of one `up`: started in order, kept alive, stopped in the opposite order."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from pydantic import SecretStr

from local.folders import Folder, keep_secret, remove_abandoned, temporary_folder
from local.keepers import Keeper, Kept, Service
from local.processes import Child, Program, answers_200, stop_all
from local.servers import LOOPBACK, Postgres, Server, Valkey
from shared import keys as api_keys
from shared.db import Database
from shared.secrets import without_user
from shared.settings import StorageSettings, is_loopback

READY_SECONDS = 60
MIGRATION_SECONDS = 300
DRAIN_SECONDS = 10
STOP_SECONDS = 5
WATCH_SECONDS = 0.1
LOG_BYTES = 20_000_000  # a log that has grown larger begins anew
KEY_FILE = "credentials.key"
PASSING = ("logs", "tmp")
OURS = ("postgres", "valkey", "screenshots", *PASSING, KEY_FILE)
THROWAWAY = "throw-away: gone when this stops (up --state-dir PATH keeps it)"
# What the stand-ins let in. They guard nothing, so these are no secrets.
SIMULATED_KEY = "simulated-lybic-key"
SIMULATED_ORG = "ORG-simulated"
SCRIPTED_KEY = "scripted-model-key"
# The user manual's examples work as they are printed, unset shell variables included.
MANUAL_LYBIC_KEYS = ("sk-your-key", "sk-lybic-key", "sk-your-lybic-api-key", "$LYBIC_API_KEY")
MANUAL_MODEL_KEYS = ("your-ark-key", "ark-api-key", "ark-key", "your-ark-api-key", "$ARK_API_KEY")
MANUAL_SANDBOXES = ("box-123", "BOX-123", "sbx-abc123", "box-abc123", "$SANDBOX_ID")

Environment = Mapping[str, str]
Say = Callable[[str, str], None]


class Stopped(BaseException):
    """We were asked to stop. Like KeyboardInterrupt it is no error that anybody should handle on its way."""


@dataclass(frozen=True)
class Storage:
    """Where the database is: at a URL, in a folder that is kept, or, with neither, in a temporary one.

    The key to the credentials in it lies beside it; for one at a URL, in the folder `keys`.
    """

    url: str | None = None
    kept: Path | None = None
    keys: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start. An address that is None stands for a server of our own; no flower_port, no Flower.

    The first worker shows its metrics at metrics_port, the others at the ports behind it; 0: none does.
    """

    environment: Environment
    storage: Storage = Storage()
    fresh: bool = False
    redis: str | None = None
    sandbox: str | None = None
    model: str | None = None
    host: str = LOOPBACK
    port: int
    keys_required: bool = False
    flower_port: int | None = None
    metrics_port: int = 0
    workers: int = 1
    concurrency: int = 16

    @property
    def address(self) -> str:
        """What the API binds to."""
        return authority(self.host, self.port)

    @property
    def url(self) -> str:
        """Where the API is as seen from this machine."""
        seen = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104 - not bound here
        return f"http://{authority(seen, self.port)}"


@contextmanager
def running(plan: Plan, say: Say) -> Iterator["Stack"]:
    """Everything, started and ready; stopped at the end. A signal raises `Stopped` within the block."""
    stack = Stack(plan, say)
    with stack.interrupts:
        try:
            stack.start()
            yield stack
        finally:
            stack.interrupts.stopping = True
            stack.stop()


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into `Stopped`, and any further one into an end at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, kill: Callable[[], None]) -> None:
        self.stopping = False
        self._kill = kill
        self._held = False

    def __enter__(self) -> Self:
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        # What is ignored stays so: nohup and background jobs of a shell are started like that.
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A first signal within the block raises `Stopped` only at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.stopping:
            raise Stopped

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.stopping:
            self._kill()
            os._exit(128 + number)
        self.stopping = True
        if not self._held:
            raise Stopped


class Stack:
    """The processes of one `up`. `say` hears, as name and text, what was started, where it is, what died."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan = plan
        self.sandbox = plan.sandbox or ""
        self.interrupts = Interrupts(self.kill)
        self._say = say
        self._folder: Folder | None = None
        self._environment = dict(plan.environment)  # what the children get
        self._servers: list[Server] = []
        self._stand_ins: dict[str, Service] = {}
        self._workers: list[Service] = []
        self._api: list[Service] = []
        self._flower: list[Service] = []
        self._keepers: list[Keeper] = []

    @property
    def services(self) -> list[Child]:
        """The processes whose words are worth reading."""
        return _children(self._workers, self._api, self._flower)

    @property
    def logs(self) -> Path:
        """The folder of the log files."""
        return self._path / "logs"

    def start(self) -> None:
        """Returns when tasks can be posted. Raises `ConfigurationError` or `ProcessFailed`."""
        remove_abandoned()
        self._open_folder()
        self._environment.update(_child_defaults(self._environment))
        self._environment["CREDENTIALS_KEYS"] = self._credentials_key()
        self._environment.setdefault("SCREENSHOT_STORE", str(self._path / "screenshots"))
        self._start_stand_ins()
        self._start_database()
        self._start_redis()
        self._find_sandbox()
        self._find_model()
        self._run("migrations", "migrations", "upgrade").child.wait_done(MIGRATION_SECONDS)
        if self.plan.keys_required and not is_loopback(self.plan.host):
            self._require_a_key()
        self._start_services()
        self._keepers = [Keeper(kept, time.monotonic()) for kept in self._kept]

    def watch(self, show: Callable[[], None]) -> None:
        """Starts again whatever dies, and shows what there is, until a signal raises `Stopped`."""
        while True:
            show()
            self.tend()
            time.sleep(WATCH_SECONDS)

    def tend(self) -> None:
        """One look at all children, which waits for none. Who never looks has none started again."""
        for keeper in self._keepers:
            with self.interrupts.held():  # or a child just born might be stopped by nobody
                news = keeper.tend(time.monotonic())
            child = keeper.kept.child
            child.trim_log(LOG_BYTES)
            if news is not None:
                self._say(child.name, news)

    def stop(self) -> None:
        """Ends everything: first whoever asks, last whoever answers."""
        if self._folder is None:
            return
        with suppress(OSError, SystemExit):  # whoever read this may be gone
            self._say("Stopping", "all in order; once more kills at once")
        stop_all(_children(self._flower), grace=STOP_SECONDS)
        stop_all(_children(self._api), grace=STOP_SECONDS)
        stop_all(_children(self._workers), grace=DRAIN_SECONDS)
        stop_all(_children(self._stand_ins.values()), grace=STOP_SECONDS)
        for server in reversed(self._servers):
            server.stop()
        self._close_folder(self._folder)

    def kill(self) -> None:
        """Ends everything at once."""
        for child in _children(self._flower, self._api, self._workers, self._stand_ins.values()):
            child.kill()
        for server in self._servers:
            server.kill()

    @property
    def _kept(self) -> list[Kept]:
        """All that must live."""
        return [*self._servers, *self._stand_ins.values(), *self._workers, *self._api, *self._flower]

    @property
    def _path(self) -> Path:
        if self._folder is None:
            raise ValueError("not started")
        return self._folder.path

    def _open_folder(self) -> None:
        kept = self.plan.storage.kept
        if kept is None:
            self._folder = temporary_folder()
        else:
            folder = Folder(kept)
            folder.claim()
            folder.empty(OURS if self.plan.fresh else PASSING)
            self._folder = folder
        for name in PASSING:
            (self._path / name).mkdir(exist_ok=True)

    def _close_folder(self, folder: Folder) -> None:
        if self.plan.storage.kept is None:
            folder.remove()
        else:
            folder.release()

    def _credentials_key(self) -> str:
        if given := self._environment.get("CREDENTIALS_KEYS"):
            return given
        keys = self.plan.storage.keys
        place = Folder(keys).make() if keys else self._path
        return keep_secret(place / KEY_FILE, lambda: Fernet.generate_key().decode())

    def _start_stand_ins(self) -> None:
        """Starts them without waiting: they get ready while the database is made."""
        if self.plan.sandbox is None:
            keys = [f"--api-key={key}" for key in (SIMULATED_KEY, *MANUAL_LYBIC_KEYS)]
            known = [f"--sandbox={sandbox_id}" for sandbox_id in MANUAL_SANDBOXES]
            self._stand_ins["sandbox"] = self._run("sandbox", "local.sandbox", *keys, *known)
        if self.plan.model is None:
            keys = [f"--api-key={key}" for key in (SCRIPTED_KEY, *MANUAL_MODEL_KEYS)]
            self._stand_ins["model"] = self._run("model", "local.model", *keys)

    def _start_database(self) -> None:
        url, kept = self.plan.storage.url, self.plan.storage.kept
        if url is not None:
            self._say("Database", f"{without_user(url)} (POSTGRES_CONNECTION_STRING)")
            return
        server = Postgres(self._path / "postgres", throwaway=kept is None, log=self.logs / "postgres.log")
        self._start_server(server, "POSTGRES_CONNECTION_STRING")
        lifetime = f"kept in {kept}" if kept else THROWAWAY
        self._say("Database", f"PostgreSQL at {LOOPBACK}:{server.port}, {lifetime}")

    def _start_redis(self) -> None:
        if self.plan.redis is not None:
            self._say("Redis", f"{without_user(self.plan.redis)} (REDIS_URL)")
            return
        throwaway = self.plan.storage.kept is None
        server = Valkey(self._path / "valkey", throwaway=throwaway, log=self.logs / "valkey.log")
        self._start_server(server, "REDIS_URL")
        self._say("Redis", f"Valkey at {LOOPBACK}:{server.port}")

    def _start_server(self, server: Server, variable: str) -> None:
        self._servers.append(server)
        server.start()
        self._environment[variable] = server.url

    def _find_sandbox(self) -> None:
        if self.plan.sandbox is not None:
            self._say("Sandbox", self.plan.sandbox)
            return
        self.sandbox = self._address(self._stand_ins["sandbox"])
        access = {"LYBIC_API_KEY": SIMULATED_KEY, "LYBIC_ORG_ID": SIMULATED_ORG}
        self._environment.update({"LYBIC_API_ENDPOINT": self.sandbox, **access})
        self._say(
            "Sandbox", f"simulated at {self.sandbox} (set LYBIC_API_KEY and LYBIC_ORG_ID for real ones)"
        )

    def _find_model(self) -> None:
        if self.plan.model is not None:
            self._say("Model", self.plan.model)
            return
        endpoint = self._address(self._stand_ins["model"])
        self._environment.update({"ARK_API_ENDPOINT": endpoint, "ARK_API_KEY": SCRIPTED_KEY})
        self._say("Model", f"scripted at {endpoint} (set ARK_API_KEY for a real one)")

    def _address(self, stand_in: Service) -> str:
        """Where it is. It took a free port, and keeps that when it is started again."""
        address = stand_in.child.wait_for_line("listening on ", READY_SECONDS)
        program = stand_in.program
        stand_in.program = replace(program, argv=[*program.argv, f"--port={urlsplit(address).port}"])
        return address

    def _require_a_key(self) -> None:
        url = SecretStr(self._environment["POSTGRES_CONNECTION_STRING"])
        db = Database.connect(StorageSettings(url=url), name="guiagent up")
        try:
            with db.transaction() as session:
                api_keys.require_any(session)
        finally:
            db.close()

    def _start_services(self) -> None:
        for number in range(1, self.plan.workers + 1):
            self._workers.append(self._start_worker(number))
        self._api.append(self._start_api())
        if self.plan.flower_port is not None:
            self._flower.append(self._start_flower(self.plan.flower_port))
            self._wait(self._flower[0], f"http://{LOOPBACK}:{self.plan.flower_port}/healthcheck")
        self._wait(self._api[0], f"{self.plan.url}/api/ready")

    def _start_worker(self, number: int) -> Service:
        name, first = f"worker{number}", self.plan.metrics_port
        metrics_port = str(first + number - 1 if first else 0)
        threads = ("--pool", "threads", "--concurrency", str(self.plan.concurrency))
        # Workers have nothing to tell each other: they meet in PostgreSQL. Mingling alone takes a second.
        alone = ("--without-mingle", "--without-gossip")
        options = (*alone, "--hostname", f"{name}@%h", "--loglevel", "INFO")
        words = ("--app", "worker.app", "worker", *threads, *options)
        return self._run(name, "celery", *words, WORKER_METRICS_PORT=metrics_port)

    def _start_api(self) -> Service:
        # Not by --bind: whether the API asks for keys depends on where it listens.
        self._environment.update(API_HOST=self.plan.host, API_PORT=str(self.plan.port))
        words = ("--config", "python:api.gunicorn_conf", "api.wsgi:app")
        return self._run(
            "api", "gunicorn", *words, TMPDIR=str(self._path / "tmp")
        )  # if killed, it leaves files

    def _start_flower(self, port: int) -> Service:
        # Never elsewhere, whatever --host says: it shows what goes on inside.
        bind = (f"--address={LOOPBACK}", f"--port={port}")
        return self._run("flower", "celery", "--app", "worker.app", "flower", *bind)

    def _run(self, name: str, module: str, *arguments: str, **environment: str) -> Service:
        program = Program(
            name=name,
            argv=[sys.executable, "-m", module, *arguments],
            log=self.logs / f"{name}.log",
            environment={**self._environment, **environment},
            # Not the user's folder, where modules named like ours, or a .env, might lie.
            cwd=self.logs,
        )
        return Service(program)

    def _wait(self, service: Service, url: str) -> None:
        answers = answers_200(url)

        def ready() -> bool:
            for kept in self._kept:
                kept.child.check()
            return answers()

        service.child.wait_until(ready, READY_SECONDS)


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _children(*groups: Iterable[Service]) -> list[Child]:
    return [service.child for group in groups for service in group]


def _child_defaults(environment: Environment) -> Environment:
    direct = ",".join(filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy"), LOOPBACK]))
    return {
        "LOG_FORMAT": environment.get("LOG_FORMAT", "text"),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
    }
