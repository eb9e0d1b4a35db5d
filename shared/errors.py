"""Every error this system raises on purpose.

GuiAgentError
├── ConfigurationError        the process can't start as it is set up
├── InvalidRequest            the client sent something unusable
│   ├── MissingCredentials
│   └── EndpointNotAllowed
├── Unauthenticated           no API key, or an unknown one
├── Forbidden                 the caller is known, or a web page, and may not
├── JobNotFound
├── JobConflict               the job's state forbids the request
│   └── IdempotencyConflict   the same Idempotency-Key came with another request
├── TooManyRequests           the API key's rate is used up
│   └── TooManyActiveJobs
├── StorageUnavailable        PostgreSQL does not answer
├── PictureNotFound           the store has no such screenshot
├── PicturesUnavailable       the store of screenshots does not answer
├── PreviewUnavailable        the screen can't be shown for now
├── SandboxNotFound           the caller has no such sandbox
├── LeaseLost                 another run owns the job, or may by now
├── CredentialsRejected       the sandbox or the model refused the key
├── ModelError                the model can't be asked
│   └── ModelUnavailable      …for now
├── UnusableOutput            the model answered, but not with a decision
└── SandboxError              the sandbox refused
    ├── SandboxLost           it does not exist any more
    ├── SandboxUnavailable    it does not answer for now; the call had no effect
    └── OutcomeUnknown        the call may have taken effect

`code` is stable and public: it stands in HTTP answers and in a job's `error_code`. `retryable` says that
the same call may succeed a little later. A message never holds a secret: adapters see to it at their edge.
"""

from typing import ClassVar

JOB_CODES = frozenset(
    {
        "max_steps",
        "timeout",
        "model_error",
        "model_output_invalid",
        "sandbox_error",
        "sandbox_lost",
        "agent_failed",
        "loop_detected",
        "budget_exceeded",
        "credentials_rejected",
        "internal",
    }
)
"""The codes with which a job may end, as the HTTP contract lists them."""


class GuiAgentError(Exception):
    """The root. `message` is fit for a client's eyes; `details` is JSON that goes with it."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ConfigurationError(GuiAgentError):
    """The settings do not allow the process to start; the message says what to set."""

    code = "configuration"


class InvalidRequest(GuiAgentError):
    """A value in a request can't be used; the message names the field."""

    code = "invalid_request"


class MissingCredentials(InvalidRequest):
    """Neither the request nor the settings hold a key that the job needs."""

    code = "missing_credentials"


class EndpointNotAllowed(InvalidRequest):
    """The request names an address that is not on the allow-list."""

    code = "endpoint_not_allowed"


class Unauthenticated(GuiAgentError):
    """The request carries no API key, or one that is not known."""

    code = "unauthenticated"


class Forbidden(GuiAgentError):
    """The key was revoked, or the request comes from a web page that may not call."""

    code = "forbidden"


class JobNotFound(GuiAgentError):
    """There is no such job, or it is not the caller's."""

    code = "task_not_found"


class JobConflict(GuiAgentError):
    """The job's state forbids what was asked."""

    code = "task_conflict"


class IdempotencyConflict(JobConflict):
    """The Idempotency-Key was used before, for another request."""

    code = "idempotency_conflict"


class TooManyRequests(GuiAgentError):
    """The caller asks more often than its key may."""

    code = "rate_limited"
    retryable = True

    def __init__(self, message: str, *, retry_after: int, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after
        """Seconds."""


class TooManyActiveJobs(TooManyRequests):
    """The caller has as many jobs under way as its key may."""

    code = "too_many_active_tasks"


class StorageUnavailable(GuiAgentError):
    """PostgreSQL refused or dropped the connection; nothing was changed, or all of it was."""

    code = "storage_unavailable"
    retryable = True


class PictureNotFound(GuiAgentError):
    """The store has no such screenshot, or not any more."""

    code = "screenshot_not_found"


class PicturesUnavailable(GuiAgentError):
    """The store of screenshots does not answer."""

    code = "screenshots_unavailable"
    retryable = True


class PreviewUnavailable(GuiAgentError):
    """Redis, over which previews are shared, does not answer, or too many are asked for at once."""

    code = "preview_unavailable"
    retryable = True


class SandboxNotFound(GuiAgentError):
    """There is no such sandbox, or it is none of the caller's."""

    code = "sandbox_not_found"


class LeaseLost(GuiAgentError):
    """This run does not own its job any more: it must neither act nor write again."""

    code = "lease_lost"


class CredentialsRejected(GuiAgentError):
    """The sandbox service or the model refused the key (401, 403)."""

    code = "credentials_rejected"


class ModelError(GuiAgentError):
    """The model refused the request; asking again would not help."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The model is overloaded, too slow or out of reach."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class UnusableOutput(GuiAgentError):
    """The model's text holds no decision. The message tells the model what was wrong."""

    code = "model_output_invalid"


class SandboxError(GuiAgentError):
    """The sandbox refused a call; it had no effect. `details["sandbox_code"]` is the service's own code."""

    code = "sandbox_error"


class SandboxLost(SandboxError):
    """The sandbox does not exist any more."""

    code = "sandbox_lost"


class SandboxUnavailable(SandboxError):
    """The sandbox service can't be reached for now; the call had no effect."""

    retryable = True


class OutcomeUnknown(SandboxError):
    """The answer to an action was lost: it may have taken effect, so it is never sent again."""
