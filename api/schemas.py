"""The requests of the HTTP contract, as they are validated and as the OpenAPI document describes them."""

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from api.body import storable
from shared.addresses import plain_url
from shared.errors import InvalidRequest
from shared.schemas import Dialect
from shared.signing import good_secret
from shared.states import JobStatus

MOST_LABELS = 32
MOST_TASKS = 1000
MOST_STEPS = 500
MOST_ACTIONS = 10
LONGEST_INSTRUCTION = 100_000
LARGEST_PAGE = 500
MOST_PROBLEMS = 20
IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,255}$"


def refuse(error: ValidationError) -> None:
    """Raises `InvalidRequest` that names the first bad field, and the others in its details."""
    problems = [
        {"field": _path(one["loc"]), "problem": one["msg"].removeprefix("Value error, ")}
        for one in error.errors(include_input=False, include_url=False, include_context=False)[:MOST_PROBLEMS]
    ]
    first = problems[0]
    raise InvalidRequest(
        f"{first['field']}: {first['problem']}", field=first["field"], problems=problems
    ) from None


def _path(location: tuple[int | str, ...]) -> str:
    """`("tasks", 3, "model")` → `tasks[3].model`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in location)
    return path.removeprefix(".") or "body"


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _no_path(value: str) -> str:
    # Escaping keeps an id within its segment of Lybic's path, except for these two.
    if value in {".", ".."}:
        raise ValueError("is no id")
    return value


def _header_safe(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", value.get_secret_value()):
        raise ValueError("must be 1 to 1000 printable ASCII characters without blanks")
    return value


def _url(value: str) -> str:
    plain_url(value)
    return value


def _printable(value: str) -> str:
    if not re.fullmatch(IDEMPOTENCY_KEY, value):
        raise ValueError("must be 1 to 255 printable ASCII characters without blanks")
    return value


def _storable(value: str) -> str:
    if not storable(value):
        raise ValueError("must not hold NUL or lone surrogates")
    return value


def _one_problem(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """What is wrong with a label, rather than with each type that it might have had."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("must be a text of at most 1000 characters, a number, a boolean or null") from None


def _few(value: object) -> object:
    """Counted before each is looked at: a body has room for a hundred thousand."""
    if isinstance(value, dict) and len(value) > MOST_LABELS:
        raise ValueError(f"must not be more than {MOST_LABELS}")
    return value


def _label(value: str) -> str:
    if not value.partition(":")[1] or value.startswith(":"):
        raise ValueError("must be written name:value")
    return _storable(value)


def _commas(value: object) -> object:
    """`["a,b", "c"]` → `["a", "b", "c"]`."""
    if isinstance(value, list):
        return [part for one in value for part in str(one).split(",") if part]
    return value


class Request(BaseModel):
    """Unknown fields are ignored: clients of the original server may send more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    @cache
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Made once: flask-openapi asks for it at every request with a query or headers."""
        return super().model_json_schema(*args, **kwargs)


def _example(**fields: Any) -> ConfigDict:
    """What the interactive page proposes, rather than a request with nonsense in every field."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


Key = Annotated[SecretStr, AfterValidator(_header_safe)]
WebhookSecret = Annotated[SecretStr, AfterValidator(good_secret)]
Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_path)]
LabelName = Annotated[str, Field(min_length=1, max_length=100)]
Label = Annotated[
    Annotated[str, Field(max_length=1000)] | int | float | bool | None, WrapValidator(_one_problem)
]


class LybicAuthentication(Request):
    """Lybic credentials; they win over the settings."""

    api_key: Key
    org_id: Id
    api_endpoint: str | None = Field(None, max_length=1000, description="One of the server's allow-list.")


class ModelChoice(Request):
    """Another model than the configured one."""

    name: str | None = Field(None, min_length=1, max_length=200)
    base_url: str | None = Field(None, max_length=1000, description="One of the server's allow-list.")
    dialect: Dialect | None = Field(None, description="Unset: the one that models of this name write.")


class RunAgentRequest(Request):
    """An instruction and how it is to be carried out. Also what the manual calls `SubmitTaskRequest`."""

    model_config = _example(instruction="Open notepad and type Hello World")

    instruction: Annotated[
        str,
        Field(
            min_length=1,
            max_length=LONGEST_INSTRUCTION,
            json_schema_extra={"pattern": r"\S"},
            description="What the agent is to do.",
        ),
        AfterValidator(_not_blank),
    ]
    sandbox_id: Id | None = Field(None, description="Without one, a sandbox is created for the task.")
    user_system_prompt: str | None = Field(
        None, max_length=100_000, description="Added to the system prompt."
    )
    continue_context: bool = Field(
        default=False, description="Continue the context, and the sandbox, of `task_id`, which has ended."
    )
    task_id: Id | None = Field(None, description="The task to continue.")
    authentication: LybicAuthentication | None = None
    ark_apikey: Key | None = Field(None, description="The model's API key; it wins over the settings.")
    max_steps: int = Field(50, ge=1, le=MOST_STEPS)
    timeout_seconds: int | None = Field(
        None,
        ge=1,
        le=7 * 86400,
        description="Longest time from the start; waiting for humans is not counted.",
    )
    model: ModelChoice | None = None
    language: Literal["auto", "zh", "en"] = Field("auto", description="Of the prompts and thoughts.")
    priority: int = Field(5, ge=0, le=9, description="0 is the most urgent.")
    metadata: Annotated[dict[LabelName, Label], BeforeValidator(_few)] = Field(
        default_factory=dict, max_length=MOST_LABELS, description="The caller's own labels, to list tasks by."
    )
    max_model_calls: int | None = Field(None, ge=1, le=10_000, description="Most calls of the model.")
    max_tokens: int | None = Field(
        None, ge=1, le=10**9, description="Most tokens of the model, input and output together."
    )
    use_memory: bool = Field(
        default=False, description="Give the model what earlier tasks of this caller asked to remember."
    )
    keep_sandbox: bool | None = Field(
        None, description="Unset: a sandbox that was named is kept, one that was created is not."
    )
    webhook_url: Annotated[str, Field(max_length=2000), AfterValidator(_url)] | None = Field(
        None,
        description="Who is told, by https, how the task ends and when it calls a human.",
    )
    webhook_secret: WebhookSecret | None = Field(
        None, description="Signs what is told; it wins over the settings."
    )


class BatchRequest(Request):
    """Several tasks at once: all become durable, or none."""

    model_config = _example(tasks=[{"instruction": "Open notepad"}, {"instruction": "Open calculator"}])

    tasks: list[RunAgentRequest] = Field(min_length=1, max_length=MOST_TASKS)


class ResumeRequest(Request):
    """What a human tells the model that called."""

    message: Annotated[str, Field(max_length=100_000)] | None = None


class ActRequest(Request):
    """What a human does in the sandbox of a task."""

    model_config = _example(actions=[{"type": "keyboard:type", "content": "Hello"}])

    actions: list[dict[str, Any]] = Field(
        min_length=1, max_length=MOST_ACTIONS, description="Lybic actions, carried out in order."
    )


class CancelRequest(Request):
    """One task, or every active one of the caller."""

    task_id: Id | None = None
    authentication: LybicAuthentication | None = None


class CreateSandboxRequest(Request):
    """A sandbox to be created. `{}` is valid."""

    model_config = _example(name="desk", maxLifeSeconds=3600)

    name: str | None = Field(None, min_length=1, max_length=100)
    shape: Id | None = None
    life_seconds: int = Field(3600, ge=1, le=86400, alias="maxLifeSeconds")
    project_id: Id | None = Field(None, alias="projectId")
    authentication: LybicAuthentication | None = None


class ListSandboxesRequest(Request):
    """Whose sandboxes to list. `{}` is valid."""

    authentication: LybicAuthentication | None = None


class DeleteSandboxRequest(ListSandboxesRequest):
    """A sandbox that is not needed any more."""

    model_config = _example(sandbox_id="BOX-0BE148E29D5CADB4")

    sandbox_id: Id


# --- paths, queries and headers -------------------------------------------------------------------------


class TaskPath(Request):
    """The task that a route is about."""

    task_id: str


class ScreenshotPath(TaskPath):
    """A screenshot of a task."""

    name: str


class SubmitHeaders(Request):
    """Makes a request that is sent again harmless."""

    idempotency_key: Annotated[str, AfterValidator(_printable)] | None = Field(
        None,
        alias="Idempotency-Key",
        json_schema_extra={"pattern": IDEMPOTENCY_KEY},
        description="A repeated request with the same key returns the first task; another one is a 409.",
    )


class StatusQuery(Request):
    """How much of a task's status is wanted."""

    fields: str | None = Field(
        None, description="Names of fields, with commas: the others are left out.", examples=["status,steps"]
    )


class ListQuery(Request):
    """Which tasks to list. A page begins at `cursor`, which the page before gave, or at `offset`."""

    status: Annotated[list[JobStatus], BeforeValidator(_commas)] = Field(default_factory=list)
    metadata: list[Annotated[str, AfterValidator(_label)]] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="Labels, each as `name:value`.",
        examples=[["team:billing"]],
    )
    q: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_storable)] | None = Field(
        None,
        description="Only tasks whose instruction has this text, in small letters or capitals, or whose id "
        "begins with it (from 4 characters on). It is looked for in the first 2,000 characters, among the "
        "newest 10,000 that owner and status leave; if there are more, `total_is_exact` is false.",
        examples=["notepad"],
    )
    limit: int = Field(50, ge=1, le=LARGEST_PAGE)
    offset: int = Field(0, ge=0, le=1_000_000)
    cursor: str | None = Field(None, max_length=200)


class ActiveQuery(Request):
    """How many tasks are wanted."""

    limit: int = Field(LARGEST_PAGE, ge=1, le=LARGEST_PAGE)


class StepsQuery(Request):
    """Which steps are wanted: those with numbers above `after`."""

    after: int = Field(0, ge=0, le=2**31 - 1)
    limit: int = Field(100, ge=1, le=LARGEST_PAGE)


SEEN = r"^[0-9]{1,9}$"


class EventsQuery(Request):
    """Which events are wanted: those with numbers above `after`."""

    after: str | None = Field(None, pattern=SEEN, description="`Last-Event-ID` wins over it.")


class EventsHeaders(Request):
    """What a client that comes back has seen already."""

    last_event_id: str | None = Field(None, alias="Last-Event-ID", pattern=SEEN)


def last_seen(headers: EventsHeaders, query: EventsQuery) -> int:
    """The number of the last event that the client has seen."""
    return int(headers.last_event_id or query.after or 0)
