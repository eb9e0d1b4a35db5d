"""The answers of the HTTP contract, as they are sent and as the OpenAPI document describes them."""

from typing import Annotated, Any, Literal

from flask import Response
from flask_openapi.types import ResponseDict
from pydantic import BaseModel, ConfigDict, Field, RootModel, WithJsonSchema, computed_field

from api import marks
from shared.states import DeliveryState, JobStatus, StepStatus
from shared.summary import TaskSummary, Timestamp


def reply(
    answer: BaseModel, *, status: int = 200, include: set[str] | None = None, exclude_unset: bool = False
) -> Response:
    """The answer as JSON."""
    text = answer.model_dump_json(include=include, exclude_unset=exclude_unset)
    return Response(text, status, mimetype="application/json")


class Answer(BaseModel):
    """What every successful answer says."""

    success: Literal[True] = True


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable, for programs.", examples=["task_not_found"])
    message: str = Field(description="For people; names the field where one is to blame.")
    details: dict[str, Any] | None = None


class ErrorAnswer(BaseModel):
    """Every answer other than success."""

    success: Literal[False] = False
    error: ErrorBody
    detail: str = Field(description="The message again, where clients of the original server look for it.")
    request_id: str | None = Field(description="Stands in the server's log, too.")


def error_answers(*statuses: int) -> ResponseDict:
    """The error body under each status that a group of routes may answer with."""
    return dict.fromkeys(statuses, ErrorAnswer)


class HealthAnswer(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """One part of the system."""

    ok: bool
    message: str | None = None


class ReadyAnswer(BaseModel):
    """Whether a task that is submitted now would be carried out."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, Check]


class SubmittedAnswer(Answer):
    """A task that is durable now."""

    task_id: str
    message: str


class BatchAnswer(Answer):
    """Tasks that are durable now, in the order of the request."""

    task_ids: list[str]
    count: int
    message: str


class ContextMessage(BaseModel):
    """A message of the conversation with the model."""

    role: Literal["system", "user", "assistant"]
    content: str


class Context(BaseModel):
    """The conversation as the model sees it, without pictures."""

    messages: list[ContextMessage]


def _only_id_for_certain(schema: dict[str, Any]) -> None:
    schema["required"] = ["task_id"]


class TaskAnswer(TaskSummary, Answer):
    """A task's state and result, all of it; `?fields=` narrows it."""

    model_config = ConfigDict(json_schema_extra=_only_id_for_certain)

    queue_position: int | None = Field(
        description="How many tasks are ahead of a pending one, itself included."
    )
    pending_reason: str | None = Field(description="Why it is still pending.")
    llm_context: Context | None


class ListAnswer(Answer):
    """One page of tasks, newest first."""

    tasks: list[TaskSummary]
    count: int = Field(description="On this page.")
    total: int = Field(description="On all pages, or at least so many.")
    total_is_exact: bool = Field(description="False: there may be more, which were not counted or searched.")
    next_cursor: str | None = Field(description="Where the next page begins; none after the last.")


class ActiveTask(BaseModel):
    """A task that has not ended."""

    task_id: str
    sandbox_id: str | None
    cancelled: bool = Field(description="Somebody asked for its end.")
    status: JobStatus
    worker: str | None = Field(description="Who works at it.")
    step: int = Field(description="How many steps there were so far.")


class ActiveAnswer(Answer):
    """The tasks under way, over all workers, then those that wait."""

    tasks: list[ActiveTask]
    count: int
    total: int = Field(description="All that have not ended, listed or not.")


class StepView(BaseModel):
    """One pass of the loop: what was seen, what was decided, what came of it."""

    number: int
    run: int
    status: StepStatus
    thought: str
    raw: str = Field(description="The model's answer as it was sent.")
    actions: list[dict[str, Any]] = Field(description="Lybic actions, in order.")
    screenshot: str | None = Field(description="What the decision was made on.")
    feedback: str | None = Field(description="What the model was told of it.")
    input_tokens: int
    output_tokens: int
    model_ms: int = Field(description="How long the model took, in milliseconds.")
    action_ms: int | None = Field(description="How long the sandbox took, in milliseconds.")
    created_at: Timestamp
    finished_at: Timestamp | None

    @computed_field(description="The action part of `raw`.")  # type: ignore[prop-decorator]
    @property
    def call(self) -> str:
        """The action part of the model's answer."""
        return marks.call(self.raw)

    @computed_field(description="Where the actions touch the screen.")  # type: ignore[prop-decorator]
    @property
    def marks(self) -> list[marks.Mark]:
        """Where the actions touch the screen, in order."""
        return marks.marks(self.actions)


class StepsAnswer(Answer):
    """One page of a task's steps, in order."""

    task_id: str
    steps: list[StepView]
    count: int = Field(description="On this page.")
    total: int = Field(description="On all pages.")
    next_after: int | None = Field(description="The next page's `after`; none after the last.")


EVENT_TYPES = (
    "status",
    "observation",
    "thinking",
    "action",
    "result",
    "human_intervention",
    "finished",
    "cancelled",
    "error",
)
# A worker of the next version may tell of more: that is passed on, as a stream does.
EventType = Annotated[str, WithJsonSchema({"type": "string", "enum": EVENT_TYPES})]


class EventView(BaseModel):
    """An event: the first seven fields, and those of its type; the same as on a stream."""

    type: EventType
    task_id: str
    taskId: str  # noqa: N815 - clients of the original server read it
    seq: int = Field(description="1, 2, 3… in the task, without gaps.")
    timestamp: Timestamp
    stage: str
    message: str
    step: int | None = Field(None, description="The number of the step that it is about.")
    content: str | None = Field(
        None, description="What was thought, called, found out, asked of a human, or said on resuming."
    )
    status: JobStatus | None = Field(None, description="Of `status`: the task's from now on.")
    run: int | None = Field(None, description="Of `status`: the number of the run that begins.")
    worker: str | None = Field(None, description="Of `status`: who works at it.")
    resumed: bool | None = Field(None, description="Of `status`: a human let it go on.")
    screenshot: str | None = Field(None, description="Of `observation`: a path of this server, or a URL.")
    actions: list[dict[str, Any]] | None = Field(None, description="Of `action`: Lybic actions, in order.")
    needs_human: bool | None = Field(None, description="Of `human_intervention`: always true.")
    taken_over: bool | None = Field(
        None, description="Of `human_intervention`: a human took over, without being called."
    )
    output: str | None = Field(None, description="Of `finished`: the task's result.")
    done: bool | None = Field(None, description="Of `finished`: always true.")
    cancelled: bool | None = Field(None, description="Of `cancelled`: always true.")
    error: str | None = Field(None, description="Of `error`: what went wrong.")
    error_code: str | None = Field(None, description="Of `error`: the same for programs.")

    model_config = {"extra": "allow"}


class EventsAnswer(Answer):
    """One page of a task's events, in order."""

    events: list[EventView]
    count: int
    next_after: int = Field(description="The next page's `after`.")
    over: bool = Field(description="The task has ended, and there is nothing after this page.")


class DeliveryView(BaseModel):
    """An event that the task's receiver is told of, and what became of telling it."""

    id: str = Field(description="The message's `webhook-id`.")
    type: str
    seq: int = Field(description="The event's number in the task.")
    state: DeliveryState
    attempts: int
    status_code: int | None = Field(description="HTTP status of the last answer.")
    error: str | None = Field(description="Why the last attempt failed.")
    created_at: Timestamp
    attempted_at: Timestamp | None = Field(description="When it was sent last.")
    next_attempt_at: Timestamp | None = Field(description="When it is sent next; none after the last time.")
    ended_at: Timestamp | None


class WebhooksAnswer(Answer):
    """A task's webhooks, in the order of its events."""

    task_id: str
    webhooks: list[DeliveryView]
    count: int


class ResumedAnswer(Answer):
    """A task that goes on."""

    task_id: str
    status: JobStatus
    message: str


class TakenOverAnswer(Answer):
    """A task that a human has taken over, or is about to."""

    task_id: str
    status: JobStatus
    message: str


class ActedAnswer(Answer):
    """What a human did in a task's sandbox."""

    task_id: str
    done: int = Field(description="How many actions were carried out.")
    message: str


class CancelledOne(Answer):
    """A task that was cancelled, or is about to stop, or had ended."""

    task_id: str
    status: JobStatus
    already_cancelled: bool
    message: str


class CancelledAll(Answer):
    """The caller's tasks that had not ended."""

    task_ids: list[str] = Field(description="Those that have stopped.")
    stopping: list[str] = Field(description="Those that finish an action first.")
    count: int = Field(description="How many have stopped.")
    message: str


class CancelAnswer(RootModel[CancelledOne | CancelledAll]):
    """What became of the one task, or of all."""


class SandboxAnswer(Answer):
    """A new sandbox, in Lybic's own words."""

    sandbox_id: str
    shape: str | None
    os: str | None
    virtualization: str | None
    architecture: str | None
    hardware_accelerated_encoding: bool | None
    message: str


class SandboxView(BaseModel):
    """A sandbox as Lybic lists it, and who uses it. What Lybic does not tell is null."""

    sandbox_id: str
    name: str
    shape: str | None
    status: Literal["PENDING", "RUNNING", "STOPPED", "ERROR"] | None
    created_at: Timestamp | None
    expires_at: Timestamp | None = Field(description="When it ends, unless its life is extended.")
    task_id: str | None = Field(description="The caller's task that drives it now.")


class SandboxesAnswer(Answer):
    """Sandboxes, newest first."""

    sandboxes: list[SandboxView]
    count: int


class DeletedSandboxAnswer(Answer):
    """A sandbox that is no more."""

    sandbox_id: str
    message: str


class ModelInfo(BaseModel):
    """The model that is asked unless a request chooses another."""

    name: str
    endpoint: str
    dialect: str


class Limits(BaseModel):
    """What the server takes at most."""

    instruction_characters: int
    max_steps: int
    batch_tasks: int
    page: int
    body_bytes: int
    rate: str | None = Field(description="Requests of this API key.")
    active_tasks: int | None = Field(description="Tasks of this API key that have not ended.")


class InfoAnswer(Answer):
    """What this server is."""

    version: str
    model: ModelInfo
    limits: Limits
    sandbox_shape: str
    api_keys: Literal["required", "off"]
    log_level: str
