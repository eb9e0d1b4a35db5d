"""What a run writes: each write is one statement, which changes nothing unless the run's lease holds.

A `Write` is a value. Who has a session carries it out as a part of that transaction (`carry_out`); runs do so
on the event loop, as a transaction by itself (`worker.storage`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from shared import disposal, events, statements
from shared.db import Statement
from shared.errors import LeaseLost
from shared.events import NewEvent
from shared.models import Step
from shared.schemas import SandboxInfo, Usage
from shared.statements import STATE, Part, now
from shared.states import JobStatus, Request, StepStatus

INTERRUPTED = "The run was interrupted here: this action may or may not have happened. Look at the screen."
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work at a job: who holds it, and under which run number."""

    job_id: UUID
    run: int
    owner: str

    @property
    def given(self) -> dict[str, Any]:
        """As statements are given it."""
        return {"lease_job_id": self.job_id, "lease_run": self.run}


@dataclass(frozen=True, slots=True)
class Progress:
    """How many events and steps a run knows its job to have; nobody else adds any while it holds the lease.

    A write says from which counts it starts. So one whose answer was lost can be tried again: if it had been
    committed, the counts are already where it wanted them, and it is not done twice.
    """

    events: int
    steps: int


class AlreadyWritten(Exception):
    """This very write was committed by an earlier attempt; `request` is what is asked of the run by now."""

    def __init__(self, request: Request | None) -> None:
        super().__init__()
        self.request = request


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a run. It gives when somebody asked something of it, or no row, if it is refused."""

    lease: Lease
    statement: Statement
    given: Mapping[str, Any]
    tells: bool
    """Whether it adds events."""
    after: Progress | None
    """The counts of the job when it is done, if they were known before."""

    def refusal(self, state: Sequence[Any] | None) -> LeaseLost | AlreadyWritten:
        """What to raise where it is refused, by what `STATE` gives for its lease then."""
        if self.after and state and tuple(state[:2]) == (self.after.events, self.after.steps):
            return AlreadyWritten(Request.of(state[2], state[3]))
        return LeaseLost(f"run {self.lease.run} of task {self.lease.job_id} does not hold it any more")


def carry_out(session: Session, write: Write) -> Request | None:
    """Returns what somebody asked of the run. Raises `LeaseLost` and `AlreadyWritten`."""
    written = write.statement.execute(session, write.given).one_or_none()
    if written is None:
        raise write.refusal(STATE.execute(session, write.lease.given).one_or_none())
    return Request.of(written.cancel_requested_at, written.takeover_requested_at)


def change(
    lease: Lease,
    new_events: Sequence[NewEvent] = (),
    progress: Progress | None = None,
    **values: Any,
) -> Write:
    """Sets columns of the job and appends events."""
    return _write(lease, new_events, progress, values)


def sandbox_announced(lease: Lease, sealed: bytes, *, linger_seconds: float) -> Write:
    """A sandbox is about to be made for the job: remembered with its encrypted credentials."""
    given = {"sealed": sealed, "linger": timedelta(seconds=linger_seconds)}
    return _write(lease, [], None, NOTHING, also=disposal.announcing, given=given)


def sandbox_known(lease: Lease, info: SandboxInfo, key: str) -> Write:
    """Which sandbox the job works in."""
    known = {"sandbox_id": info.sandbox_id, "sandbox_key": key, "sandbox": info.model_dump(mode="json")}
    return _write(lease, [], None, known, also=disposal.made)


STEP_COLUMNS = (
    "status",
    "screenshot",
    "picture",
    "raw",
    "thought",
    "actions",
    "feedback",
    "input_tokens",
    "output_tokens",
    "model_ms",
)


def new_step(
    lease: Lease, step: Step, usage: Usage, new_events: Sequence[NewEvent], progress: Progress
) -> Write:
    """A step (the intent, before anything is done) with its events, and what the model used."""
    opens = {name: value for name in STEP_COLUMNS if (value := getattr(step, name)) is not None}
    used = {f"used_{name}": count for name, count in usage.model_dump().items()}
    return _write(lease, new_events, progress, NOTHING, opens=opens, given=used)


def outcome(
    lease: Lease,
    status: StepStatus,
    new_events: Sequence[NewEvent],
    progress: Progress,
    *,
    feedback: str | None = None,
    action_ms: int | None = None,
    **values: Any,
) -> Write:
    """The outcome of the last step; `values` are columns of the job."""
    closes = {"status": status.value, "feedback": feedback, "action_ms": action_ms}
    return _write(lease, new_events, progress, values, closes=closes)


def finished(lease: Lease, output: str) -> Write:
    """The model said that the job is done."""
    return _end(lease, events.finished(output), JobStatus.FINISHED, output=output)


def failed(lease: Lease, code: str, message: str) -> Write:
    """The job ended without success, for the reason that `code` names."""
    told = events.error(code, message)
    return _end(lease, told, JobStatus.ERROR, error_code=code, error_message=message)


def cancelled(lease: Lease) -> Write:
    """The run noticed the request to cancel and has stopped acting."""
    return _end(lease, events.cancelled(), JobStatus.CANCELLED)


def called_human(lease: Lease, content: str, **more: Any) -> Write:
    """The job waits for a human; see `shared.jobs.call_human`."""
    return _end(lease, events.human_intervention(content, **more), JobStatus.HUMAN_INTERVENTION)


def given_back(lease: Lease) -> Write:
    """The worker is going down: the job is free for another one at once."""
    return _end(lease, events.status(JobStatus.PENDING), JobStatus.PENDING)


def ending(status: JobStatus, **values: Any) -> dict[str, Any]:
    """The columns of a run that ends, with whatever it may not keep."""
    ended: dict[str, Any] = {"status": status.value, "lease_owner": None, "lease_expires_at": None, **values}
    if status.terminal:
        ended.update(finished_at=now(), credentials=None)
    return ended


def _end(lease: Lease, last: NewEvent, status: JobStatus, **values: Any) -> Write:
    """The end of a run in one go: status, last event, and no step left open."""
    closes = {"status": StepStatus.INTERRUPTED.value, "feedback": INTERRUPTED}
    also = disposal.releasing if status.terminal else None
    return _write(lease, [last], None, ending(status, **values), closes=closes, also=also)


def _write(
    lease: Lease,
    new_events: Sequence[NewEvent],
    progress: Progress | None,
    values: Mapping[str, Any],
    *,
    opens: Mapping[str, Any] = NOTHING,
    closes: Mapping[str, Any] = NOTHING,
    also: Part | None = None,
    given: Mapping[str, Any] = NOTHING,
) -> Write:
    statement = statements.write(
        tuple(values), tuple(opens), tuple(closes), also, tells=bool(new_events), counted=bool(progress)
    )
    all_given = {**lease.given, "told": len(new_events), **given}
    for prefix, columns in (("job", values), ("open", opens), ("close", closes)):
        all_given |= {f"{prefix}_{name}": value for name, value in columns.items()}
    if progress:
        all_given |= {"events": progress.events, "steps": progress.steps}
    if new_events:
        told = [{"type": event.type, "payload": event.payload} for event in new_events]
        all_given["new_events"] = json.dumps(told)
    after = progress and Progress(progress.events + len(new_events), progress.steps + bool(opens))
    return Write(lease, statement, all_given, bool(new_events), after)
