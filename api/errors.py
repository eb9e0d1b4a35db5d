"""Errors to HTTP: one table, one body."""

import logging
import uuid
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from shared.errors import (
    CredentialsRejected,
    GuiAgentError,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    SandboxError,
    StorageUnavailable,
)

log = logging.getLogger(__name__)

STATUS: dict[type[GuiAgentError], int] = {
    InvalidRequest: 400,
    JobNotFound: 404,
    JobConflict: 409,
    CredentialsRejected: 502,
    SandboxError: 502,
    StorageUnavailable: 503,
}
RETRY_AFTER_SECONDS = "2"


def status_of(error: GuiAgentError) -> int:
    """The HTTP status of an error of ours: its class's, or the nearest parent's."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def answer(status: int, code: str, message: str, details: dict[str, Any] | None = None) -> Response:
    """The contract's error body. `detail` repeats the message for clients of the original server."""
    error = {"code": code, "message": message, "details": details or None}
    body = {"success": False, "error": error, "detail": message, "request_id": g.get("request_id")}
    response = jsonify(body)
    response.status_code = status
    if status == 503:
        response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return response


def _ours(error: GuiAgentError) -> Response:
    status = status_of(error)
    if status >= 500:
        log.warning("%s %s: %s: %s", request.method, request.path, error.code, error.message)
    return answer(status, error.code, error.message, error.details)


def _http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    response = answer(error.code or 500, code, error.description or error.name)
    for header, value in error.get_headers():
        if header not in {"Content-Type", "Content-Length"}:
            response.headers[header] = value
    return response


def _unexpected(error: Exception) -> Response:
    log.exception("%s %s", request.method, request.path, exc_info=error)
    return answer(500, "internal", "an unexpected error; the server's log tells more")


def install(app: Flask) -> None:
    """Gives every answer of the application a request id, and every error the contract's body."""

    @app.before_request
    def _name_request() -> None:
        g.request_id = uuid.uuid4().hex

    @app.after_request
    def _tell_request_id(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response

    app.register_error_handler(GuiAgentError, _ours)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
