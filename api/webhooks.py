"""The route of webhooks: what became of telling a task's receiver."""

from flask import Response
from flask_openapi import APIBlueprint

from api import views
from api.answers import WebhooksAnswer, error_answers, reply
from api.auth import caller
from api.requests import job_id
from api.schemas import TaskPath
from api.services import services
from shared import jobs
from shared.webhooks import deliveries

routes = APIBlueprint(
    "webhooks",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 429, 500, 503),
)


@routes.get("/task/<task_id>/webhooks", responses={200: WebhooksAnswer})
def webhooks(path: TaskPath) -> Response:
    """Tell what became of a task's webhooks, in the order of its events."""
    with services().db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
        found = deliveries(session, job.id)
    shown = [views.delivery(row, event_type) for row, event_type in found]
    return reply(WebhooksAnswer(task_id=str(job.id), webhooks=shown, count=len(shown)))
