"""The server's answers.

Frozen. Fields that a newer server adds are kept in `model_extra`; those that an older one does not know have
their defaults. `data()` is the answer as it was sent.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

TERMINAL = frozenset({"finished", "error", "cancelled"})
"""The statuses of tasks that have ended, and the types of the last events."""

PAUSED = "human_intervention"
"""The status of a task that waits for a human, and the type of the event that says so."""


def _timestamp(moment: datetime) -> str:
    """As the server writes it: RFC 3339 in UTC with `Z`, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(_timestamp, return_type=str, when_used="json")]


class Answer(BaseModel):
    """What all of them have in common."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), defer_build=True)

    def data(self) -> dict[str, Any]:
        """The answer as it was sent: its own fields, and no others."""
        return self.model_dump(mode="json", exclude_unset=True)


class Usage(Answer):
    """How often the model was asked, and the tokens that it read and wrote."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Message(Answer):
    """A message of the conversation with the model."""

    role: str
    content: str


class Context(Answer):
    """The conversation as the model sees it, without pictures."""

    messages: tuple[Message, ...] = ()


class Task(Answer):
    """A task's state and result. A field that was not asked for has its default.

    `status` is `pending`, `running`, `human_intervention`, `finished`, `error` or `cancelled`.
    """

    task_id: str
    status: str = ""
    query: str = ""
    max_steps: int = 0
    steps: int = 0
    priority: int = 0
    created_at: Timestamp | None = None
    started_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    sandbox_info: Mapping[str, Any] | None = None
    finished_output: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    parent_task_id: str | None = None
    metadata: Mapping[str, Any] = {}
    usage: Usage = Usage()
    queue_position: int | None = None
    pending_reason: str | None = None
    llm_context: Context | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL


class ActiveTask(Answer):
    """A task that has not ended. `step` is how many steps there were; `cancelled`: it is about to stop."""

    task_id: str
    status: str
    sandbox_id: str | None = None
    cancelled: bool = False
    worker: str | None = None
    step: int = 0


class Step(Answer):
    """One pass of the loop: what was seen, what was decided, what came of it. Durations in milliseconds."""

    number: int
    run: int
    status: str
    thought: str = ""
    raw: str = ""
    call: str = ""
    actions: tuple[Mapping[str, Any], ...] = ()
    marks: tuple[Mapping[str, Any], ...] = ()
    screenshot: str | None = None
    feedback: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    model_ms: int = 0
    action_ms: int | None = None
    created_at: Timestamp | None = None
    finished_at: Timestamp | None = None


class Event(Answer):
    """Something that happened. Beside the first seven fields it has those of its `type`.

    `type` is `status`, `observation`, `thinking`, `action`, `result`, `human_intervention`, `finished`,
    `cancelled` or `error`. `seq` counts 1, 2, 3… in the task.
    """

    type: str
    task_id: str
    seq: int
    timestamp: Timestamp
    message: str = ""
    stage: str = ""
    step: int | None = None
    content: str | None = None
    status: str | None = None
    worker: str | None = None
    run: int | None = None
    screenshot: str | None = None
    actions: tuple[Mapping[str, Any], ...] = ()
    output: str | None = None
    error: str | None = None
    error_code: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether it is the task's last event."""
        return self.type in TERMINAL


class Delivery(Answer):
    """A webhook: an event that the task's receiver is told of, and what became of telling it.

    `state` is `pending`, `delivered` or `failed`; `status_code` and `error` are those of the last attempt.
    """

    id: str
    type: str
    seq: int
    state: str
    attempts: int = 0
    status_code: int | None = None
    error: str | None = None
    created_at: Timestamp | None = None
    attempted_at: Timestamp | None = None
    next_attempt_at: Timestamp | None = None
    ended_at: Timestamp | None = None


class Cancelled(Answer):
    """What became of one task (`task_id`, `status`, `already_cancelled`), or of all of the caller's.

    Of all, `task_ids` have stopped, and `stopping` finish an action first.
    """

    message: str = ""
    task_id: str | None = None
    status: str | None = None
    already_cancelled: bool = False
    task_ids: tuple[str, ...] = ()
    stopping: tuple[str, ...] = ()


class TakenOver(Answer):
    """A task that is yours, or is about to be: then `status` is not `human_intervention` yet."""

    task_id: str
    status: str
    message: str = ""


class Resumed(Answer):
    """A task that goes on."""

    task_id: str
    status: str
    message: str = ""


class Sandbox(Answer):
    """A new sandbox, in Lybic's own words."""

    sandbox_id: str
    shape: str | None = None
    os: str | None = None
    virtualization: str | None = None
    architecture: str | None = None
    hardware_accelerated_encoding: bool | None = None
    message: str = ""


class ListedSandbox(Answer):
    """A sandbox as Lybic lists it; `task_id` is this caller's task that drives it now."""

    sandbox_id: str
    name: str = ""
    shape: str | None = None
    status: str | None = None
    created_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    task_id: str | None = None


class ModelInfo(Answer):
    """The model that is asked unless a task chooses another."""

    name: str
    endpoint: str
    dialect: str = ""


class Limits(Answer):
    """What the server takes at most. `rate` and `active_tasks` are those of this API key."""

    instruction_characters: int | None = None
    max_steps: int | None = None
    batch_tasks: int | None = None
    page: int | None = None
    body_bytes: int | None = None
    rate: str | None = None
    active_tasks: int | None = None


class Info(Answer):
    """What the server is."""

    version: str
    model: ModelInfo
    limits: Limits = Limits()
    sandbox_shape: str = ""
    api_keys: str = ""
    log_level: str = ""


class Health(Answer):
    """The process is alive."""

    status: str


class Check(Answer):
    """One part of the system."""

    ok: bool
    message: str | None = None


class Readiness(Answer):
    """Whether a task that is submitted now would be carried out."""

    status: str
    checks: Mapping[str, Check] = {}

    @property
    def ok(self) -> bool:
        """Whether it would."""
        return self.status == "ok"
