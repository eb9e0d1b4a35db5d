"""What is written most, each as one statement: new jobs, and what a run writes; with events and steps.

Events and steps are made from the row that the statement inserts or changes: where the lease does not hold,
it changes none, and nothing is written. As a transaction of several statements the same took three round
trips more, and four times the CPU (docs/performance.md).
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    Function,
    Integer,
    SQLColumnExpression,
    Table,
    Text,
    and_,
    bindparam,
    column,
    func,
    insert,
    literal,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from shared import events
from shared.db import Statement
from shared.models import Event, Job, Step
from shared.states import JobStatus, StepStatus

JOBS, STEPS, EVENTS = (cast(Table, model.__table__) for model in (Job, Step, Event))
COUNTERS = ("model_calls", "input_tokens", "output_tokens")
"""Columns of the job to which what a step used is added."""
REQUESTED = ("cancel_requested_at", "takeover_requested_at")
"""Columns of the job that say what somebody asked of its run, as `Request.of` takes them."""


def now() -> Function[Any]:
    """The clock. Not now(): that is when the transaction began, and a lease must not age while it waits."""
    return func.clock_timestamp()


def in_state(status: SQLColumnExpression[str], *states: StrEnum) -> ColumnElement[bool]:
    """Whether it is one of these states: as constants, or no generic plan uses a partial index."""
    return status.in_([literal_column(f"'{state}'", Text()) for state in states])


GIVEN = (
    "id",
    "owner_id",
    "idempotency_key",
    "request_digest",
    "instruction",
    "options",
    "metadata",
    "credentials",
    "parent_id",
    "priority",
    "sandbox_id",
    "sandbox_key",
)
"""Columns of a new job; the others have their defaults."""


def _submit() -> Statement:
    listed = func.jsonb_to_recordset(bindparam("jobs", type_=JSONB()))
    rows = listed.table_valued(*(column(name, JOBS.c[name].type) for name in GIVEN))
    wanted = rows.render_derived(name="wanted", with_types=True)
    job = (
        insert_or_skip(JOBS)
        .from_select([*GIVEN, "event_count"], select(*wanted.c, literal(1)), include_defaults=False)
        .on_conflict_do_nothing(
            index_elements=[JOBS.c.owner_id, JOBS.c.idempotency_key],
            index_where=JOBS.c.idempotency_key.is_not(None),
        )
        .returning(JOBS.c.id)
        .cte("job")
    )
    pending = events.status(JobStatus.PENDING)
    first = select(job.c.id, literal(1), literal(pending.type), literal(pending.payload, JSONB()), now())
    told = insert(EVENTS).from_select(["job_id", "seq", "type", "payload", "created_at"], first)
    return Statement.of(select(job.c.id).add_cte(told.cte("event")))


SUBMIT = _submit()
"""Inserts the jobs that its parameter `jobs` lists, with the columns `GIVEN`, each with its first event.

Gives the ids of those that no request with the same idempotency key had inserted before.
"""


Part = Callable[[CTE], Sequence[CTE]]
"""Makes what else belongs to a write: of the job as the write leaves it, with its `id`, `options`,
`sandbox_id` and `sandbox_key`."""


@cache
def write(
    values: tuple[str, ...],
    opens: tuple[str, ...],
    closes: tuple[str, ...],
    also: Part | None,
    *,
    tells: bool,
    counted: bool,
) -> Statement:
    """The statement. It gives one row with `REQUESTED`, or none where the lease does not hold.

    `values` are the job's columns that are set, `opens` those of a step that is added, `closes` those that
    are set of the last step, if that is an intent without an outcome. `also` is what else belongs to it.
    `tells`: events are added. `counted`: only while the job has as many events and steps as the caller knows.
    Parameters are `lease_job_id` and `lease_run` (SQLAlchemy would set columns of the names of bare ones);
    `job_NAME`, `open_NAME` and `close_NAME`; `told`, how many events, with `new_events`, the list of them as
    JSON, each with `type` and `payload`; `events` and `steps`, the known counts; and for a step that is added
    `used_NAME` for each of `COUNTERS`.
    """
    job = _job(values, counted=counted, opens=bool(opens), more=bool(also))
    parts = [_told(job)] if tells else []
    parts += [_opened(job, opens)] if opens else []
    parts += [_closed(job, closes)] if closes else []
    parts += also(job) if also else []
    return Statement.of(select(*(job.c[name] for name in REQUESTED)).add_cte(*parts))


def _job(values: tuple[str, ...], *, counted: bool, opens: bool, more: bool) -> CTE:
    known = [JOBS.c.event_count == bindparam("events"), JOBS.c.step_count == bindparam("steps")]
    changes: dict[str, ColumnElement[Any]] = {
        "event_count": JOBS.c.event_count + bindparam("told", type_=Integer()),
        "updated_at": now(),
        **{name: _given(f"job_{name}", JOBS, name) for name in values},
    }
    if opens:
        changes["step_count"] = JOBS.c.step_count + 1
        changes |= {name: JOBS.c[name] + bindparam(f"used_{name}") for name in COUNTERS}
    told = ("id", "event_count", "step_count", *REQUESTED)
    further = ("options", "sandbox_id", "sandbox_key") if more else ()
    held = update(JOBS).where(_held(), *(known if counted else ()))
    return held.values(changes).returning(*(JOBS.c[name] for name in (*told, *further))).cte("job")


def _held() -> ColumnElement[bool]:
    return and_(
        JOBS.c.id == bindparam("lease_job_id"),
        JOBS.c.run == bindparam("lease_run"),
        # An expression, which has no index: a plan from when few ran would look among all that run.
        JOBS.c.status.concat("") == JobStatus.RUNNING.value,
    )


STATE = Statement.of(
    select(JOBS.c.event_count, JOBS.c.step_count, *(JOBS.c[name] for name in REQUESTED)).where(_held())
)
"""How many events and steps the job of a lease has, and `REQUESTED`; no row where the lease does not hold."""


def _told(job: CTE) -> CTE:
    """Numbered so that the last event has the job's new count: the lock on its row keeps them in order."""
    # One text: to make arrays of several took psycopg as long as all the rest of a statement.
    listed = sql_cast(bindparam("new_events", type_=Text()), JSONB())
    event = column("event", JSONB())
    told = (
        func.jsonb_array_elements(listed).table_valued(event, with_ordinality="place").render_derived("told")
    )
    seq = job.c.event_count - bindparam("told", type_=Integer()) + told.c.place
    kind, payload = told.c.event["type"].astext, told.c.event["payload"]
    # Not the default, which is when the transaction began: no event may seem older than the one before it.
    rows = select(job.c.id, seq, kind, payload, now()).select_from(job.join(told, true()))
    return insert(EVENTS).from_select(["job_id", "seq", "type", "payload", "created_at"], rows).cte("events")


def _opened(job: CTE, columns: tuple[str, ...]) -> CTE:
    given = (_given(f"open_{name}", STEPS, name) for name in columns)
    row = select(job.c.id, bindparam("lease_run", type_=Integer()), job.c.step_count, *given)
    return insert(STEPS).from_select(["job_id", "run", "number", *columns], row).cte("opened")


def _closed(job: CTE, columns: tuple[str, ...]) -> CTE:
    return (
        update(STEPS)
        .where(
            STEPS.c.job_id == job.c.id,
            STEPS.c.number == job.c.step_count,
            STEPS.c.run == bindparam("lease_run", type_=Integer()),
            STEPS.c.status == StepStatus.INTENDED.value,
        )
        .values({name: _given(f"close_{name}", STEPS, name) for name in columns} | {"finished_at": now()})
        .cte("closed")
    )


def _given(name: str, table: Table, column: str) -> ColumnElement[Any]:
    """A parameter of the column's type; for the end of a job, the time."""
    return now() if column == "finished_at" else bindparam(name, type_=table.c[column].type)
