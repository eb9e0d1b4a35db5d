"""A job's events: what there is to tell, and the rows that tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, Integer, Row, Table, bindparam, func, insert, select
from sqlalchemy.orm import Session

from shared.db import Statement
from shared.models import Event
from shared.states import JobStatus


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something to tell: a type of the contract and the fields of that type."""

    type: str
    payload: dict[str, Any] = field(default_factory=dict)


def status(status: JobStatus, **more: Any) -> NewEvent:
    """The job is in this state now."""
    return NewEvent("status", {"status": status.value, **more})


def observation(screenshot: str | None, step: int, picture: str | None = None) -> NewEvent:
    """What the screen shows before the step of this number: a picture's URL, and its name in our store."""
    kept = {"picture": picture} if picture else {}
    return NewEvent("observation", {"screenshot": screenshot, "step": step, **kept})


def thinking(thought: str, step: int) -> NewEvent:
    """What the model thinks."""
    return NewEvent("thinking", {"content": thought, "step": step})


def action(call: str, actions: Sequence[dict[str, Any]], step: int) -> NewEvent:
    """What will be done: the model's own words and the Lybic actions they became."""
    return NewEvent("action", {"content": call, "actions": list(actions), "step": step})


def result(content: str, step: int) -> NewEvent:
    """Something that the model found out on its way."""
    return NewEvent("result", {"content": content, "step": step})


def finished(output: str) -> NewEvent:
    """Terminal: the model said that the job is done."""
    return NewEvent("finished", {"output": output, "done": True})


TAKEN_OVER = "A human has taken over."


def human_intervention(content: str, **more: Any) -> NewEvent:
    """A pause: the model asks for a human, or one has taken over."""
    return NewEvent("human_intervention", {"content": content, "needs_human": True, **more})


def cancelled() -> NewEvent:
    """Terminal: stopped on request."""
    return NewEvent("cancelled", {"cancelled": True})


def error(code: str, message: str) -> NewEvent:
    """Terminal: the job failed."""
    return NewEvent("error", {"error": message, "error_code": code})


TERMINAL = frozenset({"finished", "error", "cancelled"})


def tell(session: Session, numbers: Mapping[UUID, int], event: NewEvent) -> None:
    """Writes the same event for several jobs, each with the number that it has in that job."""
    rows = [
        {"job_id": job_id, "seq": seq, "type": event.type, "payload": event.payload}
        for job_id, seq in numbers.items()
    ]
    if rows:
        session.execute(insert(Event).values(created_at=func.clock_timestamp()), rows)


def append(session: Session, job_id: UUID, last: int, events: Sequence[NewEvent]) -> None:
    """Writes the events so that the last one gets the number `last`.

    The caller has raised the job's `event_count` to `last` in the same transaction: the lock on that row
    makes the order of commits the order of numbers.
    """
    if not events:
        return
    first = last - len(events) + 1
    rows = [
        {"job_id": job_id, "seq": seq, "type": event.type, "payload": event.payload}
        for seq, event in enumerate(events, first)
    ]
    # Not the default, which is when the transaction began: no event may seem older than the one before it.
    session.execute(insert(Event).values(created_at=func.clock_timestamp()), rows)


EventRow = Row[Any]
"""What is read of an event: the columns of `Event`, by their names."""
_EVENTS = cast(Table, Event.__table__)
_READ = Statement.of(
    select(_EVENTS)
    .where(_EVENTS.c.job_id == bindparam("job_id"), _EVENTS.c.seq > bindparam("after"))
    .order_by(_EVENTS.c.seq)
    .limit(bindparam("most", type_=Integer()))
)


def read(connection: Session | Connection, job_id: UUID, after: int, limit: int = 500) -> Sequence[EventRow]:
    """The job's events with numbers above `after`, in order, at most `limit`."""
    return _READ.execute(connection, {"job_id": job_id, "after": after, "most": limit}).all()
