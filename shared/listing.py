"""What callers look through: pages of jobs, those under way, how many are ahead."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_
from sqlalchemy.orm import Session

from shared.models import Job
from shared.states import JobStatus


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs to list: an owner's (None: anybody's), in these states (none: all), with these labels."""

    owner: UUID | None = None
    statuses: Sequence[JobStatus] = ()
    labels: Sequence[tuple[str, Sequence[Any]]] = field(default=())
    """Each a name, and values of which the job must have one."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list: right after the job of this time and id."""

    created_at: datetime
    job_id: UUID


def page(
    session: Session, wanted: Wanted, *, limit: int, offset: int = 0, after: Position | None = None
) -> Sequence[Job]:
    """The wanted jobs, newest first."""
    query = select(Job).where(*_conditions(wanted))
    if after is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < (after.created_at, after.job_id))
    newest_first = query.order_by(Job.created_at.desc(), Job.id.desc())
    return session.scalars(newest_first.limit(limit).offset(offset)).all()


def count(session: Session, wanted: Wanted) -> int:
    """How many jobs are wanted, over all pages."""
    return session.scalar(select(func.count()).select_from(Job).where(*_conditions(wanted))) or 0


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.owner is not None:
        conditions.append(Job.owner_id == wanted.owner)
    if wanted.statuses:
        conditions.append(Job.status.in_(wanted.statuses))
    for name, values in wanted.labels:
        conditions.append(or_(*(Job.meta.contains({name: value}) for value in values)))
    return conditions


def _active(owner: UUID | None) -> ColumnElement[bool]:
    under_way = Job.finished_at.is_(None)
    return under_way if owner is None else and_(under_way, Job.owner_id == owner)


def active(session: Session, owner: UUID | None, *, limit: int) -> Sequence[Job]:
    """Jobs that have not ended: those under way first, then those that wait, in their order."""
    waiting = case((Job.status == JobStatus.PENDING, 1), else_=0)
    query = select(Job).where(_active(owner)).order_by(waiting, Job.priority, Job.created_at, Job.id)
    return session.scalars(query.limit(limit)).all()


def active_count(session: Session, owner: UUID | None) -> int:
    """How many jobs have not ended."""
    return session.scalar(select(func.count()).select_from(Job).where(_active(owner))) or 0


def queue_position(session: Session, job: Job) -> int | None:
    """How many jobs are ahead of a pending one, itself included; None for any other."""
    if job.status != JobStatus.PENDING:
        return None
    came_first = tuple_(Job.created_at, Job.id) < (job.created_at, job.id)
    ahead = and_(
        Job.status == JobStatus.PENDING,
        or_(Job.priority < job.priority, and_(Job.priority == job.priority, came_first)),
    )
    return 1 + (session.scalar(select(func.count()).select_from(Job).where(ahead)) or 0)
