"""Sandboxes that were made for jobs: remembered before they are made, deleted when nobody needs them.

A job that asked to keep its sandbox has no row here. Whoever may delete a sandbox must have its credentials:
they are kept, encrypted, until it is gone, which is `SANDBOX_LINGER_SECONDS` after the last job that used it.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import cache
from typing import cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Table,
    Update,
    Uuid,
    and_,
    any_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from shared.models import Job, Sandbox
from shared.statements import in_state
from shared.states import ACTIVE

RETRY = timedelta(seconds=60)
MOST_ATTEMPTS = 60
"""After an hour of failures its own life at Lybic is left to end it."""


def announce(session: Session, job_id: UUID, credentials: bytes, *, linger_seconds: float) -> None:
    """A sandbox is about to be made for the job; again after a crash, that changes nothing."""
    row = {"job_id": job_id, "credentials": credentials, "linger": timedelta(seconds=linger_seconds)}
    session.execute(_ANNOUNCE, row)


def made(session: Session, job_id: UUID, sandbox_id: str, key: str) -> None:
    """It was made, and is known by this id."""
    session.execute(_MADE, {"of_job": job_id, "sandbox_id": sandbox_id, "key": key})


def release(session: Session, job_ids: Collection[UUID]) -> None:
    """The jobs have ended: what was made for them, or used by them, may go when it has lingered.

    A job that named the sandbox itself, or asked to keep it, makes it its caller's own.
    """
    session.execute(_release(), {"ended": list(job_ids)})


SANDBOXES = cast(Table, Sandbox.__table__)
_ANNOUNCE = insert(SANDBOXES).on_conflict_do_nothing()
_MADE = update(SANDBOXES).where(SANDBOXES.c.job_id == bindparam("of_job"))


@cache
def _release() -> Update:
    ended = Job.id == any_(bindparam("ended", type_=ARRAY(Uuid())))
    ours = or_(
        SANDBOXES.c.job_id == Job.id,
        and_(SANDBOXES.c.key == Job.sandbox_key, SANDBOXES.c.key.is_not(None)),
    )
    theirs = delete(SANDBOXES).where(ended, ours, _kept()).cte("theirs")
    later = func.clock_timestamp() + SANDBOXES.c.linger
    return update(SANDBOXES).where(ended, ours, ~_kept()).values(delete_at=later, attempts=0).add_cte(theirs)


def due(session: Session, *, limit: int) -> Sequence[Sandbox]:
    """Takes sandboxes that are to be deleted now; those that are not `forgotten` come up again."""
    needed = select(Job.id).where(Job.sandbox_key == Sandbox.key, in_state(Job.status, *ACTIVE)).exists()
    candidates = (
        select(Sandbox.job_id)
        .where(Sandbox.delete_at < func.statement_timestamp(), ~needed)
        .order_by(Sandbox.delete_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(
        update(Sandbox)
        .where(Sandbox.job_id.in_(candidates.scalar_subquery()))
        .values(delete_at=func.clock_timestamp() + RETRY, attempts=Sandbox.attempts + 1)
        .returning(Sandbox)
        .execution_options(synchronize_session=False)
    ).all()


def forget(session: Session, job_id: UUID) -> None:
    """The sandbox that was made for the job is gone."""
    session.execute(delete(Sandbox).where(Sandbox.job_id == job_id))


def _kept() -> ColumnElement[bool]:
    return cast(ColumnElement[bool], Job.options["keep_sandbox"].as_boolean())
