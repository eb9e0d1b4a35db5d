"""A job's durable life: submitted, claimed, stepped through, ended.

Every function takes a session and never commits. Two rules hold here. At most one run writes: a claim raises
the job's run number, and every write of a run (`shared.writes`) is an UPDATE that says `run = :mine`; if it
hits no row, the run raises `LeaseLost` and stops. And the job's row is locked before its events are numbered,
so that the order of commits is the order of numbers.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Function,
    Integer,
    Interval,
    Select,
    SQLColumnExpression,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    insert,
    inspect,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from shared import disposal, events, statements, writes
from shared.conversation import Turn
from shared.db import Statement
from shared.errors import IdempotencyConflict, InvalidRequest, JobConflict, JobNotFound
from shared.models import Event, Job, Step
from shared.schemas import NewJob, sandbox_key
from shared.statements import JOBS, REQUESTED, in_state, now
from shared.states import ACTIVE, JobStatus, Request, StepStatus
from shared.writes import INTERRUPTED, Lease, carry_out, ending


def _asked() -> Function[Any]:
    # For comparisons: an index is of no use to a function that may change in the midst of a statement.
    return func.statement_timestamp()


# --- submitting and reading ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is durable now; `new` unless the same request had made it so before."""

    job_id: UUID
    new: bool


def submit(connection: Session | Connection, wanted: Sequence[tuple[NewJob, bytes]]) -> list[Submitted]:
    """Makes requests durable, all or none: each job as `pending`, and its first event.

    Each comes with its encrypted credentials. It is one statement, and a further one for each idempotency key
    that was used before. Raises `IdempotencyConflict`.
    """
    ids = sorted(uuid4() for _ in wanted)  # jobs of one moment stay in order
    rows = [_row(job_id, new, sealed) for job_id, (new, sealed) in zip(ids, wanted, strict=True)]
    inserted = {row.id for row in statements.SUBMIT.execute(connection, {"jobs": rows})}
    return [
        Submitted(job_id, new=True) if job_id in inserted else Submitted(_earlier(connection, new), new=False)
        for job_id, (new, _) in zip(ids, wanted, strict=True)
    ]


def _row(job_id: UUID, new: NewJob, sealed_credentials: bytes) -> dict[str, Any]:
    """A new job as JSON, with bytes in hexadecimal, as PostgreSQL reads them."""
    named, idempotency = new.sandbox_id, new.idempotency
    return {
        "id": str(job_id),
        "owner_id": new.owner_id and str(new.owner_id),
        "idempotency_key": idempotency and idempotency.key,
        "request_digest": idempotency and rf"\x{idempotency.digest.hex()}",
        "instruction": new.instruction,
        "options": new.options.model_dump(mode="json"),
        "metadata": new.metadata,
        "credentials": rf"\x{sealed_credentials.hex()}",
        "parent_id": new.parent_id and str(new.parent_id),
        "priority": new.priority,
        "sandbox_id": named,
        "sandbox_key": sandbox_key(new.credentials.lybic, named) if named else None,
    }


def _earlier(connection: Session | Connection, new: NewJob) -> UUID:
    """The job that the same request made before."""
    assert new.idempotency is not None  # noqa: S101 - only such rows conflict
    found = connection.execute(
        select(Job.id, Job.request_digest).where(
            Job.owner_id.is_not_distinct_from(new.owner_id), Job.idempotency_key == new.idempotency.key
        )
    ).one()
    if found.request_digest != new.idempotency.digest:
        raise IdempotencyConflict("this Idempotency-Key was used for another request")
    job_id: UUID = found.id
    return job_id


def get(
    session: Session, job_id: UUID, *, owner: UUID | None = None, lock: Literal["write", "keep"] | None = None
) -> Job:
    """The job. Raises `JobNotFound`, also if it is not the owner's; without an owner anybody's is found.

    Until the transaction ends nobody else can write to a job locked so, or remove one that is to be kept.
    """
    how = {"key_share": True, "read": True} if lock == "keep" else lock == "write"
    job = session.get(Job, job_id, with_for_update=how)
    if job is None or (owner is not None and job.owner_id != owner):
        raise JobNotFound(f"there is no task {job_id}")
    return job


def steps(session: Session, job_id: UUID, *, after: int = 0, limit: int | None = None) -> Sequence[Step]:
    """The job's steps with numbers above `after`, in order; all, or at most `limit`."""
    wanted = select(Step).where(Step.job_id == job_id, Step.number > after)
    return session.scalars(wanted.order_by(Step.number).limit(limit)).all()


def is_over(connection: Session | Connection, job_id: UUID, after: int) -> bool:
    """Whether the job has ended and has no events with numbers above `after`."""
    return bool(
        connection.scalar(
            select(and_(Job.finished_at.is_not(None), Job.event_count <= after)).where(Job.id == job_id)
        )
    )


def event_counts(connection: Session | Connection, job_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many events each of the jobs has."""
    counted = connection.execute(select(Job.id, Job.event_count).where(Job.id.in_(job_ids)))
    return {row.id: row.event_count for row in counted}


def is_new_picture(session: Session, job_id: UUID, name: str, *, seconds: float) -> bool:
    """Whether the job told of the screenshot of this name so recently that it may be on its way."""
    told = select(Event.seq).where(
        Event.job_id == job_id,
        Event.payload["picture"].astext == name,
        Event.created_at > _asked() - timedelta(seconds=seconds),
    )
    return session.scalar(select(told.exists())) is True


LONGEST_CHAIN = 50


def chain(session: Session, job: Job) -> list[Job]:
    """The jobs whose context the job continues, oldest first, and the job itself."""
    found = [job]
    while (parent_id := found[-1].parent_id) and len(found) < LONGEST_CHAIN:
        found.append(get(session, parent_id))
    return found[::-1]


def turns(session: Session, job: Job) -> list[Turn]:
    """What was asked and done in the jobs that the job continues, and in itself."""
    return [
        Turn(one.instruction, steps(session, one.id) if one.step_count else [], one.advice)
        for one in chain(session, job)
    ]


# --- holding --------------------------------------------------------------------------------------------


def expired() -> ColumnElement[bool]:
    """Its run has lost its lease: nobody works at it."""
    return and_(in_state(Job.status, JobStatus.RUNNING), Job.lease_expires_at < _asked())


def _ahead_at_sandbox() -> ColumnElement[UUID | None]:
    """The job that drives the sandbox that a pending one names; or else the first that asked before it."""
    other = aliased(Job)
    at_it = select(other.id).where(other.sandbox_key == Job.sandbox_key).correlate(Job)
    drives = at_it.where(in_state(other.status, JobStatus.RUNNING, JobStatus.HUMAN_INTERVENTION))
    place = tuple_(other.created_at, other.id)
    came_first = (
        at_it.where(in_state(other.status, JobStatus.PENDING), place < tuple_(Job.created_at, Job.id))
        .order_by(other.created_at, other.id)
        .limit(1)
    )
    return func.coalesce(drives.scalar_subquery(), came_first.scalar_subquery())


def _free() -> ColumnElement[bool]:
    # Not as NOT EXISTS, which PostgreSQL turns into a join of all that wait with all that have not ended.
    return and_(in_state(Job.status, JobStatus.PENDING), _ahead_at_sandbox().is_(None))


def claim(session: Session, job_id: UUID, *, owner: str, lease_seconds: float) -> Job | None:
    """Takes the job for a new run, or gives None: it is held, ended, waiting or gone.

    Raises `IntegrityError` if a job at the same sandbox was taken at the same moment.
    """
    given = {"named": job_id, "owner": owner, "lease": timedelta(seconds=lease_seconds)}
    claimed = _claim(session, _claiming_one(), given)
    return claimed[0] if claimed else None


def claim_forgotten(
    session: Session, *, owner: str, lease_seconds: float, grace_seconds: float, limit: int
) -> Sequence[Job]:
    """Takes jobs that nobody holds though they are free: their worker died, or their message was lost.

    A job that was submitted within the grace is left to its message; one that has run before has none.
    Jobs that another worker is just taking are passed over. Raises `IntegrityError` as `claim` does.
    """
    given = {"owner": owner, "lease": timedelta(seconds=lease_seconds)}
    claimed = _claim(session, _claiming_expired(), {**given, "most": limit})
    left = {"most": limit - len(claimed), "grace": timedelta(seconds=grace_seconds)}
    return [*claimed, *_claim(session, _claiming_unheard(), given | left)]


# Made once: to make one of them took ten times the CPU of executing it.


@cache
def _claiming_one() -> Statement:
    named = select(Job.id).where(Job.id == bindparam("named"), or_(_free(), expired()))
    return _claiming(named.with_for_update(of=Job))


@cache
def _claiming_expired() -> Statement:
    return _claiming(_some(expired(), Job.lease_expires_at))


@cache
def _claiming_unheard() -> Statement:
    late = Job.created_at < _asked() - bindparam("grace", type_=Interval())
    return _claiming(_some(and_(_free(), or_(Job.run > 0, late)), Job.priority))


def _some(forgotten: ColumnElement[bool], order: SQLColumnExpression[Any]) -> Select[UUID]:
    some = select(Job.id).where(forgotten).order_by(order, Job.created_at, Job.id).limit(bindparam("most"))
    return some.with_for_update(of=Job, skip_locked=True)


def _claiming(locked: Select[UUID]) -> Statement:
    """Takes the jobs that the query has locked: gives each with its state before, and tells that it runs."""
    before = locked.add_columns(JOBS.c.status).cte("before")
    owner = bindparam("owner", type_=Text())
    claimed = (
        update(JOBS)
        .where(JOBS.c.id == before.c.id)
        .values(
            status=JobStatus.RUNNING.value,
            run=JOBS.c.run + 1,
            crashes=JOBS.c.crashes + case((JOBS.c.status == JobStatus.RUNNING.value, 1), else_=0),
            lease_owner=owner,
            lease_expires_at=now() + bindparam("lease", type_=Interval()),
            started_at=func.coalesce(JOBS.c.started_at, now()),
            updated_at=now(),
            event_count=JOBS.c.event_count + 1,
        )
        .returning(JOBS, before.c.status.label("before"))
        .cte("claimed")
    )
    running = func.jsonb_build_object(
        "status", literal(JobStatus.RUNNING.value), "run", claimed.c.run, "worker", owner
    )
    told = select(claimed.c.id, claimed.c.event_count, literal("status"), running, now())
    event = insert(Event).from_select(["job_id", "seq", "type", "payload", "created_at"], told)
    return Statement.of(select(claimed).add_cte(event.cte("told")))


COLUMNS = [(attribute.key, attribute.columns[0].name) for attribute in inspect(Job).column_attrs]


def _claim(session: Session, claiming: Statement, given: dict[str, Any]) -> Sequence[Job]:
    """Takes jobs.

    A step that an earlier run left between intent and outcome becomes `interrupted`; it is never replayed.
    That is another statement, for it must see what that run wrote until the job's row was locked.
    """
    claimed = []
    for row in claiming.execute(session, given).mappings():
        job = Job(**{attribute: row[column] for attribute, column in COLUMNS})
        job.recovered = row["before"] == JobStatus.RUNNING
        if job.recovered:
            _interrupt(session, job.id)
        claimed.append(job)
    return claimed


def _interrupt(session: Session, job_id: UUID) -> None:
    session.execute(
        update(Step)
        .where(Step.job_id == job_id, Step.status == StepStatus.INTENDED)
        .values(status=StepStatus.INTERRUPTED, feedback=INTERRUPTED, finished_at=now())
    )


def waits_for(session: Session, job: Job) -> Job | None:
    """The job that a pending one waits for, since both want the same sandbox."""
    if job.status != JobStatus.PENDING or job.sandbox_key is None:
        return None
    found = session.scalar(select(_ahead_at_sandbox()).select_from(Job).where(Job.id == job.id))
    return session.get(Job, found) if found else None


def runs(session: Session, job_id: UUID) -> list[str]:
    """A line for each run of the job: who had it, since when."""
    started = session.scalars(
        select(Event)
        .where(Event.job_id == job_id, Event.type == "status", Event.payload["run"].is_not(None))
        .order_by(Event.seq)
    )
    return [
        f"run {event.payload['run']} on {event.payload['worker']} from {event.created_at:%Y-%m-%dT%H:%M:%SZ}"
        for event in started
    ]


def renew(connection: Session | Connection, leases: Iterable[Lease], *, lease_seconds: float) -> set[UUID]:
    """Renews the leases that are still ours and returns their jobs; the others are lost.

    A lease that expired without being reclaimed is renewed: nobody else acts on the job.
    """
    held = {lease.job_id: lease for lease in leases}
    given = {
        "ids": list(held),
        "runs": [lease.run for lease in held.values()],
        "lease": timedelta(seconds=lease_seconds),
    }
    return set(_renewing().execute(connection, given).scalars())


@cache
def _renewing() -> Statement:
    arrays = (bindparam("ids", type_=ARRAY(Uuid())), bindparam("runs", type_=ARRAY(Integer())))
    held = func.unnest(*arrays).table_valued("id", "run").render_derived("held")
    return Statement.of(
        update(JOBS)
        .where(JOBS.c.id == held.c.id, JOBS.c.run == held.c.run, JOBS.c.status == JobStatus.RUNNING.value)
        .values(lease_expires_at=now() + bindparam("lease", type_=Interval()))
        .returning(JOBS.c.id)
    )


def requests(connection: Session | Connection, owner: str) -> dict[UUID, Request]:
    """What somebody asked of the jobs that this owner runs."""
    found = _requested().execute(connection, {"owner": owner})
    return {
        row.id: request
        for row in found
        if (request := Request.of(row.cancel_requested_at, row.takeover_requested_at))
    }


@cache
def _requested() -> Statement:
    times = [JOBS.c[name] for name in REQUESTED]
    asked = and_(in_state(JOBS.c.status, JobStatus.RUNNING), or_(*(time.is_not(None) for time in times)))
    return Statement.of(select(JOBS.c.id, *times).where(asked, JOBS.c.lease_owner == bindparam("owner")))


# --- ending ---------------------------------------------------------------------------------------------


def call_human(session: Session, lease: Lease, content: str, **more: Any) -> bool:
    """The run ends, and the job waits for a human; unless somebody asked to cancel it by now: then False.

    `content` is why, with `more` for the event.
    """
    asked = select(Job.cancel_requested_at).where(Job.id == lease.job_id).with_for_update()
    # Nobody would look for that again while the job waits.
    cancelled = session.scalar(asked) is not None
    carry_out(session, writes.cancelled(lease) if cancelled else writes.called_human(lease, content, **more))
    return not cancelled


def request_cancel(session: Session, job_id: UUID, *, owner: UUID | None = None) -> Job:
    """Asks for the end of a job; see `request_cancel_all`. Raises `JobNotFound`."""
    job = get(session, job_id, owner=owner)
    _request_cancel(session, Job.id == job_id)
    session.refresh(job)
    return job


def request_cancel_all(session: Session, *, owner: UUID | None = None) -> Sequence[Job]:
    """Asks for the end of every job of an owner that has not ended, without one of everybody's.

    Nobody acts on a job that is not running: such a one ends here and now. A running one is told by
    `cancel_requested_at`. Returns them as they are then.
    """
    return _request_cancel(session, true() if owner is None else Job.owner_id == owner)


def _request_cancel(session: Session, whose: ColumnElement[bool]) -> Sequence[Job]:
    # Both statements say which jobs in the same way; the locks of the first keep them as they are.
    marked = session.scalars(
        update(Job)
        .where(in_state(Job.status, *ACTIVE), whose)
        .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, now()))
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    ended = session.scalars(
        update(Job)
        .where(in_state(Job.status, *ACTIVE), whose, Job.cancel_requested_at.is_not(None))
        .where(Job.status != JobStatus.RUNNING)
        .values(event_count=Job.event_count + 1, updated_at=now(), **ending(JobStatus.CANCELLED))
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    events.tell(session, {job.id: job.event_count for job in ended}, events.cancelled())
    if ended:
        disposal.release(session, [job.id for job in ended])
    return marked


def request_takeover(session: Session, job_id: UUID, *, owner: UUID | None = None) -> Job:
    """Asks the run of a job to leave it to a human; one that waits for a human already stays as it is.

    The request is in force until a resume: a run that gives the job back before it could obey leaves that to
    the next. Raises `JobNotFound`, and `JobConflict` in any other state.
    """
    job = get(session, job_id, owner=owner, lock="write")
    asked_before = job.status in ACTIVE and job.request is Request.TAKEOVER
    if asked_before or job.status == JobStatus.HUMAN_INTERVENTION:
        return job
    if job.status != JobStatus.RUNNING or job.request is Request.CANCEL:
        state = "being cancelled" if job.status == JobStatus.RUNNING else job.status
        raise JobConflict(f"task {job_id} is {state}: only one that runs can be taken over")
    job.takeover_requested_at = now()
    session.flush()
    session.refresh(job)
    return job


MOST_ADVICE = 300_000
RESUMED = "The user has helped. Look at the screen and go on."


def resume(session: Session, job_id: UUID, message: str | None, *, owner: UUID | None = None) -> Job:
    """Lets a job that waits for a human go on, in its sandbox, as its turn comes.

    The message is what the model is told; one that did not call is told first that somebody has acted. Raises
    `JobNotFound`, and `JobConflict` in any other state.
    """
    job = get(session, job_id, owner=owner, lock="write")
    if job.status != JobStatus.HUMAN_INTERVENTION:
        raise JobConflict(f"task {job_id} is {job.status}: only one in human_intervention can be resumed")
    unasked = RESUMED if job.request is Request.TAKEOVER else None
    _advise(session, job, "\n\n".join(filter(None, (unasked, message))) or RESUMED)
    job.status = JobStatus.PENDING
    job.takeover_requested_at = None
    job.paused = Job.paused + (now() - Job.updated_at)
    job.updated_at = now()
    job.event_count += 1
    session.flush()
    session.refresh(job)  # what the database's clock said
    resumed = events.status(JobStatus.PENDING, resumed=True, content=message)
    events.append(session, job_id, job.event_count, [resumed])
    return job


def _advise(session: Session, job: Job, message: str) -> None:
    """The model is told with its last step, after what that came to; before the first, at the outset.

    Raises `InvalidRequest` where it was told too much since: a job may be taken over and resumed for ever.
    """
    last = session.get(Step, (job.id, job.step_count)) if job.step_count else None
    told = "\n\n".join(filter(None, (last.feedback if last else job.advice, message)))
    if len(told) > MOST_ADVICE:
        said = f"the agent was told {MOST_ADVICE} characters since its last step: it takes no more"
        raise InvalidRequest(said, field="message")
    if last:
        last.feedback = told
    else:
        job.advice = told
