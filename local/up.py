"""`lybic-guiagent up`: what the user asks for, and what the user sees while it runs."""

import errno
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from api import BUILT
from local.processes import Child
from local.servers import LOOPBACK
from local.stack import Environment, Plan, Stopped, Storage, authority, running
from shared.errors import ConfigurationError
from shared.settings import MetricsSettings, Settings, StorageSettings, is_loopback

COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
LYBIC_KEYS = frozenset({"api_key", "org_id"})
LYBIC_ACCESS = LYBIC_KEYS | {"endpoint"}
MODEL_ACCESS = frozenset({"api_key", "endpoint"})
WITH_KEY = '-H "X-API-Key: $KEY" '
FIRST_TRY = """\
  curl -N {url}/api/agent/run -H 'Content-Type: application/json' \\
    {key}-d '{{"instruction": "Open notepad and type Hello World"}}'

Ctrl-C stops everything.
"""


def up(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address of the API.", show_default=f"API_HOST, or {LOOPBACK}")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of the API; 0 takes a free one.", show_default="API_PORT, or 5000"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at once in each of them.")] = 16,
    state_dir: Annotated[Path | None, typer.Option(help="Folder that keeps the database.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty the kept database first.")] = False,
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Do without Flower.")] = False,
    flower_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Flower; 0 takes a free one.")
    ] = 5555,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65000, help="Port at which the first worker shows its metrics, the others behind it."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what runs as JSON, a line for each part; the last is `ready`."),
    ] = False,
) -> None:
    """Start everything on this machine, until Ctrl-C.

    PostgreSQL and Redis are those of POSTGRES_CONNECTION_STRING and REDIS_URL, else our own. Without Lybic
    credentials the sandboxes are simulated, without ARK_API_KEY the model is scripted.

    Whatever dies is started again, after a longer pause each time. Ctrl-C or SIGTERM stops all in order, the
    workers handing back their tasks, with exit code 0; a second one kills at once.
    """
    environment = user_environment()
    settings = read_settings()
    address = settings.api.host if host is None else host
    plan = Plan(
        environment=environment,
        storage=choose_storage(settings.storage, state_dir, environment),
        fresh=fresh,
        redis=settings.redis.url.get_secret_value() if settings.redis.model_fields_set else None,
        sandbox=settings.lybic.endpoint if _names(settings.lybic, LYBIC_ACCESS) else None,
        model=settings.model.endpoint if _names(settings.model, MODEL_ACCESS) else None,
        host=address,
        port=take_port(address, settings.api.port if port is None else port, "--port"),
        keys_required=settings.api.model_copy(update={"host": address}).keys_required,
        flower_port=None if no_flower else take_port(LOOPBACK, flower_port, "--flower-port"),
        metrics_port=take_metrics_ports(settings.metrics, metrics_port, workers),
        workers=workers,
        concurrency=concurrency,
    )
    refuse_keys_without_a_place(plan)
    screen = JsonScreen() if as_json else Screen()
    for caution in cautions(plan, settings, state_dir):
        screen.warn(caution)
    with suppress(Stopped), running(plan, screen.say) as stack:
        screen.ready(plan, stack.logs)
        stack.watch(Follower(stack.services).show)


def refuse_keys_without_a_place(plan: Plan) -> None:
    """Raises `ConfigurationError` if requests need keys, which a throw-away database can't know."""
    if plan.keys_required and plan.storage == Storage():
        raise ConfigurationError(
            f"The API at {plan.address} asks for API keys, and a throw-away database has none. Keep it with "
            "--state-dir DIR and make a key with `lybic-guiagent keys create NAME --state-dir DIR`; or bind "
            f"to {LOOPBACK}; or, behind a proxy that checks callers, set API_KEYS=off."
        )


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


def choose_storage(settings: StorageSettings, state_dir: Path | None, environment: Environment) -> Storage:
    """TASK_STORAGE_BACKEND decides; without it a URL, then the user's folder."""
    folder = state_dir or default_state_dir(environment)
    if settings.backend == "memory":
        return Storage()
    if settings.url is not None:
        return Storage(url=settings.url.get_secret_value(), keys=folder)
    if settings.backend == "postgres" or state_dir is not None:
        return Storage(kept=folder)
    return Storage()


def default_state_dir(environment: Environment) -> Path:
    """Where a kept database is unless the user says otherwise."""
    base = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lybic-guiagent"


def cautions(plan: Plan, settings: Settings, state_dir: Path | None) -> Iterator[str]:
    """What the user may not expect."""
    storage = settings.storage
    if storage.backend == "memory" and storage.url is not None:
        yield "TASK_STORAGE_BACKEND=memory: POSTGRES_CONNECTION_STRING is not used."
    if storage.backend == "memory" and state_dir is not None:
        yield "TASK_STORAGE_BACKEND=memory: nothing is kept in --state-dir."
    if plan.fresh and plan.storage.kept is None:
        yield "--fresh has nothing to empty: only a kept database of our own is ever emptied."
    if plan.sandbox is not None and LYBIC_KEYS - settings.lybic.model_fields_set:
        yield "LYBIC_API_KEY and LYBIC_ORG_ID are not both set: every request must bring its own."
    if plan.model is not None and settings.model.api_key is None:
        yield "ARK_API_KEY is not set: every request must bring its own."
    if not is_loopback(plan.host) and not plan.keys_required:
        yield f"Whoever reaches {plan.address} can run tasks: API_KEYS is off."


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
                f"port {port} on {host} is in use: choose another with {option}"
            ) from None
        raise ConfigurationError(f"{authority(host, port)} can't be bound: {error.strerror}") from None


def take_metrics_ports(settings: MetricsSettings, wanted: int | None, workers: int) -> int:
    """The first of the workers' ports if all of them can be bound; 0 for none. Raises as `take_port` does."""
    first = settings.worker_port if wanted is None else wanted
    for number in range(workers if first else 0):
        take_port(settings.worker_host, first + number, "--metrics-port")
    return first


class Follower:
    """Shows what the children write to their logs from now on, each line behind its writer's name."""

    def __init__(self, children: Iterable[Child]) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._logs = {child.name: child.log for child in children}
        self._read = {name: log.stat().st_size for name, log in self._logs.items()}
        self._width = max(map(len, self._logs), default=0)

    def show(self) -> None:
        """Shows the lines that are complete by now."""
        for colour, name in zip(cycle(COLOURS), self._logs, strict=False):
            for line in self._new_lines(name):
                self._console.print(Text.assemble((f"{name:<{self._width}} │ ", colour), line))

    def _new_lines(self, name: str) -> list[str]:
        with self._logs[name].open("rb") as log:
            if log.seek(0, os.SEEK_END) < self._read[name]:
                self._read[name] = 0  # it was begun anew
            log.seek(self._read[name])
            complete, newline, _ = log.read().rpartition(b"\n")
        self._read[name] += len(complete) + len(newline)
        return complete.decode(errors="replace").splitlines()


class Screen:
    """What the user reads. Plain text where that is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def say(self, name: str, text: str) -> None:
        """One line of the table of what runs."""
        self._console.print(Text.assemble((f"{name:<10} ", "bold"), text))

    def warn(self, text: str) -> None:
        """One line that the user should not overlook."""
        self._console.print(Text(f"Warning    {text}", style="yellow"))

    def ready(self, plan: Plan, logs: Path) -> None:
        """The rest of the table, and what to try first."""
        self._addresses(plan, logs)
        self._console.print(Text("\nReady.", style="bold green"), "Try:\n")
        self._console.print(Text(FIRST_TRY.format(url=plan.url, key=WITH_KEY if plan.keys_required else "")))

    def _addresses(self, plan: Plan, logs: Path) -> None:
        self.say("Logs", str(logs))
        if plan.flower_port is not None:
            self.say("Flower", f"http://{LOOPBACK}:{plan.flower_port}")
        if plan.metrics_port:
            self.say("Metrics", f"{plan.url}/metrics, and of the workers at port {plan.metrics_port} and on")
        self.say("API", plan.url)
        built = (BUILT / "index.html").exists()
        self.say("Playground", f"{plan.url}/" if built else "not built: make playground")


class JsonScreen(Screen):
    """What a program reads."""

    def say(self, name: str, text: str) -> None:
        """One part of what runs."""
        typer.echo(json.dumps({"name": name, "text": text}))

    def warn(self, text: str) -> None:
        """Something to heed."""
        self.say("Warning", text)

    def ready(self, plan: Plan, logs: Path) -> None:
        """The rest, and that tasks can be posted now."""
        self._addresses(plan, logs)
        self.say("ready", plan.url)


def _names(group: BaseModel, fields: frozenset[str]) -> bool:
    """Whether the user set any of the fields."""
    return bool(group.model_fields_set & fields)
