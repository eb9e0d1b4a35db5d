"""The connection to PostgreSQL: an engine, and transactions that translate the driver's errors."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from sqlalchemy import ClauseElement, Connection, CursorResult, Engine, create_engine, event, text
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from shared.errors import ConfigurationError, StorageUnavailable
from shared.settings import StorageSettings

UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    InternalError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
)
CONNECT_SECONDS = 3
STATEMENT_MILLISECONDS = 10_000
IDLE_MILLISECONDS = 5_000
"""A process that is frozen in the midst of a transaction loses it: its locks keep others from its jobs."""
POOL_WAIT_SECONDS = 5


def driver_url(url: str) -> str:
    """A PostgreSQL URL in any common spelling, as SQLAlchemy wants it for psycopg 3."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigurationError("POSTGRES_CONNECTION_STRING must begin with postgresql://")
    return f"postgresql+psycopg://{rest}"


class Database:
    """A pool of connections. One per process, shared by its threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def connect(
        cls,
        settings: StorageSettings,
        *,
        name: str,
        pre_ping: bool = True,
        plan_once: bool = False,
        overflow: bool = True,
    ) -> "Database":
        """A pool for the configured database; `name` is what PostgreSQL shows for its connections.

        `pre_ping` looks whether a connection is still there before each use. Without, the first use after
        PostgreSQL was restarted fails; that is for callers who try again anyway. With `plan_once` statements
        are prepared and planned at their first use: for callers with few statements, and plans that are good
        for any parameters. `overflow` makes further connections, up to as many again, for those who would
        wait; each is closed after one use, which under steady load costs more than the waiting.
        """
        engine = create_engine(
            _url(settings),
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size if overflow else 0,
            pool_timeout=POOL_WAIT_SECONDS,
            hide_parameters=True,  # the text of a failed statement reaches the log
            connect_args=_how(name, plan_once=plan_once),
        )
        if pre_ping:
            event.listen(engine, "checkout", _refuse_closed)
        return cls(engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commits at the end, rolls back on any exception.

        Raises `StorageUnavailable` where PostgreSQL is out of reach or refuses to serve: it starts or stops,
        its disk is full, it takes no writes. A commit whose
        answer was lost may have happened: callers make their writes safe to repeat, or fence them.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """For one statement, which is a transaction by itself: no round trips to begin and to end it.

        Raises as `transaction` does.
        """
        with _translated(), self._autocommit.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Raises `StorageUnavailable` unless the database answers."""
        with self.transaction() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes every pooled connection."""
        self.engine.dispose()


DIALECT = dialect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as psycopg takes it, so that SQLAlchemy has nothing left to do when it is carried out.

    That had cost three times as much as psycopg does (docs/performance.md).
    """

    text: str
    _constants: Mapping[str, Any]
    _processors: Mapping[str, Callable[[Any], Any]]

    @classmethod
    def of(cls, statement: ClauseElement) -> "Statement":
        """Compiled once, for any parameters."""
        compiled = cast(SQLCompiler, statement.compile(dialect=DIALECT))
        constants, processors = {}, {}
        for parameter, name in compiled.bind_names.items():
            process = parameter.type.dialect_impl(DIALECT).bind_processor(DIALECT)
            if not parameter.required:
                constants[name] = process(parameter.value) if process else parameter.value
            elif process:
                processors[name] = process
        return cls(str(compiled), constants, processors)

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What to send along for these values of its parameters."""
        values = {**self._constants, **given}
        return values | {name: process(values[name]) for name, process in self._processors.items()}

    def execute(self, connection: Session | Connection, given: Mapping[str, Any]) -> CursorResult[Any]:
        """What the statement gives, as a part of the connection's transaction."""
        bare = connection.connection() if isinstance(connection, Session) else connection
        return bare.exec_driver_sql(self.text, self.parameters(given))


class AsyncDatabase:
    """Connections for an event loop, to be used on that. Each statement is a transaction by itself.

    Statements come as psycopg takes them. They are prepared and planned at their first use.
    """

    def __init__(self, settings: StorageSettings, *, name: str) -> None:
        self._url = _url(settings).replace("+psycopg", "", 1)
        self._how = _how(name, plan_once=True)
        self._free = asyncio.Semaphore(settings.pool_size)
        self._idle: list[psycopg.AsyncConnection] = []

    async def fetch_one(self, statement: Statement, given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The first row that the statement gives. Raises `StorageUnavailable` as `Database` does."""
        with _translated():
            async with self._free:
                connection = self._idle.pop() if self._idle else await self._connect()
                try:
                    cursor = await connection.execute(statement.text, statement.parameters(given))
                    row = await cursor.fetchone()
                except BaseException:
                    await connection.close()  # whatever it is in the midst of
                    await self.close()  # nor are the others of use, if PostgreSQL was restarted
                    raise
                self._idle.append(connection)
                return row

    async def close(self) -> None:
        """Closes the connections that are not in use."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _connect(self) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True, **self._how)


def _url(settings: StorageSettings) -> str:
    if settings.url is None:
        raise ConfigurationError(
            "POSTGRES_CONNECTION_STRING is not set. For a database of its own, run `lybic-guiagent up`."
        )
    return driver_url(settings.url.get_secret_value())


def _how(name: str, *, plan_once: bool) -> dict[str, Any]:
    """How connections are made."""
    return {
        "application_name": name,
        "connect_timeout": CONNECT_SECONDS,
        # JIT compiles for longer than any statement here runs.
        "options": f"-c statement_timeout={STATEMENT_MILLISECONDS} -c timezone=UTC -c jit=off"
        f" -c idle_in_transaction_session_timeout={IDLE_MILLISECONDS}"
        # A plan from when the tables were empty would read them through ever after.
        + (" -c plan_cache_mode=force_generic_plan -c enable_seqscan=off" if plan_once else ""),
        "prepare_threshold": 0 if plan_once else 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_MILLISECONDS,
    }


def _refuse_closed(connection: psycopg.Connection, *_: object) -> None:
    """Has the pool connect anew if PostgreSQL has closed the connection: that stands in its socket.

    SQLAlchemy's own `pool_pre_ping` takes a round trip for it.
    """
    try:
        connection.pgconn.consume_input()  # its farewell, perhaps…
        connection.pgconn.consume_input()  # …and the end of what it sent
    except psycopg.OperationalError:
        raise DisconnectionError from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (*UNAVAILABLE, PoolTimeout) as error:
        raise StorageUnavailable("the database does not answer") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise StorageUnavailable("the database dropped the connection") from error
        raise
