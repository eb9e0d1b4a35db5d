"""The calls of the HTTP contract, without any I/O: what to send, and how to read the answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NotRequired, Required, TypedDict, TypeVar, Unpack
from urllib.parse import quote
from uuid import uuid4

import httpx

from client.errors import ApiError, BadAnswer, api_error
from client.models import (
    ActiveTask,
    Answer,
    Cancelled,
    Delivery,
    Health,
    Info,
    ListedSandbox,
    Readiness,
    Resumed,
    Sandbox,
    Step,
    TakenOver,
    Task,
)

T = TypeVar("T")
A = TypeVar("A", bound=Answer)

LARGEST_PAGE = 500
SLOW_SECONDS = 180.0
"""How long creating a sandbox, or a report with many pictures, may take."""


# --- what to send ---------------------------------------------------------------------------------------


class Authentication(TypedDict):
    """Lybic credentials; they win over the server's."""

    api_key: str
    org_id: str
    api_endpoint: NotRequired[str]


class ModelChoice(TypedDict, total=False):
    """Another model than the server's."""

    name: str
    base_url: str
    dialect: str


class TaskOptions(TypedDict, total=False):
    """How an instruction is to be carried out. What is left out, or None, is for the server to decide.

    docs/api.md tells what each of them means.
    """

    sandbox_id: str | None
    user_system_prompt: str | None
    continue_context: bool | None
    task_id: str | None
    authentication: Authentication | None
    ark_apikey: str | None
    max_steps: int | None
    timeout_seconds: int | None
    model: ModelChoice | None
    language: Literal["auto", "zh", "en"] | None
    priority: int | None
    max_model_calls: int | None
    max_tokens: int | None
    use_memory: bool | None
    metadata: Mapping[str, str | int | float | bool | None] | None
    keep_sandbox: bool | None
    webhook_url: str | None
    webhook_secret: str | None


class TaskRequest(TaskOptions):
    """An instruction and how it is to be carried out: one task of several."""

    instruction: Required[str]


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One request, and how its answer is read.

    `repeatable`: to send it again does no harm, though it may have come through. `accepts`: statuses that are
    no errors, beside 2xx. `seconds`: how long it may take at least.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T] = field(repr=False)
    query: Sequence[tuple[str, str]] = ()
    body: Mapping[str, Any] | None = field(default=None, repr=False)  # it may hold credentials
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    accepts: frozenset[int] = frozenset()
    seconds: float = 0

    def answer(self, response: httpx.Response) -> T:
        """What the response says. Raises `ApiError` or `BadAnswer`."""
        if not response.is_success and response.status_code not in self.accepts:
            raise refusal(response)
        try:
            return self.read(response)
        except ValueError as error:  # no JSON, or not what the contract says
            raise bad_answer(response) from error


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, and the call for the next one."""

    items: Sequence[T]
    following: "Call[Page[T]] | None"


def refusal(response: httpx.Response) -> ApiError | BadAnswer:
    """The error that a response tells of. Its body has been read."""
    if response.is_redirect:
        return BadAnswer(f"the server has moved to {response.headers.get('Location')}: use that URL")
    try:
        body = response.json()
    except ValueError:
        body = None
    pause = response.headers.get("Retry-After", "")
    return api_error(response.status_code, body, response.text, float(pause) if pause.isdecimal() else None)


def bad_answer(response: httpx.Response) -> BadAnswer:
    """The error where something else than this API answered."""
    said = f"HTTP {response.status_code}, {response.headers.get('Content-Type', 'of no type')}"
    return BadAnswer(f"what answers at {response.url.path} is not this API ({said})")


def _json(model: type[A]) -> Callable[[httpx.Response], A]:
    return lambda response: model.model_validate_json(response.content)


def _get(path: str, model: type[A], *query: tuple[str, str], accepts: Iterable[int] = ()) -> Call[A]:
    return Call(method="GET", path=path, read=_json(model), query=query, accepts=frozenset(accepts))


def task_path(task_id: str, rest: str) -> str:
    """The path of something about a task, whatever stands in the id."""
    return f"/api/agent/task/{quote(task_id, safe='')}/{rest}"


# --- submitting -----------------------------------------------------------------------------------------


class _Submitted(Answer):
    task_id: str


class _SubmittedMany(Answer):
    task_ids: list[str]


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are set. Raises `TypeError` for one that there is not: the server would ignore it."""
    for name in options.keys() - TaskRequest.__annotations__.keys():
        raise TypeError(f"a task has no field {name!r}")
    return {name: value for name, value in options.items() if value is not None}


def _once(key: str | None) -> Mapping[str, str]:
    """What makes it harmless to send a request again."""
    return {"Idempotency-Key": key or uuid4().hex}


def submit(
    instruction: str, *, idempotency_key: str | None = None, **options: Unpack[TaskOptions]
) -> Call[str]:
    """Submit a task. Returns its id when it is durable.

    With an `idempotency_key` it is harmless to submit the same again, from another process, too. Without one
    every call makes a task of its own; our own retries never make a second one.
    """
    return Call(
        method="POST",
        path="/api/agent/task/submit",
        read=lambda response: _Submitted.model_validate_json(response.content).task_id,
        body=_fields({"instruction": instruction, **options}),
        headers=_once(idempotency_key),
    )


def submit_many(tasks: Iterable[TaskRequest], *, idempotency_key: str | None = None) -> Call[list[str]]:
    """Submit up to 1,000 tasks: all become durable, or none. Returns their ids in the same order."""
    return Call(
        method="POST",
        path="/api/agent/task/batch",
        read=lambda response: _SubmittedMany.model_validate_json(response.content).task_ids,
        body={"tasks": [_fields(task) for task in tasks]},
        headers=_once(idempotency_key),
    )


# --- looking --------------------------------------------------------------------------------------------


def status(task_id: str, *, fields: Iterable[str] | None = None) -> Call[Task]:
    """Tell a task's state and result; with `fields` only these, which is fast without `llm_context`."""
    query = [] if fields is None else [("fields", ",".join(fields))]
    return _get(f"/api/agent/task/status/{quote(task_id, safe='')}", Task, *query)


class _TaskList(Answer):
    tasks: tuple[Task, ...]
    next_cursor: str | None


def tasks(
    *,
    status: Iterable[str] = (),
    metadata: Mapping[str, object] | None = None,
    q: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[Page[Task]]:
    """List tasks, newest first, at most `limit`: those in one of the statuses, with all of the labels.

    `q`: whose instruction has this text in its first 2,000 characters, or whose id begins with it; among the
    newest 10,000.
    """
    wanted = list(status)
    size = min(LARGEST_PAGE, LARGEST_PAGE if limit is None else limit)

    def read(response: httpx.Response) -> Page[Task]:
        found = _TaskList.model_validate_json(response.content)
        left = None if limit is None else limit - len(found.tasks)
        more = found.next_cursor is not None and left != 0
        following = tasks(status=wanted, metadata=metadata, q=q, limit=left, cursor=found.next_cursor)
        return Page(found.tasks, following if more else None)

    query = [("limit", str(size)), *_labels(metadata or {})]
    if wanted:
        query.append(("status", ",".join(wanted)))
    if q is not None:
        query.append(("q", q))
    if cursor is not None:
        query.append(("cursor", cursor))
    return Call(method="GET", path="/api/agent/task/list", read=read, query=query)


def _labels(metadata: Mapping[str, object]) -> list[tuple[str, str]]:
    """Labels as the list takes them: booleans and null as in JSON."""
    words = {True: "true", False: "false", None: "null"}

    def written(value: object) -> str:
        return words[value] if value is None or isinstance(value, bool) else str(value)

    return [("metadata", f"{name}:{written(value)}") for name, value in metadata.items()]


class _ActiveList(Answer):
    tasks: list[ActiveTask]


def active() -> Call[list[ActiveTask]]:
    """List the tasks that have not ended, at most 500: those under way, then those that wait, by priority."""
    return Call(
        method="GET",
        path="/api/agent/tasks",
        read=lambda response: _ActiveList.model_validate_json(response.content).tasks,
    )


class _StepList(Answer):
    steps: tuple[Step, ...]
    next_after: int | None


def steps(task_id: str, *, after: int = 0) -> Call[Page[Step]]:
    """List a task's steps in order, those with numbers above `after`."""

    def read(response: httpx.Response) -> Page[Step]:
        found = _StepList.model_validate_json(response.content)
        following = None if found.next_after is None else steps(task_id, after=found.next_after)
        return Page(found.steps, following)

    query = [("after", str(after)), ("limit", str(LARGEST_PAGE))]
    return Call(method="GET", path=task_path(task_id, "steps"), read=read, query=query)


class _DeliveryList(Answer):
    webhooks: list[Delivery]


def webhooks(task_id: str) -> Call[list[Delivery]]:
    """Tell what became of a task's webhooks, in the order of its events."""
    return Call(
        method="GET",
        path=task_path(task_id, "webhooks"),
        read=lambda response: _DeliveryList.model_validate_json(response.content).webhooks,
    )


def report(task_id: str) -> Call[str]:
    """A task's report: one page of HTML that needs nothing else."""
    path = task_path(task_id, "report")
    return Call(method="GET", path=path, read=lambda response: response.text, seconds=SLOW_SECONDS)


def screenshot(task_id: str, name: str) -> Call[bytes]:
    """A picture that a task left behind: PNG, JPEG or WebP. `name`: also the path in a step or an event."""
    path = task_path(task_id, f"screenshots/{quote(name.rpartition('/')[2], safe='')}")
    return Call(method="GET", path=path, read=lambda response: response.content)


def preview(task_id: str) -> Call[bytes]:
    """The screen of a task's sandbox as it is now, for as long as the task has not ended."""
    return Call(method="GET", path=task_path(task_id, "preview"), read=lambda response: response.content)


# --- stopping and going on ------------------------------------------------------------------------------


def cancel(task_id: str | None = None) -> Call[Cancelled]:
    """End a task; without an id, all of this caller's. Returns when they have stopped, or after 2 seconds."""
    body = {} if task_id is None else {"task_id": task_id}
    return Call(method="POST", path="/api/agent/cancel", read=_json(Cancelled), body=body)


def takeover(task_id: str) -> Call[TakenOver]:
    """Take a task over from the agent. Returns when the agent has stopped, or after 2 seconds."""
    return Call(method="POST", path=task_path(task_id, "takeover"), read=_json(TakenOver), body={})


def resume(task_id: str, message: str | None = None) -> Call[Resumed]:
    """Let a task go on that waits for a human, and tell the model what was done."""
    body = {} if message is None else {"message": message}
    path = task_path(task_id, "resume")
    return Call(method="POST", path=path, read=_json(Resumed), body=body, repeatable=False)


# --- sandboxes and the server ---------------------------------------------------------------------------


def create_sandbox(
    name: str | None = None,
    *,
    shape: str | None = None,
    max_life_seconds: int | None = None,
    project_id: str | None = None,
    authentication: Authentication | None = None,
) -> Call[Sandbox]:
    """Create a sandbox for tasks that name its id. It lives for an hour unless you say otherwise."""
    fields = {
        "name": name,
        "shape": shape,
        "maxLifeSeconds": max_life_seconds,
        "projectId": project_id,
        "authentication": authentication,
    }
    return Call(
        method="POST",
        path="/api/sandbox/create",
        read=_json(Sandbox),
        body={field: value for field, value in fields.items() if value is not None},
        repeatable=False,
        seconds=SLOW_SECONDS,
    )


class _SandboxList(Answer):
    sandboxes: list[ListedSandbox]


def sandboxes(*, authentication: Authentication | None = None) -> Call[list[ListedSandbox]]:
    """List sandboxes, newest first, at most 500: with an API key alone those that its own tasks have used."""
    return Call(
        method="POST",
        path="/api/sandbox/list",
        read=lambda response: _SandboxList.model_validate_json(response.content).sandboxes,
        body={"authentication": authentication} if authentication else {},
    )


def delete_sandbox(sandbox_id: str, *, authentication: Authentication | None = None) -> Call[None]:
    """End a sandbox that no active task works in or waits for."""
    more = {"authentication": authentication} if authentication else {}
    return Call(
        method="POST",
        path="/api/sandbox/delete",
        read=lambda _: None,
        body={"sandbox_id": sandbox_id, **more},
    )


def info() -> Call[Info]:
    """Tell what the server is, and what it takes at most."""
    return _get("/api/agent/info", Info)


def health() -> Call[Health]:
    """Ask whether the server's process is alive."""
    return _get("/api/health", Health)


def ready() -> Call[Readiness]:
    """Ask whether a task that is submitted now would be carried out."""
    return _get("/api/ready", Readiness, accepts={503})
