"""The routes of humans who act in a task's sandbox: take over, act."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from flask import Response
from flask_openapi import APIBlueprint

from api.answers import ActedAnswer, TakenOverAnswer, error_answers, reply
from api.auth import caller
from api.errors import answer, status_of
from api.requests import job_id
from api.schemas import ActRequest, TaskPath
from api.services import Services, services
from api.tasks import STOP_SECONDS, wait_until_stopped
from shared import jobs
from shared.errors import (
    GuiAgentError,
    InvalidRequest,
    JobConflict,
    OutcomeUnknown,
    SandboxError,
    SandboxUnavailable,
)
from shared.sandboxes import LONGEST_MESSAGE, SandboxService, build_action
from shared.schemas import Credentials
from shared.secrets import clean
from shared.states import JobStatus

log = logging.getLogger(__name__)

routes = APIBlueprint(
    "takeover",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 409, 413, 429, 500, 503),
)

LONGEST_HOLD = 10_000
"""Milliseconds that the actions of a request may last by their own `duration`, together."""
ACT_SECONDS = 30.0
"""After so long no further action of a request is begun."""

Action = dict[str, Any]


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


@routes.post("/task/<task_id>/actions", responses={200: ActedAnswer, **error_answers(502)})
def act(path: TaskPath, body: ActRequest) -> Response:
    """Act in the sandbox of a task that waits for a human: the actions in their order, none of them twice.

    Before each one it is looked whether the task still waits. One that has been sent by the time at which a
    resume or a cancel is answered is not called back: it may take effect a moment later.
    """
    here, wanted, owner = services(), job_id(path.task_id), caller().key_id
    actions, end = _checked(body.actions), time.monotonic() + ACT_SECONDS
    for done, action in enumerate(actions):
        try:
            _carry_out(here, wanted, owner, action, in_time=time.monotonic() < end)
        except GuiAgentError as error:
            return _stopped(wanted, error, done)
    message = f"{len(actions)} action(s) carried out"
    return reply(ActedAnswer(task_id=str(wanted), done=len(actions), message=message))


def _checked(actions: Sequence[Action]) -> list[Action]:
    """The actions as Lybic's own models have them. Raises `InvalidRequest`."""
    checked, held = [], 0
    for index, action in enumerate(actions):
        where = f"actions[{index}]"
        try:
            built = build_action(action).model_dump(exclude_none=True)
        except SandboxError as error:
            said = clean(error.message, LONGEST_MESSAGE)
            raise InvalidRequest(f"{where}: {said}", field=where) from None
        duration = built.get("duration", 0)
        held += duration
        if duration < 0 or held > LONGEST_HOLD:
            limit = f"not negative, and {LONGEST_HOLD} ms for all actions together at most"
            raise InvalidRequest(f"{where}.duration: must be {limit}", field=f"{where}.duration")
        checked.append(built)
    return checked


def _carry_out(here: Services, wanted: UUID, owner: UUID | None, action: Action, *, in_time: bool) -> None:
    """One action, with the task's own credentials."""
    with here.db.transaction() as session:
        job = jobs.get(session, wanted, owner=owner)
    if job.status != JobStatus.HUMAN_INTERVENTION:
        raise JobConflict(f"task {wanted} is {job.status}: a human can act in human_intervention only")
    if job.sandbox_id is None:
        raise JobConflict(f"task {wanted} has no sandbox yet")
    if not in_time:
        raise SandboxUnavailable("Lybic is too slow: this action and those after it were not sent")
    lybic = here.vault.open(job.credentials or b"", Credentials).lybic
    service = SandboxService(here.portal.http, lybic, here.settings.lybic.timeout_seconds)
    here.portal.call(partial(service.execute, job.sandbox_id, action, screenshot=False))


def _stopped(wanted: UUID, error: GuiAgentError, done: int) -> Response:
    """Answered rather than raised: then it would be logged, and Lybic may repeat what was typed."""
    log.warning("task %s: a human's action %d: %s", wanted, done + 1, error.code)
    unknown = {"outcome_unknown": True} if isinstance(error, OutcomeUnknown) else {}
    response = answer(status_of(error), error.code, error.message, {**error.details, "done": done, **unknown})
    if done or unknown:  # the same request would do some of it twice
        response.headers.pop("Retry-After", None)
    return response
