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
    CTE,
    Interval,
    LargeBinary,
    Select,
    Table,
    Uuid,
    any_,
    bindparam,
    delete,
    func,
    literal,
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
SANDBOXES = cast(Table, Sandbox.__table__)
COLUMNS = SANDBOXES.c


def announcing(job: CTE) -> Sequence[CTE]:
    """A sandbox is about to be made for the job (`sealed`, `linger`); after a crash, that was known."""
    given = (bindparam("sealed", type_=LargeBinary()), bindparam("linger", type_=Interval()))
    row = select(job.c.id, *given)
    announced = insert(SANDBOXES).from_select(["job_id", "credentials", "linger"], row)
    return [announced.on_conflict_do_nothing().cte("announced")]


def made(job: CTE) -> Sequence[CTE]:
    """It was made, and is known by the job's `sandbox_id` and `sandbox_key`."""
    known = {"sandbox_id": job.c.sandbox_id, "key": job.c.sandbox_key}
    return [update(SANDBOXES).where(COLUMNS.job_id == job.c.id).values(known).cte("made")]


def releasing(job: CTE) -> Sequence[CTE]:
    """The jobs have ended: what was made for them, or used by them, may go when it has lingered.

    A job that named the sandbox itself, or asked to keep it, makes it its caller's own.
    """
    ours = or_(COLUMNS.job_id == job.c.id, COLUMNS.key == job.c.sandbox_key)  # a key may be NULL
    kept = job.c.options["keep_sandbox"].as_boolean()
    later = func.clock_timestamp() + COLUMNS.linger
    return [
        delete(SANDBOXES).where(ours, kept).cte("theirs"),
        update(SANDBOXES).where(ours, ~kept).values(delete_at=later, attempts=0).cte("released"),
    ]


def release(session: Session, job_ids: Collection[UUID]) -> None:
    """The same for jobs that were ended by others than their runs."""
    session.execute(_release(), {"ended": list(job_ids)})


@cache
def _release() -> Select[int]:
    job = (Job.id, Job.options, Job.sandbox_key)
    ended = select(*job).where(Job.id == any_(bindparam("ended", type_=ARRAY(Uuid())))).cte("job")
    return select(literal(1)).add_cte(*releasing(ended))


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
