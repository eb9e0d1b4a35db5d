"""The route of sandboxes: create."""

from flask import Blueprint, Response, jsonify, request

from api.requests import lybic_credentials
from api.schemas import CreateSandboxRequest
from api.services import services
from shared.sandboxes import SandboxService
from shared.schemas import SandboxInfo

routes = Blueprint("sandbox", __name__, url_prefix="/api/sandbox")


@routes.post("/create")
def create() -> Response:
    """Creates a sandbox and answers what Lybic says of it."""
    here = services()
    asked = CreateSandboxRequest.read(request.get_data())
    credentials = lybic_credentials(asked.authentication, here.settings)
    service = SandboxService(here.portal.http, credentials, here.settings.lybic.timeout_seconds)
    shape = asked.shape or here.settings.lybic.shape

    async def made() -> SandboxInfo:
        info = await service.create(
            name=asked.name, shape=shape, life_seconds=asked.life_seconds, project_id=asked.project_id
        )
        return info if info.os else await service.describe(info.sandbox_id)

    info = here.portal.call(made)
    return jsonify(
        success=True,
        **info.model_dump(exclude={"created_by_task"}),
        message=f"Sandbox {info.sandbox_id} created successfully",
    )
