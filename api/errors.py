"""Errors to HTTP: one table, one body."""

import logging
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, SecurityError

from api.answers import ErrorAnswer, ErrorBody, reply
from api.services import LARGEST_BODY_BYTES
from shared.errors import (
    CredentialsRejected,
    Forbidden,
    GuiAgentError,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    PictureNotFound,
    PicturesUnavailable,
    PreviewUnavailable,
    SandboxError,
    SandboxNotFound,
    StorageUnavailable,
    TooManyRequests,
    Unauthenticated,
)

log = logging.getLogger(__name__)

STATUS: dict[type[GuiAgentError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    JobNotFound: 404,
    PictureNotFound: 404,
    SandboxNotFound: 404,
    JobConflict: 409,
    TooManyRequests: 429,
    CredentialsRejected: 502,
    SandboxError: 502,
    StorageUnavailable: 503,
    PicturesUnavailable: 503,
    PreviewUnavailable: 503,
}
RETRY_AFTER_SECONDS = "2"


def status_of(error: GuiAgentError) -> int:
    """The HTTP status of an error of ours: its class's, or the nearest parent's."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def answer(status: int, code: str, message: str, details: dict[str, Any] | None = None) -> Response:
    """The contract's error body. `detail` repeats the message for clients of the original server."""
    error = ErrorBody(code=code, message=message, details=details or None)
    response = reply(ErrorAnswer(error=error, detail=message, request_id=g.get("request_id")), status=status)
    if status == 503:
        response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return response


def _ours(error: GuiAgentError) -> Response:
    status = status_of(error)
    if status >= 500:
        log.warning("%s %s: %s: %s", request.method, request.path, error.code, error.message)
    response = answer(status, error.code, error.message, error.details)
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    response = answer(error.code or 500, code, _said(error))
    for header, value in error.get_headers():
        if header not in {"Content-Type", "Content-Length"}:
            response.headers[header] = value
    return response


def _said(error: HTTPException) -> str:
    if isinstance(error, RequestEntityTooLarge):
        return f"the body is larger than {LARGEST_BODY_BYTES} bytes"
    if isinstance(error, SecurityError):
        return f"{error.description} (API_TRUSTED_HOSTS)"
    return error.description or error.name


def _unexpected(error: Exception) -> Response:
    log.exception("%s %s", request.method, request.path, exc_info=error)
    return answer(500, "internal", "an unexpected error; the server's log tells more")


def install(app: Flask) -> None:
    """Gives every error the contract's body."""
    app.register_error_handler(GuiAgentError, _ours)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
