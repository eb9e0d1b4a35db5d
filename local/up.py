"""`lybic-guiagent up`: starts on this machine all that is not given by URL, and stops it in order."""

import errno
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Self
from urllib.parse import urlsplit

import typer
from cryptography.fernet import Fernet
from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from local.processes import Child, Condition, Program, answers_200, stop_all
from local.servers import (
    INSTALL,
    Folder,
    Postgres,
    Server,
    Valkey,
    keep_secret,
    remove_abandoned,
    temporary_folder,
)
from shared.errors import ConfigurationError
from shared.settings import Settings, StorageSettings

LOOPBACK = "127.0.0.1"
READY_SECONDS = 60
MIGRATION_SECONDS = 300
DRAIN_SECONDS = 10
STOP_SECONDS = 5
WATCH_SECONDS = 0.1
LOG_BYTES = 20_000_000  # a log that has grown larger begins anew
COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
KEY_FILE = "credentials.key"
OURS = ("postgres", "valkey", "logs", KEY_FILE)
THROWAWAY = "throw-away: gone when this stops (up --state-dir PATH keeps it)"
# What the stand-ins let in. They guard nothing, so these are no secrets.
SIMULATED_KEY = "simulated-lybic-key"
SIMULATED_ORG = "ORG-simulated"
SCRIPTED_KEY = "scripted-model-key"
# The user manual's examples work as they are printed, unset shell variables included.
MANUAL_LYBIC_KEYS = ("sk-your-key", "sk-lybic-key", "sk-your-lybic-api-key", "$LYBIC_API_KEY")
MANUAL_MODEL_KEYS = ("your-ark-key", "ark-api-key", "ark-key", "your-ark-api-key", "$ARK_API_KEY")
MANUAL_SANDBOXES = ("box-123", "BOX-123", "sbx-abc123", "box-abc123", "$SANDBOX_ID")

LYBIC_KEYS = frozenset({"api_key", "org_id"})
LYBIC_ACCESS = LYBIC_KEYS | {"endpoint"}
MODEL_ACCESS = frozenset({"api_key", "endpoint"})
FIRST_TRY = """\
  curl -N {url}/api/agent/run -H 'Content-Type: application/json' \\
    -d '{{"instruction": "Open notepad and type Hello World"}}'

Ctrl-C stops everything.
"""

Environment = Mapping[str, str]
Say = Callable[[str, str], None]


class Stopped(BaseException):
    """We were asked to stop. Like KeyboardInterrupt it is no error that anybody should handle on its way."""


@dataclass(frozen=True)
class Storage:
    """Where the database is: at a URL, in a folder that is kept, or, with neither, in a temporary one."""

    url: str | None = None
    kept: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start. An address that is None stands for a server of our own; no flower_port, no Flower."""

    environment: Environment
    state_dir: Path | None = None
    storage: Storage = Storage()
    fresh: bool = False
    redis: str | None = None
    sandbox: str | None = None
    model: str | None = None
    host: str = LOOPBACK
    port: int
    flower_port: int | None = None
    workers: int = 1
    concurrency: int = 16

    @property
    def address(self) -> str:
        """What the API binds to."""
        return _authority(self.host, self.port)

    @property
    def url(self) -> str:
        """Where the API is as seen from this machine."""
        seen = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104 - not bound here
        return f"http://{_authority(seen, self.port)}"


def up(
    *,
    host: Annotated[str, typer.Option(help="Address of the API.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at once in each of them.")] = 16,
    state_dir: Annotated[Path | None, typer.Option(help="Folder that keeps the database.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty the kept database first.")] = False,
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Do without Flower.")] = False,
    flower_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Flower; 0 takes a free one.")
    ] = 5555,
) -> None:
    """Start everything on this machine, until Ctrl-C.

    PostgreSQL and Redis are those of POSTGRES_CONNECTION_STRING and REDIS_URL, else our own. Without Lybic
    credentials the sandboxes are simulated, without ARK_API_KEY the model is scripted.

    Ctrl-C or SIGTERM stops all in order, the workers handing back their tasks, with exit code 0; a second
    one kills at once.
    """
    environment = user_environment()
    settings = read_settings()
    plan = Plan(
        environment=environment,
        state_dir=state_dir,
        storage=choose_storage(settings.storage, state_dir, environment),
        fresh=fresh,
        redis=settings.redis.url.get_secret_value() if settings.redis.model_fields_set else None,
        sandbox=settings.lybic.endpoint if _names(settings.lybic, LYBIC_ACCESS) else None,
        model=settings.model.endpoint if _names(settings.model, MODEL_ACCESS) else None,
        host=host,
        port=take_port(host, port, "--port"),
        flower_port=None if no_flower else take_port(LOOPBACK, flower_port, "--flower-port"),
        workers=workers,
        concurrency=concurrency,
    )
    screen = Screen()
    for caution in cautions(plan, settings):
        screen.warn(caution)
    with suppress(Stopped), running(plan, screen.say) as stack:
        screen.ready(plan, stack.logs)
        stack.watch(Follower(stack.services))


def user_environment() -> Environment:
    """The environment and, behind it, `.env`. Empty counts as unset; settings are in capitals."""
    names = setting_names()
    found = {}
    for source in (dotenv_values(".env"), os.environ):
        for name, value in source.items():
            if value:
                found[name.upper() if name.upper() in names else name] = value
    return found


def setting_names() -> frozenset[str]:
    """The environment variable of every setting."""
    groups = [field.annotation for field in Settings.model_fields.values()]
    fields = [field for group in groups if group for field in group.model_fields.values()]
    return frozenset(str(field.validation_alias) for field in fields)


def read_settings() -> Settings:
    """The settings of the user. Raises `ConfigurationError` that names the bad variables."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ConfigurationError("\n".join(problems)) from None


def default_state_dir(environment: Environment) -> Path:
    """Where a kept database is unless the user says otherwise."""
    base = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lybic-guiagent"


def choose_storage(settings: StorageSettings, state_dir: Path | None, environment: Environment) -> Storage:
    """TASK_STORAGE_BACKEND decides; without it a URL, then the user's folder."""
    if settings.backend == "memory":
        return Storage()
    if settings.url is not None:
        return Storage(url=settings.url.get_secret_value())
    if settings.backend == "postgres" or state_dir is not None:
        return Storage(kept=state_dir or default_state_dir(environment))
    return Storage()


def cautions(plan: Plan, settings: Settings) -> Iterator[str]:
    """What the user may not expect."""
    storage = settings.storage
    if storage.backend == "memory" and storage.url is not None:
        yield "TASK_STORAGE_BACKEND=memory: POSTGRES_CONNECTION_STRING is not used."
    if storage.backend == "memory" and plan.state_dir is not None:
        yield "TASK_STORAGE_BACKEND=memory: nothing is kept in --state-dir."
    if plan.fresh and plan.storage.kept is None:
        yield "--fresh has nothing to empty: only a kept database of our own is ever emptied."
    if plan.sandbox is not None and LYBIC_KEYS - settings.lybic.model_fields_set:
        yield "LYBIC_API_KEY and LYBIC_ORG_ID are not both set: every request must bring its own."
    if plan.model is not None and settings.model.api_key is None:
        yield "ARK_API_KEY is not set: every request must bring its own."
    if not _is_loopback(plan.host):
        yield f"Whoever reaches {plan.address} can run tasks: the API asks for no key yet."


def take_port(host: str, port: int, option: str) -> int:
    """The port if it can be bound; for 0, a free one. Raises `ConfigurationError` that names the option."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            taken: int = probe.getsockname()[1]
            return taken
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is in use: choose another with {option} (0 takes a free one)"
            ) from None
        raise ConfigurationError(f"{_authority(host, port)} can't be bound: {error.strerror}") from None


@contextmanager
def running(plan: Plan, say: Say) -> Iterator["Stack"]:
    """Everything, started and ready; stopped at the end. A signal raises `Stopped` within the block."""
    stack = Stack(plan, say)
    with Interrupts(stack.kill) as interrupts:
        try:
            stack.start()
            yield stack
        finally:
            interrupts.stopping = True
            stack.stop()


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into `Stopped`, and any further one into an end at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, kill: Callable[[], None]) -> None:
        self.stopping = False
        self._kill = kill

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

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.stopping:
            self._kill()
            os._exit(128 + number)
        self.stopping = True
        raise Stopped


class Stack:
    """The processes of one `up`. `say` hears, as name and text, what was started and where it is."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan = plan
        self.sandbox = plan.sandbox or ""
        self.folder: Folder | None = None
        self._say = say
        self._environment = dict(plan.environment)  # what the children get
        self._servers: list[Server] = []
        self._stand_ins: dict[str, Child] = {}
        self._workers: list[Child] = []
        self._api: list[Child] = []
        self._flower: list[Child] = []

    @property
    def services(self) -> list[Child]:
        """The processes whose words are worth reading."""
        return [*self._workers, *self._api, *self._flower]

    @property
    def children(self) -> list[Child]:
        """All processes that must live."""
        return [*(server.child for server in self._servers), *self._stand_ins.values(), *self.services]

    def start(self) -> None:
        """Returns when tasks can be posted. Raises `ConfigurationError` or `ProcessFailed`."""
        remove_abandoned()
        self._open_folder()
        self._environment.update(_child_defaults(self._environment))
        self._environment["CREDENTIALS_KEYS"] = self._credentials_key()
        self._start_stand_ins()
        self._start_database()
        self._start_redis()
        self._find_sandbox()
        self._find_model()
        self._run("migrations", "migrations", "upgrade").wait_done(MIGRATION_SECONDS)
        self._start_services()

    def watch(self, follower: "Follower") -> None:
        """Shows the logs until a child dies, which is raised as `ProcessFailed`: none is restarted."""
        while True:
            follower.show()
            for child in self.children:
                child.check()
                child.trim_log(LOG_BYTES)
            time.sleep(WATCH_SECONDS)

    def stop(self) -> None:
        """Ends everything: first whoever asks, last whoever answers."""
        if self.folder is None:
            return
        with suppress(OSError, SystemExit):  # whoever read this may be gone
            self._say("Stopping", "all in order; once more kills at once")
        stop_all(self._flower, grace=STOP_SECONDS)
        stop_all(self._api, grace=STOP_SECONDS)
        stop_all(self._workers, grace=DRAIN_SECONDS)
        stop_all(self._stand_ins.values(), grace=STOP_SECONDS)
        for server in reversed(self._servers):
            server.stop()
        self._close_folder(self.folder)

    def kill(self) -> None:
        """Ends everything at once."""
        for child in [*self.services, *self._stand_ins.values()]:
            child.kill()
        for server in self._servers:
            server.kill()

    @property
    def logs(self) -> Path:
        """The folder of the log files."""
        return self._path / "logs"

    @property
    def _path(self) -> Path:
        if self.folder is None:
            raise ValueError("not started")
        return self.folder.path

    def _open_folder(self) -> None:
        kept = self.plan.storage.kept
        if kept is None:
            self.folder = temporary_folder()
        else:
            folder = Folder(kept)
            folder.claim()
            folder.empty(OURS if self.plan.fresh else ("logs",))
            self.folder = folder
        self.logs.mkdir(exist_ok=True)

    def _close_folder(self, folder: Folder) -> None:
        if self.plan.storage.kept is None:
            folder.remove()
        else:
            folder.release()

    def _credentials_key(self) -> str:
        if given := self._environment.get("CREDENTIALS_KEYS"):
            return given
        place = self._path
        if self.plan.storage.url is not None:  # that database outlives our temporary folder
            place = Folder(self.plan.state_dir or default_state_dir(self.plan.environment)).make()
        return keep_secret(place / KEY_FILE, lambda: Fernet.generate_key().decode())

    def _start_database(self) -> None:
        storage = self.plan.storage
        if storage.url is not None:
            self._say("Database", f"{_without_user(storage.url)} (POSTGRES_CONNECTION_STRING)")
            return
        server = Postgres(
            self._path / "postgres", throwaway=storage.kept is None, log=self.logs / "postgres.log"
        )
        self._start_server(server, "POSTGRES_CONNECTION_STRING")
        lifetime = f"kept in {storage.kept}" if storage.kept else THROWAWAY
        self._say("Database", f"PostgreSQL at {LOOPBACK}:{server.port}, {lifetime}")

    def _start_redis(self) -> None:
        if self.plan.redis is not None:
            self._say("Redis", f"{_without_user(self.plan.redis)} (REDIS_URL)")
            return
        throwaway = self.plan.storage.kept is None
        server = Valkey(self._path / "valkey", throwaway=throwaway, log=self.logs / "valkey.log")
        self._start_server(server, "REDIS_URL")
        self._say("Redis", f"Valkey at {LOOPBACK}:{server.port}")

    def _start_server(self, server: Server, variable: str) -> None:
        self._servers.append(server)
        server.start()
        self._environment[variable] = server.url

    def _start_stand_ins(self) -> None:
        """Starts them without waiting: they get ready while the database is made."""
        if self.plan.sandbox is None:
            if find_spec("PIL") is None:
                raise ConfigurationError(f"simulated sandboxes need pillow: {INSTALL}, or set LYBIC_API_KEY")
            self._stand_ins["sandbox"] = self._run(
                "sandbox",
                "local.sandbox",
                *(f"--api-key={key}" for key in (SIMULATED_KEY, *MANUAL_LYBIC_KEYS)),
                *(f"--sandbox={sandbox_id}" for sandbox_id in MANUAL_SANDBOXES),
            )
        if self.plan.model is None:
            self._stand_ins["model"] = self._run(
                "model",
                "local.model",
                *(f"--api-key={key}" for key in (SCRIPTED_KEY, *MANUAL_MODEL_KEYS)),
            )

    def _find_sandbox(self) -> None:
        if self.plan.sandbox is not None:
            self._say("Sandbox", self.plan.sandbox)
            return
        self.sandbox = self._address("sandbox")
        access = {"LYBIC_API_KEY": SIMULATED_KEY, "LYBIC_ORG_ID": SIMULATED_ORG}
        self._environment.update({"LYBIC_API_ENDPOINT": self.sandbox, **access})
        self._say(
            "Sandbox", f"simulated at {self.sandbox} (set LYBIC_API_KEY and LYBIC_ORG_ID for real ones)"
        )

    def _find_model(self) -> None:
        if self.plan.model is not None:
            self._say("Model", self.plan.model)
            return
        endpoint = self._address("model")
        self._environment.update({"ARK_API_ENDPOINT": endpoint, "ARK_API_KEY": SCRIPTED_KEY})
        self._say("Model", f"scripted at {endpoint} (set ARK_API_KEY for a real one)")

    def _address(self, stand_in: str) -> str:
        return self._stand_ins[stand_in].wait_for_line("listening on ", READY_SECONDS)

    def _start_services(self) -> None:
        for number in range(1, self.plan.workers + 1):
            self._workers.append(self._start_worker(f"worker{number}"))
        self._api.append(self._start_api())
        if self.plan.flower_port is not None:
            self._flower.append(self._start_flower(self.plan.flower_port))
            self._wait(self._flower[0], f"http://{LOOPBACK}:{self.plan.flower_port}/healthcheck")
        self._wait(self._api[0], f"{self.plan.url}/api/ready")

    def _start_worker(self, name: str) -> Child:
        threads = ("--pool", "threads", "--concurrency", str(self.plan.concurrency))
        # Mingling takes a second, to tell each other of revoked messages, which there are none of.
        options = ("--without-mingle", "--hostname", f"{name}@%h", "--loglevel", "INFO")
        return self._run(name, "celery", "--app", "worker.app", "worker", *threads, *options)

    def _start_api(self) -> Child:
        configuration = "python:api.gunicorn_conf"
        bind = ("--bind", self.plan.address)
        return self._run("api", "gunicorn", "--config", configuration, *bind, "api.wsgi:app")

    def _start_flower(self, port: int) -> Child:
        # Never elsewhere, whatever --host says: it shows what goes on inside.
        bind = (f"--address={LOOPBACK}", f"--port={port}")
        return self._run("flower", "celery", "--app", "worker.app", "flower", *bind)

    def _run(self, name: str, module: str, *arguments: str) -> Child:
        program = Program(
            name=name,
            argv=[sys.executable, "-m", module, *arguments],
            log=self.logs / f"{name}.log",
            environment=self._environment,
            # Not the user's folder, where modules named like ours, or a .env, might lie.
            cwd=self.logs,
        )
        return Child(program)

    def _wait(self, child: Child, url: str) -> None:
        child.wait_until(self._all_alive_and(answers_200(url)), READY_SECONDS)

    def _all_alive_and(self, ready: Condition) -> Condition:
        def condition() -> bool:
            for child in self.children:
                child.check()
            return ready()

        return condition


class Follower:
    """Shows what the children write to their logs from now on, each line behind its writer's name."""

    def __init__(self, children: list[Child]) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._children = children
        self._read = {child.name: child.log.stat().st_size for child in children}
        self._width = max((len(child.name) for child in children), default=0)

    def show(self) -> None:
        """Shows the lines that are complete by now."""
        for number, child in enumerate(self._children):
            for line in self._new_lines(child):
                name = f"{child.name:<{self._width}} │ "
                self._console.print(Text.assemble((name, COLOURS[number % len(COLOURS)]), line))

    def _new_lines(self, child: Child) -> list[str]:
        if child.log.stat().st_size < self._read[child.name]:
            self._read[child.name] = 0  # it was begun anew
        with child.log.open("rb") as log:
            log.seek(self._read[child.name])
            complete, newline, _ = log.read().rpartition(b"\n")
        self._read[child.name] += len(complete) + len(newline)
        return complete.decode(errors="replace").splitlines()


class Screen:
    """What the user reads. Plain text where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, name: str, text: str) -> None:
        """One line of the table of what runs."""
        self._console.print(Text.assemble((f"{name:<9} ", "bold"), text))

    def warn(self, text: str) -> None:
        """One line that the user should not overlook."""
        self._console.print(Text(f"Warning   {text}", style="yellow"))

    def ready(self, plan: Plan, logs: Path) -> None:
        """The rest of the table, and what to try first."""
        self.say("Logs", str(logs))
        if plan.flower_port is not None:
            self.say("Flower", f"http://{LOOPBACK}:{plan.flower_port}")
        self.say("API", plan.url)
        self._console.print(Text("\nReady.", style="bold green"), "Try:\n")
        self._console.print(Text(FIRST_TRY.format(url=plan.url)))


def _names(group: BaseModel, fields: frozenset[str]) -> bool:
    """Whether the user set any of the fields."""
    return bool(group.model_fields_set & fields)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without_user(url: str) -> str:
    """The URL as it may be shown: no user, no password, no parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _child_defaults(environment: Environment) -> Environment:
    direct = ",".join(filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy"), LOOPBACK]))
    return {
        "LOG_FORMAT": environment.get("LOG_FORMAT", "text"),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
    }
