"""The route of previews: the screen of a task's sandbox as it is now."""

from flask import Response, request
from flask_openapi import APIBlueprint

from api import pictures
from api.answers import error_answers
from api.auth import caller
from api.requests import job_id
from api.schemas import TaskPath
from api.services import services
from shared import jobs
from shared.errors import JobConflict
from shared.models import Job
from shared.schemas import Credentials
from shared.states import JobStatus

CURSOR = "X-Cursor"
PREVIEW = {
    **pictures.PICTURE,
    "headers": {
        CURSOR: {
            "description": "Where the cursor is, if Lybic tells: fractions of width and height.",
            "schema": {"type": "string", "examples": ["0.5 0.25"]},
        }
    },
}

routes = APIBlueprint(
    "previews",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 409, 429, 500, 502, 503),
)

HEADERS = {**pictures.HEADERS, "Cache-Control": "private, no-cache"}


@routes.get("/task/<task_id>/preview", responses={200: PREVIEW, 304: None})
def preview(path: TaskPath) -> Response:
    """Show the screen of a task's sandbox as it is now. All who watch a task share one look a second."""
    here = services()
    with here.db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
    sandbox_id, sealed = _sandbox(job)
    screen = here.screens.now(job.id, sandbox_id, here.vault.open(sealed, Credentials).lybic)
    response = Response(screen.picture.data, mimetype=screen.picture.kind, headers=HEADERS)
    if screen.cursor:
        response.headers[CURSOR] = "{:g} {:g}".format(*screen.cursor)
    response.set_etag(screen.tag)
    response.make_conditional(request)
    return response


def _sandbox(job: Job) -> tuple[str, bytes]:
    """The sandbox that the job works in, and its encrypted credentials. Raises `JobConflict`."""
    if job.credentials is None:
        raise JobConflict(f"task {job.id} has ended: there are no more previews of its screen")
    known = job.sandbox is not None or job.status == JobStatus.HUMAN_INTERVENTION  # it may not be known yet
    if not known or job.sandbox_id is None:
        raise JobConflict(f"task {job.id} has no sandbox yet")
    return job.sandbox_id, job.credentials
