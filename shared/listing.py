"""What callers look through: pages of jobs, those under way, how many are ahead, who uses which sandbox.

A caller has few jobs or a million, in any state, with labels that all of them have or just one. What a query
costs must not hang on whether PostgreSQL guesses how they are spread: so each says how it is carried out.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    SQLColumnExpression,
    Subquery,
    Text,
    Uuid,
    any_,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from shared.models import Job, Sandbox
from shared.statements import in_state
from shared.states import ACTIVE, JobStatus

MOST_COUNTED, MOST_LABELLED = 10_000, 1_000
"""How far is counted; each job with labels has to be read for that, the others just stand in an index."""
LATEST = 2_000
"""Labels are looked for among so many first: a page of those that many jobs have is found there."""
SEARCHED = 10_000
"""A text is looked for among so many of the newest: no index helps to find it."""
SEARCHED_CHARACTERS = 2_000
"""So far into an instruction: it may have a hundred thousand, and ten thousand such would take for ever."""
ID_BEGINS = re.compile(r"[0-9a-f]{4}[0-9a-f-]*")
UNDER_WAY = (JobStatus.RUNNING, JobStatus.HUMAN_INTERVENTION)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs to list: an owner's (None: anybody's), in these states (none: all), with these labels.

    With a text, those whose instruction has it near its beginning, in small letters or capitals, or whose id
    begins with it.
    """

    owner: UUID | None = None
    statuses: Sequence[JobStatus] = ()
    labels: Sequence[tuple[str, Sequence[Any]]] = field(default=())
    """Each a name, and values of which the job must have one."""
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list: right after the job of this time and id."""

    created_at: datetime
    job_id: UUID


def page(
    session: Session, wanted: Wanted, *, limit: int, offset: int = 0, after: Position | None = None
) -> Sequence[Job]:
    """The wanted jobs, newest first."""
    if wanted.text is not None:
        return _newest(session, _found(session, wanted, after), limit, offset)
    if not wanted.labels:
        return _newest(session, _in_order(wanted, after, offset + limit), limit, offset)
    latest = _in_order(wanted, after, LATEST, Job.meta)
    labelled = select(latest).where(*_labelled(latest.c.meta, wanted)).subquery()
    found = _newest(session, labelled, limit, offset)
    return found if len(found) == limit else _newest(session, _whole(_all(wanted, after)), limit, offset)


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are; if not exact, at least so many."""

    number: int
    is_exact: bool


def count(session: Session, wanted: Wanted) -> Count:
    """How many jobs are wanted, over all pages, as far as that is counted or searched."""
    if wanted.text is not None:
        return _count_found(session, wanted)
    most, found = (MOST_LABELLED, _whole(_all(wanted))) if wanted.labels else (MOST_COUNTED, _all(wanted))
    counted = select(found.c.id).limit(most + 1).subquery()
    number = session.scalar(select(func.count()).select_from(counted)) or 0
    return Count(min(number, most), is_exact=number <= most)


def _count_found(session: Session, wanted: Wanted) -> Count:
    found, searched = _found(session, wanted), _in_order(wanted, None, SEARCHED + 1)
    number = session.scalar(select(func.count()).select_from(found)) or 0
    there_are = session.scalar(select(func.count()).select_from(searched)) or 0
    return Count(number, is_exact=there_are <= SEARCHED)


def _found(session: Session, wanted: Wanted, after: Position | None = None) -> Subquery:
    """Those of the newest jobs that have the text and the labels."""
    _by_indexes(session)
    beginning = func.left(Job.instruction, SEARCHED_CHARACTERS).label("beginning")
    newest, said = _in_order(wanted, None, SEARCHED, Job.meta, beginning), wanted.text or ""
    has = newest.c.beginning.icontains(said, autoescape=True)
    if ID_BEGINS.fullmatch(said.lower()):
        has = or_(has, cast(newest.c.id, Text).startswith(said.lower()))
    found = select(newest).where(has, *_labelled(newest.c.meta, wanted))
    if after is not None:  # not within the search, which would reach further with each page
        found = found.where(_behind(newest.c.created_at, newest.c.id, after))
    return found.subquery()


def _by_indexes(session: Session) -> None:
    """For this transaction: PostgreSQL would read a table through where an owner has a fifth of it."""
    session.execute(text("SET LOCAL enable_seqscan = off"))


def _in_order(
    wanted: Wanted, after: Position | None, most: int, *columns: SQLColumnExpression[Any]
) -> Subquery:
    """The newest of the wanted jobs, whatever else they have: read from one scan for each status, merged.

    Without further columns the table is not read, but the index.
    """
    scans = (
        select(Job.id, Job.created_at, *columns)
        .where(Job.status == status, *_within(wanted, after))
        .order_by(Job.created_at.desc(), Job.id.desc())
        .limit(most)
        for status in dict.fromkeys(wanted.statuses or JobStatus)
    )
    merged = union_all(*scans).subquery()
    return select(merged).order_by(merged.c.created_at.desc(), merged.c.id.desc()).limit(most).subquery()


def _all(wanted: Wanted, after: Position | None = None) -> Subquery:
    """The wanted jobs in any order."""
    found = select(Job.id, Job.created_at).where(*_within(wanted, after), *_labelled(Job.meta, wanted))
    if wanted.statuses:
        found = found.where(Job.status.in_(wanted.statuses))
    return found.subquery()


def _whole(found: Subquery) -> CTE:
    """The same, found as if all of it were asked for.

    For a few PostgreSQL might read the table through, in the hope that they come soon.
    """
    return select(found).cte().prefix_with("MATERIALIZED")


def _within(wanted: Wanted, after: Position | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.owner is not None:
        conditions.append(Job.owner_id == wanted.owner)
    if after is not None:
        conditions.append(_behind(Job.created_at, Job.id, after))
    return conditions


def _behind(
    created_at: SQLColumnExpression[datetime], job_id: SQLColumnExpression[UUID], place: Position
) -> ColumnElement[bool]:
    return tuple_(created_at, job_id) < (place.created_at, place.job_id)


def _labelled(meta: SQLColumnExpression[Any], wanted: Wanted) -> list[ColumnElement[bool]]:
    return [or_(*(meta.contains({name: value}) for value in values)) for name, values in wanted.labels]


def _newest(session: Session, among: FromClause, limit: int, offset: int) -> Sequence[Job]:
    """The newest jobs among those; what is passed over is not read from the table."""
    newest_first = among.c.created_at.desc(), among.c.id.desc()
    shown = select(among.c.id).order_by(*newest_first).limit(limit).offset(offset).subquery()
    jobs = select(Job).join(shown, Job.id == shown.c.id).order_by(Job.created_at.desc(), Job.id.desc())
    return session.scalars(jobs).all()


class Active(NamedTuple):
    """How far a job is that has not ended; the columns of that name."""

    id: UUID
    sandbox_id: str | None
    cancel_requested_at: datetime | None
    status: str
    lease_owner: str | None
    step_count: int


def active(session: Session, owner: UUID | None, *, limit: int) -> Sequence[Active]:
    """Jobs that have not ended: those under way first, then those that wait, in their order."""
    order = Job.priority, Job.created_at, Job.id
    whose = _within(Wanted(owner), None)
    first = union_all(
        *(
            select(Job.id).where(Job.status.in_(statuses), *whose).order_by(*order).limit(limit)
            for statuses in (UNDER_WAY, (JobStatus.PENDING,))
        )
    ).subquery()
    shown = select(*(getattr(Job, name) for name in Active._fields)).join(first, Job.id == first.c.id)
    query = shown.order_by(Job.status == JobStatus.PENDING, *order).limit(limit)
    return [Active(*row) for row in session.execute(query)]


def active_count(session: Session, owner: UUID | None) -> int:
    """How many jobs have not ended."""
    under_way = Job.status.in_(ACTIVE), *_within(Wanted(owner), None)
    return session.scalar(select(func.count()).select_from(Job).where(*under_way)) or 0


def queue_position(session: Session, job: Job) -> int | None:
    """How many jobs are ahead of a pending one, itself included; None for any other."""
    if job.status != JobStatus.PENDING:
        return None
    place = tuple_(Job.priority, Job.created_at, Job.id)
    ahead = Job.status == JobStatus.PENDING, place < (job.priority, job.created_at, job.id)
    return 1 + (session.scalar(select(func.count()).select_from(Job).where(*ahead)) or 0)


# --- sandboxes, by their keys (`shared.schemas.sandbox_key`) --------------------------------------------


def own_sandboxes(session: Session, owner: UUID, keys: Collection[str]) -> set[str]:
    """Those of the sandboxes that the owner's newest jobs have used, or that were made for any of theirs."""
    _by_indexes(session)
    newest = _in_order(Wanted(owner), None, LATEST, Job.sandbox_key)
    used = session.scalars(select(newest.c.sandbox_key).where(newest.c.sandbox_key.is_not(None)))
    made = select(Sandbox.key).join(Job, Job.id == Sandbox.job_id)
    theirs = session.scalars(made.where(_one_of(Sandbox.key, keys), Job.owner_id == owner))
    return {*used, *theirs}.intersection(keys)


def drivers(
    session: Session, owner: UUID | None, keys: Collection[str], made_for: Mapping[str, UUID]
) -> dict[str, UUID]:
    """The owner's jobs (None: anybody's) that drive the sandboxes now, by the sandboxes' keys.

    `made_for`: the jobs that some were made for, which don't know them before they have started.
    """
    under_way = in_state(Job.status, *UNDER_WAY), *_within(Wanted(owner), None)
    jobs = select(Job.id).where(Job.id == any_(literal(list(made_for.values()), ARRAY(Uuid()))), *under_way)
    waiting = set(session.scalars(jobs))
    driven = select(Job.sandbox_key, Job.id).where(_one_of(Job.sandbox_key, keys), *under_way)
    found = {key: job for key, job in made_for.items() if job in waiting}
    return found | {row.sandbox_key: row.id for row in session.execute(driven)}


def is_needed(session: Session, key: str, made_for: UUID | None) -> bool:
    """Whether a job that has not ended works in the sandbox, waits for it, or has it made for itself."""
    here = select(Job.id).where(Job.sandbox_key == key)
    # Apart: each has an index of its own.
    needing = [here.where(in_state(Job.status, *states)) for states in (UNDER_WAY, (JobStatus.PENDING,))]
    if made_for is not None:
        needing.append(select(Job.id).where(Job.id == made_for, in_state(Job.status, *ACTIVE)))
    return session.scalar(union_all(*needing).limit(1)) is not None


def _one_of(column: SQLColumnExpression[Any], keys: Collection[str]) -> ColumnElement[bool]:
    return column == any_(literal(list(keys), ARRAY(Text())))
