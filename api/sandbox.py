"""The routes of sandboxes: create, list, delete.

Whoever brings Lybic credentials of their own may see and delete all that these are good for. With the
server's credentials a caller with an API key has just the sandboxes that their own tasks have used: no caller
is to see how others' are called.
"""

from collections.abc import Collection

from flask import Response
from flask_openapi import APIBlueprint
from sqlalchemy.orm import Session

from api.answers import (
    DeletedSandboxAnswer,
    SandboxAnswer,
    SandboxesAnswer,
    SandboxView,
    error_answers,
    reply,
)
from api.auth import caller
from api.requests import lybic_credentials
from api.schemas import CreateSandboxRequest, DeleteSandboxRequest, ListSandboxesRequest
from api.services import Services, services
from shared import listing
from shared.errors import JobConflict, SandboxError, SandboxLost, SandboxNotFound
from shared.sandboxes import SandboxService, job_of
from shared.schemas import LybicCredentials, SandboxInfo, sandbox_key

ERRORS = error_answers(400, 401, 403, 413, 429, 500, 502, 503)

routes = APIBlueprint(
    "sandbox", __name__, url_prefix="/api/sandbox", abp_tags=[{"name": "Sandboxes"}], abp_responses=ERRORS
)


NAME = "sandbox"
MOST_LISTED = 500
MOST_LOOKED_AT = 5_000
"""Of Lybic's list, for those that are the caller's own."""


@routes.post("/create", responses={200: SandboxAnswer})
def create(body: CreateSandboxRequest) -> Response:
    """Create a sandbox. Answers what Lybic says of it."""
    here = services()
    service = _service(here, lybic_credentials(body.authentication, here.settings))
    shape = body.shape or here.settings.lybic.shape

    async def made() -> SandboxInfo:
        info = await service.create(
            name=body.name or NAME, shape=shape, life_seconds=body.life_seconds, project_id=body.project_id
        )
        try:
            return info if info.os else await service.describe(info.sandbox_id)
        except SandboxError:  # it was made all the same
            return info

    info = here.portal.call(made)
    return reply(
        SandboxAnswer(
            **info.model_dump(exclude={"created_by_task"}),
            message=f"Sandbox {info.sandbox_id} created successfully",
        )
    )


@routes.post("/list", responses={200: SandboxesAnswer})
def list_sandboxes(body: ListSandboxesRequest) -> Response:
    """List sandboxes, newest first, each with the caller's task that drives it now."""
    here = services()
    credentials = lybic_credentials(body.authentication, here.settings)
    found = here.portal.call(_service(here, credentials).newest, MOST_LOOKED_AT)
    keyed = {sandbox_key(credentials, one.sandbox_id): one for one in found}
    with here.db.transaction() as session:
        keys = _callers(session, body, keyed)
        shown = {key: one for key, one in keyed.items() if key in keys}
        made_for = {key: job for key, one in shown.items() if (job := job_of(one.name))}
        drivers = listing.drivers(session, caller().key_id, shown, made_for)
    views = [
        SandboxView(**one.model_dump(), task_id=str(drivers[key]) if key in drivers else None)
        for key, one in list(shown.items())[:MOST_LISTED]
    ]
    return reply(SandboxesAnswer(sandboxes=views, count=len(views)))


@routes.post("/delete", responses={200: DeletedSandboxAnswer, **error_answers(404, 409)})
def delete(body: DeleteSandboxRequest) -> Response:
    """End a sandbox that no active task works in or waits for."""
    here, wanted = services(), body.sandbox_id
    credentials = lybic_credentials(body.authentication, here.settings)
    key, service = sandbox_key(credentials, wanted), _service(here, credentials)
    nothing = SandboxNotFound(f"there is no sandbox {wanted}")
    with here.db.transaction() as session:
        if not _callers(session, body, {key}):
            raise nothing
    try:  # before anything is told of it: the credentials may be invented
        made_for = job_of(here.portal.call(service.name, wanted))
    except SandboxLost:
        raise nothing from None
    with here.db.transaction() as session:
        if listing.is_needed(session, key, made_for):
            raise JobConflict(f"an active task needs sandbox {wanted}: cancel it first")
    if not here.portal.call(service.delete, wanted):
        raise nothing
    return reply(DeletedSandboxAnswer(sandbox_id=wanted, message=f"Sandbox {wanted} deleted"))


def _service(here: Services, credentials: LybicCredentials) -> SandboxService:
    return SandboxService(here.portal.http, credentials, here.settings.lybic.timeout_seconds)


def _callers(session: Session, body: ListSandboxesRequest, keys: Collection[str]) -> Collection[str]:
    """Those of the sandboxes that the caller may see."""
    owner = caller().key_id
    if body.authentication is not None or owner is None:
        return keys
    return listing.own_sandboxes(session, owner, keys)
