"""`lybic-guiagent doctor`: what of this installation works, what does not, and what to do."""

import asyncio
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import httpx
import openai
import typer
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from kombu.exceptions import OperationalError
from openai import AsyncOpenAI
from pydantic import SecretStr
from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text
from sqlalchemy import select, text

from local.servers import Postgres
from local.up import choose_storage, read_settings, setting_names, user_environment
from migrations.__main__ import config
from shared import keys
from shared.db import Database
from shared.errors import ConfigurationError, CredentialsRejected, GuiAgentError
from shared.models import Job
from shared.pictures import PictureStore
from shared.queue import make_celery
from shared.sandboxes import SandboxService
from shared.schemas import Credentials, LybicCredentials
from shared.secrets import Vault, redact, without_user
from shared.settings import ModelSettings, RedisSettings, Settings, StorageSettings
from shared.wakes import connect

PING_SECONDS = 2.0
API_SECONDS = 5.0
MOST_SKEW_SECONDS = 5.0
SAMPLE = 20
"""So many stored credentials are tried."""
CLIENT_VARIABLES = {"LYBIC_GUIAGENT_URL", "LYBIC_GUIAGENT_API_KEY", "LYBIC_GUIAGENT_WEBHOOK_SECRET"}
ALIKE = 0.85
"""How like a setting's name another name is that is taken for a slip of the pen."""


class State(StrEnum):
    """How a part was found."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


STYLES = {State.OK: "green", State.SKIPPED: "dim", State.WARNING: "yellow", State.FAILED: "bold red"}


@dataclass(frozen=True)
class Finding:
    """What was found of one part, and what to do about it."""

    part: str
    state: State
    found: str
    advice: str = ""


class Bad(Exception):
    """A part does not work: what was found, and what to do."""

    def __init__(self, found: str, advice: str, state: State = State.FAILED) -> None:
        super().__init__(found)
        self.found, self.advice, self.state = found, advice, state


def doctor(
    *,
    url: Annotated[
        str | None,
        typer.Option(envvar="LYBIC_GUIAGENT_URL", help="Of the API; else by API_HOST and API_PORT."),
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of `up --state-dir`.")] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask neither Lybic nor the model; one question costs a few tokens."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check settings, database, migrations, Redis, workers, endpoints and credentials; say what to do.

    Run it where the service runs, with the same environment or `.env`. It changes nothing. Exit code 1:
    something does not work.
    """
    findings = []
    console = Console(highlight=False, soft_wrap=True)
    for finding in examine(url, state_dir, offline=offline):
        findings.append(finding)
        if not as_json:
            console.print(_lines(finding))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state is State.FAILED for finding in findings):
        raise typer.Exit(1)


def examine(url: str | None, state_dir: Path | None, *, offline: bool) -> Iterator[Finding]:
    """Looks at one part after the other; none keeps the others from being looked at."""
    environment = user_environment()
    yield _finding("settings", lambda: _names(environment))
    try:
        settings = read_settings()
    except ConfigurationError as error:
        yield Finding("settings", State.FAILED, error.message, "correct them; .env.example describes each")
        return
    yield _finding("encryption", lambda: _encryption(settings.storage))
    yield from _in_database(settings, state_dir, environment)
    redis = settings.redis if settings.redis.model_fields_set or settings.storage.url else None
    yield _finding("redis", lambda: _redis(redis))
    yield _finding("workers", lambda: _workers(redis))
    yield _finding("api", lambda: _api(url or f"http://{settings.api.host}:{settings.api.port}"))
    yield _finding("screenshots", lambda: asyncio.run(_screenshots(settings)))
    if offline:
        yield Finding("sandboxes", State.SKIPPED, "not asked (--offline)")
        yield Finding("model", State.SKIPPED, "not asked (--offline)")
        return
    yield _finding("sandboxes", lambda: asyncio.run(_sandboxes(settings)))
    yield _finding("model", lambda: asyncio.run(_model(settings.model)))


def _finding(part: str, look: Callable[[], str]) -> Finding:
    """What a look at one part gave."""
    try:
        return Finding(part, State.OK, look())
    except Bad as bad:
        return Finding(part, bad.state, bad.found, bad.advice)
    except GuiAgentError as error:
        return Finding(part, State.FAILED, error.message)


def _lines(finding: Finding) -> Text:
    style = STYLES[finding.state]
    lines = Text.assemble((f"{finding.state:<8} ", style), (f"{finding.part:<12} ", "bold"), finding.found)
    if finding.advice:
        lines.append(f"\n{'':<22}→ {finding.advice}")
    return lines


# --- settings -------------------------------------------------------------------------------------------


def _names(environment: Mapping[str, str]) -> str:
    known = setting_names()
    given = sorted(name for name in environment if name in known)
    for name in sorted(set(environment) - known - CLIENT_VARIABLES):
        if meant := difflib.get_close_matches(name.upper(), known, n=1, cutoff=ALIKE):
            raise Bad(f"{name} is no setting", f"did you mean {meant[0]}?", State.WARNING)
    return f"{', '.join(given)} set; all else as .env.example says" if given else "none set: all defaults"


def _encryption(settings: StorageSettings) -> str:
    if settings.url is None and not settings.credentials_keys:
        raise Bad("no CREDENTIALS_KEYS", "`lybic-guiagent up` makes one of its own", State.SKIPPED)
    vault = Vault(settings)
    vault.open(
        vault.seal(LybicCredentials(api_key=SecretStr("key"), org_id="org", endpoint="")), LybicCredentials
    )
    return f"{len(settings.credentials_keys)} key(s); the first encrypts"


# --- the database ---------------------------------------------------------------------------------------


def _in_database(
    settings: Settings, state_dir: Path | None, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Server, migrations, what is stored: as far as each is there for the next."""
    try:
        url = _database_url(settings, state_dir, environment)
        with _opened(url) as db:
            yield _finding("database", lambda: _server(db, url))
            migrations = _finding("migrations", lambda: _migrations(db, url))
            yield migrations
            if migrations.state is State.OK:
                yield _finding("api keys", lambda: _api_keys(db, settings))
                yield _finding("stored keys", lambda: _stored_credentials(db, settings))
                yield _finding("tasks", lambda: _tasks(db))
    except Bad as bad:
        yield Finding("database", bad.state, bad.found, bad.advice)
    except GuiAgentError as error:
        yield Finding(
            "database", State.FAILED, error.message, "start it, or correct POSTGRES_CONNECTION_STRING"
        )


def _database_url(settings: Settings, state_dir: Path | None, environment: Mapping[str, str]) -> str:
    storage = choose_storage(settings.storage, state_dir, environment)
    if storage.url is not None:
        return storage.url
    if storage.kept is None:
        raise Bad(
            "POSTGRES_CONNECTION_STRING is not set",
            "`lybic-guiagent up` brings a throw-away one; to look into a kept one, add --state-dir",
            State.SKIPPED,
        )
    if running := Postgres.running(storage.kept / "postgres"):
        return running
    raise Bad(f"nothing runs in {storage.kept}", f"lybic-guiagent up --state-dir {storage.kept}")


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    db = Database.connect(StorageSettings(url=SecretStr(url)), name="guiagent doctor")
    try:
        db.ping()
        yield db
    finally:
        db.close()


def _server(db: Database, url: str) -> str:
    """Whether it keeps what it has confirmed, and its clock is right."""
    with db.transaction() as session:
        names = ("server_version", "fsync", "full_page_writes", "synchronous_commit", "max_connections")
        shown = {name: session.scalar(text(f"SHOW {name}")) for name in names}
        used = session.scalar(
            text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        )
        now = session.scalar(text("SELECT clock_timestamp()"))
    unsafe = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if shown[name] == "off"]
    what = f"PostgreSQL {shown['server_version']} at {without_user(url)}"
    if unsafe:
        raise Bad(
            f"{what}: {', '.join(unsafe)} is off", "turn it on: a crash would lose tasks", State.WARNING
        )
    if now and abs((datetime.now(UTC) - now).total_seconds()) > MOST_SKEW_SECONDS:
        raise Bad(f"{what}: its clock is not this machine's", "keep both by NTP", State.WARNING)
    return f"{what}, {used} of {shown['max_connections']} connections in use"


def _migrations(db: Database, url: str) -> str:
    script = ScriptDirectory.from_config(config(url))
    head = script.get_current_head()
    with db.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return f"at {head}, the newest"
    try:
        script.get_revision(current or "base")
    except CommandError:
        raise Bad(
            f"at {current}, which this program does not know", "the database is newer: upgrade this program"
        ) from None
    raise Bad(f"at {current or 'none'}, and {head} is the newest", "run `python -m migrations upgrade`")


def _api_keys(db: Database, settings: Settings) -> str:
    if not settings.api.keys_required:
        return "requests need none"
    with db.transaction() as session:
        keys.require_any(session)
        valid = sum(key.revoked_at is None for key in keys.known(session))
    return f"requests need one; {valid} valid"


def _stored_credentials(db: Database, settings: Settings) -> str:
    """Whether those of tasks that go on can be decrypted: their workers must."""
    if not settings.storage.credentials_keys:
        raise Bad("not tried without CREDENTIALS_KEYS", "", State.SKIPPED)
    vault = Vault(settings.storage)
    with db.transaction() as session:
        newest = select(Job.credentials).where(Job.credentials.is_not(None)).order_by(Job.created_at.desc())
        sealed = session.scalars(newest.limit(SAMPLE)).all()
    try:
        for token in sealed:
            vault.open(token or b"", Credentials)
    except ConfigurationError as error:
        raise Bad(error.message, "add the key that they were encrypted with to CREDENTIALS_KEYS") from None
    return f"the newest {len(sealed)} can be decrypted" if sealed else "none: no task goes on"


def _tasks(db: Database) -> str:
    with db.transaction() as session:
        counts = session.execute(
            text(
                "SELECT status, count(*) FROM jobs WHERE status IN"
                " ('pending', 'running', 'human_intervention') GROUP BY status ORDER BY status"
            )
        )
        found = ", ".join(f"{count} {status}" for status, count in counts) or "none active"
        expired = session.scalar(
            text(
                "SELECT count(*) FROM jobs WHERE status = 'running'"
                " AND lease_expires_at < clock_timestamp() - interval '10 seconds'"
            )
        )
    if expired:
        raise Bad(
            f"{found}; {expired} of dead workers are not taken up", "start workers: they do it", State.WARNING
        )
    return found


# --- the other parts ------------------------------------------------------------------------------------


def _redis(settings: RedisSettings | None) -> str:
    if settings is None:
        raise Bad("REDIS_URL is not set", "`lybic-guiagent up` brings its own", State.SKIPPED)
    where = without_user(settings.url.get_secret_value())
    try:
        with connect(settings) as client:
            server, memory = client.info("server"), client.info("memory")
    except (RedisError, OSError, ValueError) as error:
        raise Bad(
            f"{where} does not answer ({type(error).__name__})", "start it, or correct REDIS_URL"
        ) from None
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        raise Bad(
            f"{where} may drop messages ({policy})",
            "set maxmemory-policy noeviction: tasks start sooner",
            State.WARNING,
        )
    return f"{server.get('server_name', 'redis')} {server.get('redis_version')} at {where}"


def _workers(settings: RedisSettings | None) -> str:
    if settings is None:
        raise Bad("not asked without REDIS_URL", "", State.SKIPPED)
    with make_celery(settings) as app:
        try:
            answers = app.control.ping(timeout=PING_SECONDS)
        except (OperationalError, RedisError, OSError) as error:
            raise Bad(f"can't be asked ({type(error).__name__})", "see redis") from None
    names = sorted(name for answer in answers for name in answer)
    if not names:
        raise Bad("none answers", "start one: celery --app worker.app worker --pool threads --concurrency 16")
    return f"{len(names)} at work: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _api(url: str) -> str:
    where = without_user(url)
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/ready", timeout=API_SECONDS, trust_env=False)
        checks = answer.json()["checks"]
        ill = [f"{name}: {check['message']}" for name, check in checks.items() if not check["ok"]]
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise Bad(
            f"{where} does not answer ({type(error).__name__})", "start it, or name it by --url"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Bad(f"{where} is no API of ours", "name it by --url") from None
    if ill:
        raise Bad(f"{where} is not ready: {'; '.join(ill)}", "see those parts")
    return f"{where} is ready"


async def _screenshots(settings: Settings) -> str:
    """Writes, reads and removes one."""
    store = PictureStore.connect(settings.pictures)
    if store is None:
        raise Bad("SCREENSHOT_STORE is not set", "set it to keep screenshots for reports", State.SKIPPED)
    job_id = uuid4()
    await store.put(f"{job_id}/probe", b"probe")
    await store.get(f"{job_id}/probe")
    await store.remove(job_id)
    return f"are kept, {settings.pictures.days:g} days long"


async def _sandboxes(settings: Settings) -> str:
    lybic = settings.lybic
    if lybic.api_key is None or lybic.org_id is None:
        raise Bad(
            "LYBIC_API_KEY and LYBIC_ORG_ID are not set",
            "`lybic-guiagent up` simulates them; else every request must bring its own",
            State.SKIPPED,
        )
    credentials = LybicCredentials(api_key=lybic.api_key, org_id=lybic.org_id, endpoint=lybic.endpoint)
    async with httpx.AsyncClient(follow_redirects=False) as http:
        try:
            await SandboxService(http, credentials, lybic.timeout_seconds).named("")
        except CredentialsRejected as error:
            raise Bad(error.message, "correct LYBIC_API_KEY and LYBIC_ORG_ID") from None
        except GuiAgentError as error:
            raise Bad(error.message, "correct LYBIC_API_ENDPOINT, or wait") from None
    return f"{without_user(lybic.endpoint)} takes the key"


async def _model(settings: ModelSettings) -> str:
    if settings.api_key is None:
        raise Bad(
            "ARK_API_KEY is not set",
            "`lybic-guiagent up` scripts the answers; else every request must bring its own",
            State.SKIPPED,
        )
    where, key = without_user(settings.endpoint), settings.api_key
    client = AsyncOpenAI(
        api_key=key.get_secret_value(),
        base_url=settings.endpoint,
        timeout=settings.timeout_seconds,
        max_retries=0,
    )
    try:
        async with client:
            await client.chat.completions.create(
                model=settings.name, messages=[{"role": "user", "content": "Say OK."}], max_tokens=1
            )
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        raise Bad(f"{where} refuses the key", "correct ARK_API_KEY") from None
    except openai.NotFoundError:
        raise Bad(
            f"{where} does not know {settings.name}", "correct MODEL_NAME or ARK_API_ENDPOINT"
        ) from None
    except (openai.OpenAIError, ValueError) as error:
        said = redact(str(error), [key])[:200]
        raise Bad(f"{where} does not answer: {said}", "correct ARK_API_ENDPOINT, or wait") from None
    return f"{settings.name} answers at {where}"
