"""The routes of humans who take a task over: take over."""

import time

from flask import Response
from flask_openapi import APIBlueprint

from api.answers import TakenOverAnswer, error_answers, reply
from api.auth import caller
from api.requests import job_id
from api.schemas import TaskPath
from api.services import services
from api.tasks import STOP_SECONDS, wait_until_stopped
from shared import jobs
from shared.errors import JobConflict
from shared.states import JobStatus

routes = APIBlueprint(
    "takeover",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 409, 413, 429, 500, 503),
)


@routes.post("/task/<task_id>/takeover", responses={200: TakenOverAnswer})
def take_over(path: TaskPath) -> Response:
    """Take a task over from the agent. Answers when the agent has stopped, or after two seconds."""
    here = services()
    with here.db.transaction() as session:
        asked = jobs.request_takeover(session, job_id(path.task_id), owner=caller().key_id)
    job = wait_until_stopped(here, asked, time.monotonic() + STOP_SECONDS)
    status = JobStatus(job.status)
    if status.terminal:
        raise JobConflict(f"task {job.id} is {status}: it ended before it could be taken over")
    said = "is yours" if status is JobStatus.HUMAN_INTERVENTION else "is stopping"
    return reply(TakenOverAnswer(task_id=str(job.id), status=status, message=f"Task {job.id} {said}"))
