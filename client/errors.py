"""What may go wrong, as one tree:

ClientError
├── InvalidSetting       the address or the API key of the server is no such thing
├── ConnectionFailed     the server can't be reached, or the connection broke
├── WaitTimeout          the task did not end in time
├── BadAnswer            what answers is not this API
└── ApiError             the server refused
    ├── InvalidRequest   400, 405, 413
    ├── Unauthorized     401, and Forbidden 403
    ├── NotFound         404
    ├── Conflict         409
    ├── TooManyRequests  429
    ├── SandboxFailed    502
    └── Unavailable      503, 504
"""

from collections.abc import Mapping
from typing import Any

from client.text import one_line, plain

LONGEST_EXCERPT = 200


class ClientError(Exception):
    """Something that was expected to go wrong now and then. `code` is for programs, `message` for people."""

    code: str = "client_error"

    def __init__(self, message: str) -> None:
        self.message = plain(message)
        super().__init__(self.message)


class InvalidSetting(ClientError, ValueError):
    """The address or the API key of the server is no such thing."""

    code = "invalid_setting"


class ConnectionFailed(ClientError, ConnectionError):
    """The server can't be reached, or the connection broke. `sent`: the request may have come through."""

    code = "connection_failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class WaitTimeout(ClientError, TimeoutError):
    """The task did not end in time. It goes on all the same."""

    code = "wait_timeout"


class BadAnswer(ClientError):
    """What answers is not this API, or one that speaks otherwise."""

    code = "bad_answer"


class ApiError(ClientError):
    """The server refused.

    `code` is one of the contract's error codes, or `http_STATUS` where something else answered, such as a
    proxy; `status` the HTTP status; `details` more for programs; `request_id` is what to look for in the
    server's log; `retry_after`, in seconds, when to try again.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = one_line(code, LONGEST_EXCERPT)
        self.status = status
        self.details = dict(details or {})
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidRequest(ApiError):
    """The request can't be used; `details` names the field."""


class Unauthorized(ApiError):
    """The API key is missing, or not known."""


class Forbidden(Unauthorized):
    """The API key was revoked."""


class NotFound(ApiError):
    """There is no such task or screenshot, or it is another caller's."""


class Conflict(ApiError):
    """The state of the task forbids it, or the idempotency key was used for another request."""


class TooManyRequests(ApiError):
    """The API key is used too often, or has too many active tasks. Nothing was done."""


class SandboxFailed(ApiError):
    """Lybic refused, or can't be reached."""


class Unavailable(ApiError):
    """The server, or what it needs, is away for now."""


KINDS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: InvalidRequest,
    409: Conflict,
    413: InvalidRequest,
    429: TooManyRequests,
    502: SandboxFailed,
    503: Unavailable,
    504: Unavailable,
}
# A proxy says so when what is behind it is away.
FOREIGN_KINDS = {**KINDS, 502: Unavailable}


def api_error(status: int, body: Any, text: str, retry_after: float | None) -> ApiError:
    """The error that an answer tells of. `body` is its JSON, or None; then `text` was written by another."""
    match body:
        case {"success": False, "error": {"code": str(code), "message": str(message), **error}}:
            details, request_id = error.get("details"), body.get("request_id")
            kind = KINDS.get(status, ApiError)
            return kind(
                code,
                message,
                status,
                details if isinstance(details, dict) else None,
                request_id if isinstance(request_id, str) else None,
                retry_after,
            )
    said = one_line(text, LONGEST_EXCERPT)
    message = f"HTTP {status}, and not in this API's words" + (f": {said}" if said else "")
    kind = FOREIGN_KINDS.get(status, ApiError)
    return kind(f"http_{status}", message, status, retry_after=retry_after)
