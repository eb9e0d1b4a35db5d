"""The routes of tasks: submit, run, batch, status, list, events, steps, cancel, resume."""

import time
from collections.abc import Sequence
from functools import cache
from uuid import UUID

from flask import Response, request
from flask_openapi import APIBlueprint
from sqlalchemy.orm import Session

from api import views
from api.answers import (
    ActiveAnswer,
    BatchAnswer,
    CancelAnswer,
    CancelledAll,
    CancelledOne,
    EventsAnswer,
    EventView,
    ListAnswer,
    ResumedAnswer,
    StepsAnswer,
    SubmittedAnswer,
    TaskAnswer,
    error_answers,
    reply,
)
from api.auth import Caller, caller
from api.metrics import SUBMITTED
from api.requests import cursor, idempotency, job_id, labels, new_job, position
from api.schemas import (
    ActiveQuery,
    BatchRequest,
    CancelRequest,
    EventsHeaders,
    EventsQuery,
    ListQuery,
    ResumeRequest,
    RunAgentRequest,
    StatusQuery,
    StepsQuery,
    SubmitHeaders,
    TaskPath,
    last_seen,
)
from api.services import Services, services
from api.streams import EventStream
from shared import events, jobs, keys, listing, webhooks
from shared.errors import InvalidRequest, JobConflict, JobNotFound, TooManyActiveJobs
from shared.jobs import Submitted
from shared.listing import Position, Wanted
from shared.metrics import JOBS_ENDED
from shared.models import Job
from shared.schemas import Idempotency, NewJob
from shared.states import JobStatus
from shared.summary import TaskSummary, summary
from shared.tracing import span

ERRORS = error_answers(400, 401, 403, 404, 409, 413, 429, 500, 503)
STREAM = {
    "description": "Server-sent events: `id` is the event's number, `data` the JSON of one event.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

routes = APIBlueprint(
    "tasks", __name__, url_prefix="/api/agent", abp_tags=[{"name": "Tasks"}], abp_responses=ERRORS
)

STOP_SECONDS = 2.0
"""How long an answer waits for runs to stop."""
STOP_POLL_SECONDS = 0.2
EVENTS_PAGE = 500
FULL_SECONDS = 5
"""When a caller with too many tasks may try again."""


# --- submitting -----------------------------------------------------------------------------------------


Asked = tuple[RunAgentRequest, Idempotency | None]


def _submit(wanted: Sequence[Asked], who: Caller, *, within: str = "") -> list[Submitted]:
    """Makes the requests durable, all or none, then tells the workers. `within` leads to each in errors."""
    here = services()
    seal = cache(here.vault.seal)  # the tasks of a batch share their credentials, as a rule
    if who.max_active_tasks is None and not any(_takes_more(*one) for one in wanted):
        new = _new_jobs(None, here, who, wanted, within)
        sealed = [(job, seal(job.credentials)) for job in new]
        with here.db.statement() as connection:
            submitted = jobs.submit(connection, sealed)
    else:
        with here.db.transaction() as session:
            new = _new_jobs(session, here, who, wanted, within)
            if who.key_id and who.max_active_tasks:
                keys.lock(session, who.key_id)
            submitted = jobs.submit(session, [(job, seal(job.credentials)) for job in new])
            told = [
                (one.job_id, job.receiver, seal(job.receiver))
                for job, one in zip(new, submitted, strict=True)
                if one.new and job.receiver
            ]
            webhooks.register(session, told)
            _refuse_too_many(session, who, submitted)
    SUBMITTED.inc(sum(one.new for one in submitted))
    for job, one in zip(new, submitted, strict=True):
        if one.new:
            here.dispatcher.dispatch(one.job_id, job.priority)
    return submitted


def _takes_more(asked: RunAgentRequest, idempotency: Idempotency | None) -> bool:
    """Whether it takes a transaction, and not just the statement that inserts jobs."""
    return asked.continue_context or asked.webhook_url is not None or idempotency is not None


def _new_jobs(
    session: Session | None, here: Services, who: Caller, wanted: Sequence[Asked], within: str
) -> list[NewJob]:
    return [
        _new(session, here, who, asked, within and f"{within}[{index}].")
        for index, asked in enumerate(wanted)
    ]


def _new(session: Session | None, here: Services, who: Caller, wanted: Asked, where: str) -> NewJob:
    """The job of a request; a session is only needed for one that continues another."""
    asked, idempotency = wanted
    try:
        with span("submit", apart=bool(where)):  # the tasks of a batch would be too much for one trace
            new = new_job(asked, here.settings, here.receivers, owner=who.key_id, idempotency=idempotency)
        return _continued(session, asked, new, who) if session else new
    except InvalidRequest as error:
        error.message = f"{where}{error.message}"
        error.details["field"] = f"{where}{error.details['field']}"
        raise
    except (JobConflict, JobNotFound) as error:
        if where:
            error.message = f"{where}task_id: {error.message}"
            error.details["field"] = f"{where}task_id"
        raise


def _continued(session: Session, asked: RunAgentRequest, new: NewJob, who: Caller) -> NewJob:
    """The job as a follow-up of the task that it names, in the same sandbox unless another is named."""
    if not asked.continue_context:
        return new
    if asked.task_id is None:
        raise InvalidRequest("task_id: continue_context needs the task to continue", field="task_id")
    parent = jobs.get(session, job_id(asked.task_id), owner=who.key_id, lock="keep")
    if not JobStatus(parent.status).terminal:
        raise JobConflict(f"task {parent.id} is still {parent.status}: it can be continued when it has ended")
    return new.model_copy(update={"parent_id": parent.id, "sandbox_id": new.sandbox_id or parent.sandbox_id})


def _refuse_too_many(session: Session, who: Caller, submitted: Sequence[Submitted]) -> None:
    most = who.max_active_tasks
    if most is None or not any(one.new for one in submitted):
        return
    active = listing.active_count(session, who.key_id)
    if active > most:
        raise TooManyActiveJobs(
            f"this API key may have {most} tasks that have not ended; these would make {active}",
            retry_after=FULL_SECONDS,
        )


@routes.post("/task/submit", responses={200: SubmittedAnswer})
def submit(header: SubmitHeaders, body: RunAgentRequest) -> Response:
    """Submit a task. Answers at once, when it is durable."""
    [one] = _submit([(body, idempotency(header.idempotency_key, body))], caller())
    return reply(SubmittedAnswer(task_id=str(one.job_id), message="Task submitted successfully"))


@routes.post("/task/batch", responses={200: BatchAnswer})
def batch(header: SubmitHeaders, body: BatchRequest) -> Response:
    """Submit up to 1,000 tasks. All become durable, or, if one is refused, none."""
    wanted = [
        (asked, idempotency(header.idempotency_key, body, index)) for index, asked in enumerate(body.tasks)
    ]
    ids = [str(one.job_id) for one in _submit(wanted, caller(), within="tasks")]
    return reply(BatchAnswer(task_ids=ids, count=len(ids), message=f"{len(ids)} task(s) submitted"))


@routes.post("/run", responses={200: STREAM})
def run(header: SubmitHeaders, body: RunAgentRequest) -> Response:
    """Submit a task and stream its events. Leaving the stream does not end the task."""
    here = services()
    [one] = _submit([(body, idempotency(header.idempotency_key, body))], caller())
    return EventStream(here.db, here.hub, here.settings.api, one.job_id, 0, ends_at_pause=True).response()


# --- looking --------------------------------------------------------------------------------------------


@routes.get("/task/status/<task_id>", responses={200: TaskAnswer})
def status(path: TaskPath, query: StatusQuery) -> Response:
    """Tell a task's state and result."""
    wanted = {name.strip() for name in (query.fields or "").split(",")} & TaskAnswer.model_fields.keys()
    with services().db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
        shown = TaskAnswer(
            **summary(job),
            queue_position=listing.queue_position(session, job),
            pending_reason=views.pending_reason(job, jobs.waits_for(session, job)),
            llm_context=None,
        )
        if not wanted or "llm_context" in wanted:
            shown.llm_context = views.llm_context(job, jobs.turns(session, job))
    return reply(shown, include={"task_id"} | wanted if query.fields else None)


@routes.get("/task/list", responses={200: ListAnswer})
def list_tasks(query: ListQuery) -> Response:
    """List tasks, newest first."""
    wanted = Wanted(caller().key_id, query.status, labels(query.metadata), query.q)
    with services().db.transaction() as session:
        found = listing.page(
            session, wanted, limit=query.limit + 1, offset=query.offset, after=position(query.cursor)
        )
        total = listing.count(session, wanted)
    shown, more = found[: query.limit], len(found) > query.limit
    return reply(
        ListAnswer(
            tasks=[TaskSummary(**summary(job)) for job in shown],
            count=len(shown),
            total=total.number,
            total_is_exact=total.is_exact,
            next_cursor=cursor(Position(shown[-1].created_at, shown[-1].id)) if more else None,
        )
    )


@routes.get("/tasks", responses={200: ActiveAnswer})
def active(query: ActiveQuery) -> Response:
    """List the tasks that have not ended, over all workers: those under way, then those that wait."""
    owner = caller().key_id
    with services().db.transaction() as session:
        found = listing.active(session, owner, limit=query.limit)
        total = listing.active_count(session, owner)
    shown = [views.active_task(job) for job in found]
    return reply(ActiveAnswer(tasks=shown, count=len(shown), total=total))


@routes.get("/task/<task_id>/steps", responses={200: StepsAnswer})
def steps(path: TaskPath, query: StepsQuery) -> Response:
    """Tell a task's steps: what was seen, what was decided, what came of it."""
    with services().db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
        found = jobs.steps(session, job.id, after=query.after, limit=query.limit)
    last = found[-1].number if found else query.after
    return reply(
        StepsAnswer(
            task_id=str(job.id),
            steps=[views.step(row) for row in found],
            count=len(found),
            total=job.step_count,
            next_after=last if last < job.step_count else None,
        )
    )


@routes.get("/task/<task_id>/events", responses={200: EventsAnswer, 204: None})
def task_events(path: TaskPath, header: EventsHeaders, query: EventsQuery) -> Response:
    """Stream a task's events: those after the last one seen, then those that come, until the terminal one.

    With `Accept: application/json` a page of them, and no stream. 204: there will be no more.
    """
    here, after, asked = services(), last_seen(header, query), job_id(path.task_id)
    as_page = request.accept_mimetypes.best_match(["text/event-stream", "application/json"])
    with here.db.transaction() as session:
        jobs.get(session, asked, owner=caller().key_id)
        rows = events.read(session, asked, after, EVENTS_PAGE) if as_page == "application/json" else []
        last = rows[-1].seq if rows else after
        over = jobs.is_over(session, asked, last)
    if as_page == "application/json":
        shown = [EventView.model_validate(views.event(row)) for row in rows]
        answer = EventsAnswer(success=True, events=shown, count=len(shown), next_after=last, over=over)
        return reply(answer, exclude_unset=True)  # an event has the fields of its type, and no others
    if over:  # tells an EventSource not to come back
        return Response(status=204)
    return EventStream(here.db, here.hub, here.settings.api, asked, after, ends_at_pause=False).response()


routes.paths["/api/agent/task/{task_id}/events"].get.responses["200"].content.update(STREAM["content"])

# --- stopping and going on ------------------------------------------------------------------------------


@routes.post("/task/<task_id>/resume", responses={200: ResumedAnswer})
def resume(path: TaskPath, body: ResumeRequest) -> Response:
    """Let a task that called a human go on, in the same sandbox; the message is added to its context."""
    here = services()
    with here.db.transaction() as session:
        job = jobs.resume(session, job_id(path.task_id), body.message, owner=caller().key_id)
    here.waker.wake(job.id)
    here.dispatcher.dispatch(job.id, job.priority)
    return reply(
        ResumedAnswer(task_id=str(job.id), status=JobStatus(job.status), message=f"Task {job.id} goes on")
    )


@routes.post("/cancel", responses={200: CancelAnswer})
def cancel(body: CancelRequest) -> Response:
    """Cancel one task, or every active one. Answers when they have stopped, or after two seconds."""
    here, owner = services(), caller().key_id
    if body.task_id:
        return _cancel_one(here, job_id(body.task_id), owner)
    with here.db.transaction() as session:
        asked_all = jobs.request_cancel_all(session, owner=owner)
    _count_cancelled(asked_all)
    for job in asked_all:
        here.waker.wake(job.id)
    deadline = time.monotonic() + STOP_SECONDS
    stopped = [wait_until_stopped(here, job, deadline) for job in asked_all]
    ids = [str(job.id) for job in stopped if job.status == JobStatus.CANCELLED]
    stopping = [str(job.id) for job in stopped if not JobStatus(job.status).terminal]
    message = f"{len(ids)} task(s) cancelled" + (f", {len(stopping)} stopping" if stopping else "")
    return reply(CancelledAll(task_ids=ids, stopping=stopping, count=len(ids), message=message))


def _cancel_one(here: Services, wanted: UUID, owner: UUID | None) -> Response:
    with here.db.transaction() as session:
        before = jobs.get(session, wanted, owner=owner)
        again = before.status == JobStatus.CANCELLED or before.cancel_requested_at is not None
        waited = before.status in {JobStatus.PENDING, JobStatus.HUMAN_INTERVENTION}
        asked = jobs.request_cancel(session, wanted, owner=owner)
    _count_cancelled([asked] if waited else [])
    here.waker.wake(wanted)
    job = wait_until_stopped(here, asked, time.monotonic() + STOP_SECONDS)
    said = f"had already ended: {job.status}" if JobStatus(job.status).terminal else "is stopping"
    if job.status == JobStatus.CANCELLED:
        said = "cancelled"
    return reply(
        CancelledOne(
            task_id=str(job.id),
            status=JobStatus(job.status),
            already_cancelled=again,
            message=f"Task {job.id} {said}",
        )
    )


def _count_cancelled(asked: Sequence[Job]) -> None:
    """Counts those that ended at once; the others end by their worker, which counts them."""
    ended = sum(job.status == JobStatus.CANCELLED for job in asked)
    JOBS_ENDED.labels(JobStatus.CANCELLED, "").inc(ended)


def wait_until_stopped(here: Services, job: Job, deadline: float) -> Job:
    """The job when its run has stopped: then no further action is carried out."""
    if job.status != JobStatus.RUNNING:
        return job
    with here.hub.follow(job.id) as woken:
        while True:
            with here.db.transaction() as session:  # also when the others took all the time
                job = jobs.get(session, job.id)
            if job.status != JobStatus.RUNNING or time.monotonic() > deadline:
                return job
            woken.wait(STOP_POLL_SECONDS)
            woken.clear()
