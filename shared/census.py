"""The census: what PostgreSQL knows of the whole system, for those who watch it.

One statement over the jobs that have not ended. Those that have are not counted: that would take a scan of
all there ever were, so whoever ends a job counts it instead (`shared.metrics`).
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, Label, Subquery, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from shared.jobs import expired
from shared.models import Delivery, Job, Sandbox
from shared.states import ACTIVE, DeliveryState, JobStatus


@dataclass(frozen=True, slots=True)
class Census:
    """How many there are at one moment."""

    pending: int
    running: int
    human_intervention: int
    free: int
    """Pending jobs that wait for a worker, and not for their sandbox."""
    longest_wait: float
    """Seconds since the first of those was submitted, resumed or given back; 0 if there is none."""
    expired: int
    """Running jobs whose lease has run out."""
    sandboxes: int
    """Sandboxes of jobs that have ended, until they are deleted."""
    sandboxes_failing: int
    """Those among them that were to be deleted before, and resisted."""
    webhooks: int
    """Webhooks that were not accepted yet, and are not given up."""
    webhooks_failing: int
    """Those among them that were tried before."""


def take(session: Session) -> Census:
    """Counts them all."""
    job = _active()
    longest_wait = func.statement_timestamp() - func.min(job.c.updated_at).filter(job.c.free)
    released, resisted = Sandbox.delete_at.is_not(None), Sandbox.attempts > 1
    owed, tried = Delivery.state == DeliveryState.PENDING, Delivery.attempts > 1
    query = select(
        *(func.count().filter(job.c.status == status).label(status) for status in ACTIVE),
        func.count().filter(job.c.free).label("free"),
        cast(func.coalesce(func.extract("epoch", longest_wait), 0), Float).label("longest_wait"),
        func.count().filter(job.c.expired).label("expired"),
        _count("sandboxes", released),
        _count("sandboxes_failing", released, resisted),
        _count("webhooks", owed),
        _count("webhooks_failing", owed, tried),
    )
    return Census(**session.execute(query).mappings().one())


def _count(name: str, *conditions: ColumnElement[bool]) -> Label[int]:
    return select(func.count()).where(*conditions).scalar_subquery().label(name)


def _active() -> Subquery:
    """The jobs that have not ended, each with whether it is free.

    Free is what a claim takes (`shared.jobs`), put in another way: a claim looks for whoever is ahead of one
    job, and doing so for all would take as many looks as pairs of jobs want the same sandbox.
    """
    pending = Job.status == JobStatus.PENDING
    place = func.row_number().over(
        partition_by=Job.sandbox_key,
        order_by=(pending, Job.created_at, Job.id),  # whoever drives it is first
    )
    is_free = and_(pending, or_(Job.sandbox_key.is_(None), place == 1))
    return (
        select(Job.status, Job.updated_at, is_free.label("free"), expired().label("expired"))
        .where(Job.status.in_(ACTIVE))
        .subquery()
    )
