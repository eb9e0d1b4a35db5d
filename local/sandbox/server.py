"""Lybic's REST paths over the simulated sandboxes, and beside them the test aids under `/simulated`.

Lybic's side, which the SDK speaks to (`x-api-key` or a bearer key; errors are `{"code", "message"}`):

    GET    /api/orgs/{org}/shapes
    GET    /api/orgs/{org}/sandboxes                              POST creates one
    GET    /api/orgs/{org}/sandboxes/{id}                         DELETE ends it
    GET    /api/orgs/{org}/sandboxes/{id}/status
    POST   /api/orgs/{org}/sandboxes/{id}/extend | preview | actions/execute
    GET    /screenshots/{name}.webp | .png                        no key, as with a pre-signed address

Test aids, which answer the loopback address only and ask for no key:

    GET    /simulated/sandboxes                 the ids, also of those that are gone
    GET    /simulated/sandboxes/{id}            the true state: a desktop's windows, texts, files and cursor,
                                                or a phone's view, apps, notes and settings
    GET    /simulated/sandboxes/{id}/actions    every action really executed, in order (`?after=INDEX`)
    DELETE /simulated/sandboxes/{id}            loses the sandbox, as an outage would
    POST   /simulated/faults                    asks for a `standin.Fault`; `on` is create, get, delete, list,
                                                status, extend, preview, execute, shapes or screenshot
    GET    /simulated/faults                    the faults still to come; DELETE clears them
"""

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, request
from lybic import dto
from pydantic import BaseModel, ConfigDict, ValidationError

from local.sandbox import actions, desktop, phone, touches
from local.sandbox.sandboxes import SHAPES, Form, Sandbox, Snapshots, World
from local.standin import (
    Faults,
    Refused,
    install_errors,
    json_body,
    known_key,
    loopback_only,
    offered_key,
    pause,
)

Json = dict[str, Any] | list[dict[str, Any]]
Answer = Json | tuple[Json | str, int]
Body = TypeVar("Body", bound=BaseModel)
MOST_BYTES = 1 << 20
ORG = "/api/orgs/<org>"
BOX = f"{ORG}/sandboxes/<sandbox_id>"


class Execute(BaseModel):
    """The request to execute an action; the action itself is read by `actions`."""

    model_config = ConfigDict(strict=True)

    action: dict[str, Any]
    includeScreenShot: bool = True  # noqa: N815 - Lybic's name
    includeCursorPosition: bool = True  # noqa: N815
    screenShotPutUrl: str | None = None  # noqa: N815


def create_app(options: argparse.Namespace) -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    install_errors(app, lambda error: {"code": error.code, "message": error.message})
    service = Service(options)
    for method, path, operation, view in service.doors():
        app.add_url_rule(path, operation, service.guarded(operation, view), methods=[method])
    app.add_url_rule("/screenshots/<name>.<form>", "screenshot", service.screenshot)
    for method, path, aid in service.aids():
        app.add_url_rule(path, f"{method} {path}", _aid(aid), methods=[method])
    return app


def _aid(view: Callable[..., Answer]) -> Callable[..., Answer]:
    def guarded(**parts: str) -> Answer:
        loopback_only()
        return view(**parts)

    return guarded


def _read(model: type[Body]) -> Body:
    try:
        return model.model_validate(json_body(), strict=True)
    except ValidationError as error:
        raise Refused(400, "nomos.request.INVALID", actions.told(error, "body")) from error


class Service:
    """What each path does."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.keys, self.latency, self.time_scale = options.api_key, options.latency, options.time_scale
        self.world = World(options.screen, options.boot_seconds, options.sandbox)
        self.snapshots = Snapshots()
        self.faults = Faults("screenshot", *(operation for _, _, operation, _ in self.doors()))

    def doors(self) -> list[tuple[str, str, str, Callable[..., Answer]]]:
        return [
            ("GET", f"{ORG}/shapes", "shapes", self.shapes),
            ("GET", f"{ORG}/sandboxes", "list", self.living),
            ("POST", f"{ORG}/sandboxes", "create", self.create),
            ("GET", BOX, "get", self.get),
            ("DELETE", BOX, "delete", self.delete),
            ("GET", f"{BOX}/status", "status", self.status),
            ("POST", f"{BOX}/extend", "extend", self.extend),
            ("POST", f"{BOX}/preview", "preview", self.preview),
            ("POST", f"{BOX}/actions/execute", "execute", self.execute),
        ]

    def aids(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        one = "/simulated/sandboxes/<sandbox_id>"
        return [
            ("GET", "/simulated/sandboxes", lambda: {"sandboxes": list(self.world.sandboxes)}),
            ("GET", one, self.truth),
            ("DELETE", one, self.lose),
            ("GET", f"{one}/actions", self.executed),
            ("GET", "/simulated/faults", self.faults.pending),
            ("POST", "/simulated/faults", self.faults.ask),
            ("DELETE", "/simulated/faults", self.faults.clear),
        ]

    def guarded(self, operation: str, view: Callable[..., Answer]) -> Callable[..., Answer]:
        """Lets in who has a key, and shows the faults that were asked for."""

        def door(**parts: str) -> Answer:
            if not known_key(offered_key(), self.keys):
                raise Refused(401, "nomos.auth.UNAUTHORIZED", "the API key is missing or not known")
            about = parts.get("sandbox_id", "")
            self.faults.strike(operation, "before", about)
            answer = view(**parts)
            self.faults.strike(operation, "after", about)
            return answer

        return door

    # Lybic's side.

    def shapes(self, org: str) -> Answer:  # noqa: ARG002 - the same for all
        return [{**shape.described(), "pricePerHour": "0"} for shape in SHAPES.values()]

    def living(self, org: str) -> Answer:
        return [sandbox.described() for sandbox in self.world.living(org)]

    def create(self, org: str) -> Answer:
        wanted = _read(dto.CreateSandboxDto)
        life, name = wanted.maxLifeSeconds, wanted.name[:100]
        sandbox = self.world.create(org, wanted.shape, life, name, wanted.projectId)
        return self._with_shape(sandbox), 201

    def get(self, org: str, sandbox_id: str) -> Answer:
        sandbox = self.world.find(org, sandbox_id)
        connection = {"certificateHashBase64": "", "endUserToken": "simulated", "roomId": sandbox.id}
        return {
            "sandbox": self._with_shape(sandbox),
            "connectDetails": {"gatewayAddresses": [], **connection},
        }

    def _with_shape(self, sandbox: Sandbox) -> dict[str, Any]:
        return {**sandbox.described(), "shape": {**sandbox.shape.described(), "pricePerHour": 0}}

    def delete(self, org: str, sandbox_id: str) -> Answer:
        self._end(self.world.find(org, sandbox_id))
        return "", 204

    def _end(self, sandbox: Sandbox) -> None:
        sandbox.gone = True
        self.snapshots.forget(sandbox)

    def status(self, org: str, sandbox_id: str) -> Answer:
        return {"status": self.world.find(org, sandbox_id).status}

    def extend(self, org: str, sandbox_id: str) -> Answer:
        sandbox = self.world.find(org, sandbox_id)
        sandbox.extend(_read(dto.ExtendSandboxDto).maxLifeSeconds)
        return {}

    def preview(self, org: str, sandbox_id: str) -> Answer:
        pause(self.latency)
        sandbox = self.world.running(org, sandbox_id)
        return {"screenShot": self._screenshot(sandbox), "cursorPosition": _cursor(sandbox)}

    def execute(self, org: str, sandbox_id: str) -> Answer:
        wanted = _read(Execute)
        if wanted.screenShotPutUrl is not None:
            raise Refused(400, "nomos.request.INVALID", "screenShotPutUrl is not simulated")
        pause(self.latency)
        sandbox = self.world.running(org, sandbox_id)
        action = self._perform(sandbox, wanted.action)
        pause(actions.seconds(action) / self.time_scale)
        answer: dict[str, Any] = {"actionResult": touches.result(action)}
        if wanted.includeScreenShot:
            answer["screenShot"] = self._screenshot(sandbox)
        if wanted.includeCursorPosition:
            answer["cursorPosition"] = _cursor(sandbox)
        return answer

    def _perform(self, sandbox: Sandbox, raw: dict[str, Any]) -> actions.Action:
        """Reads, executes and records the action."""
        action = actions.read(sandbox.device, raw)
        actions.seconds(action)  # refused before anything is done
        sandbox.device = actions.perform(sandbox.device, action)
        sandbox.note(
            action.model_dump(exclude_none=True),
            idempotency_key=request.headers.get("Idempotency-Key"),
            request_id=request.headers.get("X-Request-Id"),
        )
        return action

    def _screenshot(self, sandbox: Sandbox) -> str:
        return f"{request.host_url}screenshots/{self.snapshots.take(sandbox)}.webp"

    def screenshot(self, name: str, form: Form) -> Response:
        self.faults.strike("screenshot", "before", "")
        picture = self.snapshots.picture(name, form) if form in ("webp", "png") else None
        if picture is None:
            raise Refused(404, "nomos.screenshot.NOT_FOUND", "there is no such screenshot, or no longer")
        return Response(picture, mimetype=f"image/{form}")

    # Test aids.

    def truth(self, sandbox_id: str) -> Answer:
        sandbox = self.world.witnessed(sandbox_id)
        device = sandbox.device
        state = phone.truth(device) if isinstance(device, phone.Phone) else desktop.truth(device)
        return {**sandbox.described(), "gone": sandbox.gone, **state}

    def executed(self, sandbox_id: str) -> Answer:
        after = request.args.get("after", -1, int)
        sandbox = self.world.witnessed(sandbox_id)
        shown = [entry for entry in sandbox.record if entry["index"] > after]
        return {"count": sandbox.executed, "actions": shown}

    def lose(self, sandbox_id: str) -> Answer:
        self._end(self.world.witnessed(sandbox_id))
        return {"lost": sandbox_id}


def _cursor(sandbox: Sandbox) -> dict[str, int]:
    (x, y), (width, height) = sandbox.device.cursor, sandbox.device.size
    return {"x": x, "y": y, "screenWidth": width, "screenHeight": height, "screenIndex": 0}
