"""The route of sandboxes: create."""

from flask import Response
from flask_openapi import APIBlueprint

from api.answers import SandboxAnswer, error_answers, reply
from api.requests import lybic_credentials
from api.schemas import CreateSandboxRequest
from api.services import services
from shared.errors import SandboxError
from shared.sandboxes import SandboxService
from shared.schemas import SandboxInfo

ERRORS = error_answers(400, 401, 403, 413, 429, 500, 502, 503)

routes = APIBlueprint(
    "sandbox", __name__, url_prefix="/api/sandbox", abp_tags=[{"name": "Sandboxes"}], abp_responses=ERRORS
)


NAME = "sandbox"


@routes.post("/create", responses={200: SandboxAnswer})
def create(body: CreateSandboxRequest) -> Response:
    """Create a sandbox. Answers what Lybic says of it."""
    here = services()
    credentials = lybic_credentials(body.authentication, here.settings)
    service = SandboxService(here.portal.http, credentials, here.settings.lybic.timeout_seconds)
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
