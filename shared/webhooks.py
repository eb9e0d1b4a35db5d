"""Webhooks: who wants to be told what becomes of a job, and the deliveries that they are owed.

A delivery is there as soon as its event is (`shared.models.Delivery`). It is taken for one attempt at a time,
under a lease by the database's clock: if whoever has it dies, or is too slow, it is sent once more.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from shared.models import Delivery, Event, Job, Webhook
from shared.schemas import Receiver
from shared.statements import in_state
from shared.states import DeliveryState
from shared.summary import TaskSummary, summary, timestamp

LONGEST_TEXT = 10_000


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is ours for one attempt, and what it takes to make it."""

    delivery: Delivery
    event: Event
    job: Job
    webhook: Webhook


def message_id(delivery: Delivery) -> str:
    """What a receiver knows the message by, however often it comes."""
    return f"{delivery.job_id}-{delivery.seq}"


def message_type(event_type: str) -> str:
    """What a receiver is told by, for an event of this type."""
    return f"task.{event_type}"


def message(event: Event, job: Job) -> bytes:
    """What a receiver is told: the task as it is now, its status as the event tells it, long texts cut."""
    # Types of events that are told of are the statuses that they lead to.
    told = {"status": event.type, "seq": event.seq}
    if "content" in event.payload:
        told["content"] = event.payload["content"]
    data = TaskSummary(**summary(job)).model_dump(mode="json") | told
    whole = {
        "type": message_type(event.type),
        "timestamp": timestamp(event.created_at),
        "data": {name: _cut(value) for name, value in data.items()},
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def _cut(value: Any) -> Any:
    too_long = isinstance(value, str) and len(value) > LONGEST_TEXT
    return f"{value[:LONGEST_TEXT]}…" if too_long else value


def register(session: Session, told: Iterable[tuple[UUID, Receiver, bytes]]) -> None:
    """Remembers who is told of jobs that were just submitted; each receiver comes with its encrypted form."""
    rows = [
        {"job_id": job_id, "host": receiver.host, "receiver": sealed} for job_id, receiver, sealed in told
    ]
    if rows:
        session.execute(insert(Webhook), rows)


def claim(session: Session, *, lease_seconds: float, limit: int, avoiding: Collection[str]) -> Sequence[Due]:
    """Takes deliveries that are due for an attempt, the longest overdue first, to other hosts than those."""
    due = (
        select(Delivery.job_id, Delivery.seq)
        .join(Webhook, Webhook.job_id == Delivery.job_id)
        .where(in_state(Delivery.state, DeliveryState.PENDING), Delivery.due_at < func.statement_timestamp())
        .where(Webhook.host.not_in(avoiding))
        .order_by(Delivery.due_at)
        .limit(limit)
        .with_for_update(of=Delivery, skip_locked=True)
        .cte("due")
    )
    now = func.clock_timestamp()
    claimed = session.execute(
        update(Delivery)
        .where(Delivery.job_id == due.c.job_id, Delivery.seq == due.c.seq)
        .values(
            attempts=Delivery.attempts + 1, attempted_at=now, due_at=now + timedelta(seconds=lease_seconds)
        )
        .returning(Delivery.job_id, Delivery.seq)
        .execution_options(synchronize_session=False)
    ).all()
    if not claimed:
        return []
    found = session.execute(
        select(Delivery, Event, Job, Webhook)
        .join(Event, and_(Event.job_id == Delivery.job_id, Event.seq == Delivery.seq))
        .join(Job, Job.id == Delivery.job_id)
        .join(Webhook, Webhook.job_id == Delivery.job_id)
        .where(tuple_(Delivery.job_id, Delivery.seq).in_([tuple(row) for row in claimed]))
    )
    return [Due(*row) for row in found]


def postpone(
    session: Session, delivery: Delivery, status_code: int | None, error: str | None, *, seconds: float
) -> None:
    """The attempt failed; the next one comes in so many seconds."""
    later = func.clock_timestamp() + timedelta(seconds=seconds)
    _record(session, delivery, due_at=later, status_code=status_code, error=error)


def end(
    session: Session, delivery: Delivery, status_code: int | None, error: str | None, *, state: DeliveryState
) -> None:
    """The delivery was made or given up. With the last one of an ended job its receiver is forgotten."""
    # Or each of two that end at the same time would see the other one pending.
    session.execute(select(Webhook.job_id).where(Webhook.job_id == delivery.job_id).with_for_update())
    told = {"status_code": status_code, "error": error}
    _record(session, delivery, state=state, due_at=None, ended_at=func.clock_timestamp(), **told)
    goes_on = select(Job.id).where(Job.id == delivery.job_id, Job.finished_at.is_(None))
    pending = select(Delivery.seq).where(
        Delivery.job_id == delivery.job_id, Delivery.state == DeliveryState.PENDING
    )
    session.execute(
        delete(Webhook)
        .where(Webhook.job_id == delivery.job_id, ~goes_on.exists(), ~pending.exists())
        .execution_options(synchronize_session=False)
    )


def _record(session: Session, delivery: Delivery, **values: object) -> None:
    """Writes what came of an attempt, unless there has been another one since."""
    session.execute(
        update(Delivery)
        .where(Delivery.job_id == delivery.job_id, Delivery.seq == delivery.seq)
        .where(Delivery.attempts == delivery.attempts, Delivery.state == DeliveryState.PENDING)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def deliveries(session: Session, job_id: UUID) -> Sequence[tuple[Delivery, str]]:
    """The job's deliveries in the order of their events, each with its event's type."""
    found = session.execute(
        select(Delivery, Event.type)
        .join(Event, and_(Event.job_id == Delivery.job_id, Event.seq == Delivery.seq))
        .where(Delivery.job_id == job_id)
        .order_by(Delivery.seq)
    )
    return [(row[0], row[1]) for row in found]
