"""The routes of tasks: submit, run, status, events, cancel."""

import time
from uuid import UUID

from flask import Blueprint, Response, jsonify, request

from api import views
from api.requests import new_job
from api.schemas import CancelRequest, RunAgentRequest
from api.services import Services, job_id, services
from api.streams import EventStream
from shared import events, jobs
from shared.conversation import Turn
from shared.errors import InvalidRequest, JobConflict
from shared.models import Job
from shared.schemas import NewJob
from shared.states import JobStatus

routes = Blueprint("tasks", __name__, url_prefix="/api/agent")

CANCEL_SECONDS = 2.0
CANCEL_POLL_SECONDS = 0.2
EVENTS_PAGE = 500


def _continued(request: RunAgentRequest, new: NewJob, here: Services) -> NewJob:
    """The job as a follow-up of the task that it names, in the same sandbox unless another is named."""
    if not request.continue_context or request.task_id is None:
        return new
    with here.db.transaction() as session:
        parent = jobs.get(session, job_id(request.task_id))
    if not JobStatus(parent.status).terminal:
        raise JobConflict(f"task {parent.id} is still {parent.status}: it can be continued when it has ended")
    return new.model_copy(update={"parent_id": parent.id, "sandbox_id": new.sandbox_id or parent.sandbox_id})


def _submit(body: bytes) -> UUID:
    """Makes the request in the body durable, then tells the workers."""
    here = services()
    asked = RunAgentRequest.read(body)
    new = _continued(asked, new_job(asked, here.settings), here)
    sealed = here.vault.seal(new.credentials)
    with here.db.transaction() as session:
        submitted = jobs.submit(session, new, sealed)
    here.dispatcher.dispatch(submitted, new.priority)
    return submitted


@routes.post("/task/submit")
def submit() -> Response:
    """Accepts a task and answers at once, when it is durable."""
    return jsonify(
        success=True, task_id=str(_submit(request.get_data())), message="Task submitted successfully"
    )


@routes.post("/run")
def run() -> Response:
    """Accepts a task and streams its events. Leaving the stream does not end the task."""
    submitted = _submit(request.get_data())
    return EventStream(services().db, services().hub, submitted, 0, ends_at_pause=True).response()


@routes.get("/task/status/<task_id>")
def status(task_id: str) -> Response:
    """A task's state and result; `?fields=a,b` narrows the answer."""
    wanted = {name.strip() for name in request.args.get("fields", "").split(",") if name.strip()}
    with services().db.transaction() as session:
        job = jobs.get(session, job_id(task_id))
        shown = views.task(job)
        if not wanted or "queue_position" in wanted:
            shown["queue_position"] = jobs.queue_position(session, job)
        if not wanted or "pending_reason" in wanted:
            shown["pending_reason"] = views.pending_reason(job, jobs.waits_for(session, job))
        if not wanted or "llm_context" in wanted:
            turns = [Turn(one.instruction, jobs.steps(session, one.id)) for one in jobs.chain(session, job)]
            shown["llm_context"] = views.llm_context(job, turns)
    if wanted:
        shown = {name: value for name, value in shown.items() if name in wanted or name == "task_id"}
    return jsonify(shown)


def _after() -> int:
    """The number of the last event that the client has seen."""
    text = request.headers.get("Last-Event-ID") or request.args.get("after") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest("Last-Event-ID or after: must be a whole number from 0", field="after")
    return int(text)


@routes.get("/task/<task_id>/events")
def task_events(task_id: str) -> Response:
    """The events after `Last-Event-ID` or `?after=`, then those that come; as JSON just one page."""
    here, after, asked = services(), _after(), job_id(task_id)
    as_page = request.accept_mimetypes.best_match(["text/event-stream", "application/json"])
    with here.db.transaction() as session:
        jobs.get(session, asked)
        rows = events.read(session, asked, after, EVENTS_PAGE) if as_page == "application/json" else []
        over = jobs.is_over(session, asked, after)
    if as_page == "application/json":
        return jsonify(success=True, events=[views.event(row) for row in rows], count=len(rows))
    if over:  # tells an EventSource not to come back
        return Response(status=204)
    return EventStream(here.db, here.hub, asked, after, ends_at_pause=False).response()


@routes.post("/cancel")
def cancel() -> Response:
    """Cancels one task, or every active one. Answers when they have stopped, or after two seconds."""
    here = services()
    asked = CancelRequest.read(request.get_data())
    if asked.task_id:
        return _cancel_one(here, job_id(asked.task_id))
    with here.db.transaction() as session:
        wanted = jobs.active_ids(session)
    asked_all = [_cancel(here, one) for one in wanted]
    deadline = time.monotonic() + CANCEL_SECONDS
    stopped = [_wait_until_stopped(here, job, deadline) for job in asked_all]
    ids = [str(job.id) for job in stopped if job.status == JobStatus.CANCELLED]
    stopping = [str(job.id) for job in stopped if job.status == JobStatus.RUNNING]
    return jsonify(
        success=True,
        message=f"{len(ids)} task(s) cancelled" + (f", {len(stopping)} stopping" if stopping else ""),
        task_ids=ids,
        stopping=stopping,
        count=len(ids),
    )


def _cancel_one(here: Services, wanted: UUID) -> Response:
    with here.db.transaction() as session:
        before = jobs.get(session, wanted)
    job = _wait_until_stopped(here, _cancel(here, wanted), time.monotonic() + CANCEL_SECONDS)
    words = {JobStatus.CANCELLED: "cancelled", JobStatus.RUNNING: "is stopping"}
    return jsonify(
        success=True,
        task_id=str(job.id),
        status=job.status,
        already_cancelled=before.status == JobStatus.CANCELLED or before.cancel_requested_at is not None,
        message=f"Task {job.id} {words.get(JobStatus(job.status), f'had already ended: {job.status}')}",
    )


def _cancel(here: Services, wanted: UUID) -> Job:
    with here.db.transaction() as session:
        job = jobs.request_cancel(session, wanted)
    here.waker.wake(wanted)
    return job


def _wait_until_stopped(here: Services, job: Job, deadline: float) -> Job:
    """The job when its run has stopped: then no further action is carried out."""
    if job.status != JobStatus.RUNNING:
        return job
    with here.hub.follow(job.id) as woken:
        while job.status == JobStatus.RUNNING and time.monotonic() < deadline:
            woken.wait(CANCEL_POLL_SECONDS)
            woken.clear()
            with here.db.transaction() as session:
                job = jobs.get(session, job.id)
    return job
