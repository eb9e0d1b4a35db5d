"""Shapes that several packages speak: what a job is asked to do, with what, and what became of it."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_serializer

from shared.settings import normal_url

Language = Literal["auto", "zh", "en"]
Dialect = Literal["doubao", "ui-tars-1.5"]
Vocabulary = Literal["computer", "mobile"]
Url = Annotated[str, AfterValidator(normal_url)]


class Frozen(BaseModel):
    """A value: it does not change after it was made."""

    # Without its input an error tells no secrets, such as those of credentials that another version sealed.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class LybicCredentials(Frozen):
    """What a call to Lybic is signed with, and where it goes."""

    api_key: SecretStr
    org_id: str
    endpoint: Url


class Credentials(Frozen):
    """The secrets of one job, and the endpoints that they are good for."""

    lybic: LybicCredentials
    model_key: SecretStr


class Receiver(Frozen):
    """Who is told by webhooks what becomes of a job, and the secret that they are signed with."""

    url: str
    """May hold a secret, too: whoever knows it can send something there."""
    secret: SecretStr

    @property
    def host(self) -> str:
        """With the port, if the URL names one."""
        return urlsplit(self.url).netloc.lower()


class JobOptions(Frozen):
    """How a job is to be done."""

    max_steps: int = 50
    timeout_seconds: int | None = None
    user_system_prompt: str | None = None
    language: Language = "auto"
    model_name: str
    model_base_url: Url
    dialect: Dialect = "doubao"
    keep_sandbox: bool
    max_model_calls: int | None = None
    max_tokens: int | None = None
    """Of the model's input and output together."""
    use_memory: bool = False
    traceparent: str | None = None
    """Of the request, as W3C has it: the trace that every run belongs to."""


class Idempotency(Frozen):
    """Makes a request that is sent again one and the same: the caller's key, and a digest of the request."""

    key: str
    digest: bytes


class NewJob(Frozen):
    """A validated request, ready to be made durable."""

    owner_id: UUID | None = None
    idempotency: Idempotency | None = None
    instruction: str
    options: JobOptions
    credentials: Credentials
    receiver: Receiver | None = None
    sandbox_id: str | None = None
    priority: int = 5
    """0 is the most urgent, as for Celery on Redis; 9 the least."""
    parent_id: UUID | None = None
    metadata: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


def sandbox_key(lybic: LybicCredentials, sandbox_id: str) -> str:
    """Names a sandbox among those of all organisations: an id alone could be another's as well."""
    return sha256("\n".join((lybic.endpoint, lybic.org_id, sandbox_id)).encode()).hexdigest()


class SandboxInfo(Frozen):
    """What is known of a job's sandbox. Lybic's own words, in snake_case."""

    sandbox_id: str
    shape: str | None = None
    os: str | None = None
    virtualization: str | None = None
    architecture: str | None = None
    hardware_accelerated_encoding: bool | None = None
    expires_at: datetime | None = None
    """When Lybic ends it, unless its life is extended; as of its making."""
    created_by_task: bool = False

    @field_serializer("expires_at", when_used="json-unless-none")
    def _to_the_millisecond(self, moment: datetime) -> str:
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ListedSandbox(Frozen):
    """A sandbox among those of an organisation; what Lybic tells oddly is None."""

    sandbox_id: str
    name: str
    shape: str | None
    status: Literal["PENDING", "RUNNING", "STOPPED", "ERROR"] | None
    created_at: datetime | None
    expires_at: datetime | None


def vocabulary_of(os: str | None) -> Vocabulary:
    """What a model may do in a sandbox with this operating system, in Lybic's own words for it."""
    return "mobile" if os == "Android" else "computer"


class Usage(Frozen):
    """What the model was asked and what it cost."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            model_calls=self.model_calls + other.model_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )
