"""The commands that talk to a server."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from client.calls import TaskRequest
from client.clients import STATE, Client
from client.errors import (
    ApiError,
    ClientError,
    Conflict,
    ConnectionFailed,
    InvalidSetting,
    Unauthorized,
    Unavailable,
)
from client.exits import OF_STATUS, ExitCode
from client.models import PAUSED, Step, Task
from client.options import IdempotencyKey, Json, Labels, TaskId, Url, asks_for_a_task, labels, task_ids
from client.screen import JsonScreen, Notices, Screen, TextScreen, say, show_fields, show_json, show_table
from client.text import one_line

PATIENCE_SECONDS = 10.0
"""How long a server that does not answer is tried again."""
FOLLOWING_SECONDS = 600.0
"""The same for whoever waits for a task, which goes on meanwhile."""


class Status(StrEnum):
    """What `list` may be asked for."""

    PENDING = "pending"
    RUNNING = "running"
    HUMAN_INTERVENTION = "human_intervention"
    FINISHED = "finished"
    ERROR = "error"
    CANCELLED = "cancelled"


ACTIVE = (Status.PENDING, Status.RUNNING, Status.HUMAN_INTERVENTION)

LONGEST_CELL = 300
LEFT = """
Task {0} goes on.
  lybic-guiagent watch {0}   comes back to it
  lybic-guiagent cancel {0}  ends it"""


@contextmanager
def connected(
    url: str | None,
    *,
    as_json: bool = False,
    patience: float = PATIENCE_SECONDS,
    notice: Callable[[str], None] = say,
) -> Iterator[Client]:
    """A client whose errors are told, end the command, and are its exit code."""
    log, notices = logging.getLogger("client"), Notices(notice)
    log.addHandler(notices)
    log.setLevel(logging.INFO)
    try:
        with Client(url, retry_seconds=patience) as client:
            yield client
    except ClientError as error:
        notice(_explained(error))
        if as_json:
            show_json(_document(error))
        raise typer.Exit(_exit_code(error)) from None
    except UnicodeEncodeError:
        raise typer.BadParameter("an argument is not UTF-8") from None
    finally:
        log.removeHandler(notices)


def _document(error: ClientError) -> dict[str, Any]:
    """The error as the server tells of its own."""
    known = error if isinstance(error, ApiError) else None
    return {
        "success": False,
        "error": {
            "code": error.code,
            "message": error.message,
            "details": (known.details if known else None) or None,
        },
        "request_id": known.request_id if known else None,
    }


def _exit_code(error: ClientError) -> ExitCode:
    match error:
        case ConnectionFailed() | Unavailable():
            return ExitCode.UNREACHABLE
        case InvalidSetting():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def _explained(error: ClientError) -> str:
    """The message, and what helps."""
    match error:
        case ConnectionFailed():
            return f"{error.message}\nIs it running? --url or LYBIC_GUIAGENT_URL says where."
        case Unauthorized():
            return f"{error.message}\nLYBIC_GUIAGENT_API_KEY is to hold the API key that you were given."
        case ApiError(status=500, request_id=str(request_id)):
            return f"{error.message} (request {request_id})"
        case _:
            return error.message


# --- submitting and watching ----------------------------------------------------------------------------


@asks_for_a_task
def submit(
    request: TaskRequest,
    *,
    idempotency_key: IdempotencyKey = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and show what came of it.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a task and print its id."""
    with connected(url, as_json=as_json) as client:
        task_id = client.submit(idempotency_key=idempotency_key, **request)
    if wait:
        _wait(url, task_id, as_json=as_json)
    if as_json:
        show_json({"task_id": task_id})
    else:
        typer.echo(one_line(task_id))


def _wait(url: str | None, task_id: str, *, as_json: bool) -> NoReturn:
    say(f"Task {task_id}")
    with (
        connected(url, as_json=as_json, patience=FOLLOWING_SECONDS) as client,
        _leaving(client, task_id, say),
    ):
        task = client.wait(task_id, until_paused=True)
    _show_task(task, as_json=as_json)
    raise typer.Exit(OF_STATUS[task.status])


@asks_for_a_task
def run(
    request: TaskRequest,
    *,
    idempotency_key: IdempotencyKey = None,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels the task; else it goes on.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a task and watch it until it ends.

    A server that dies is waited for, and Ctrl-C leaves the task running. Where
    it calls a human you are asked, at a terminal; else the exit code says so.
    """
    with connected(url, as_json=as_json) as client:
        task_id = client.submit(idempotency_key=idempotency_key, **request)
    if not as_json:
        typer.echo(f"Task {one_line(task_id)}")
    _follow(url, task_id, as_json=as_json, cancel_on_interrupt=cancel_on_interrupt)


def watch(
    task_id: TaskId,
    *,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Begin after the event of this number.")] = 0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Watch a task from its first event to its last, even when it has ended."""
    with connected(url, as_json=as_json) as client:
        client.status(task_id, fields=["status"])
    _follow(url, task_id, after=after, as_json=as_json)


def _follow(
    url: str | None, task_id: str, *, as_json: bool, after: int = 0, cancel_on_interrupt: bool = False
) -> NoReturn:
    """Shows the task's events, and exits with what came of it."""
    screen: Screen = JsonScreen() if as_json else TextScreen()
    with (
        connected(url, as_json=as_json, patience=FOLLOWING_SECONDS, notice=screen.notice) as client,
        _leaving(client, task_id, screen.notice, cancel=cancel_on_interrupt),
        screen.watching(),
    ):
        outcome = None
        for event in client.events(task_id, after=after):
            screen.show(event)
            outcome = event.type
            if outcome == PAUSED and not _helped(client, task_id, screen):
                break
        outcome = (
            outcome or client.status(task_id, fields=["status"]).status
        )  # there was nothing after `after`
    raise typer.Exit(OF_STATUS[outcome])


@contextmanager
def _leaving(
    client: Client, task_id: str, notice: Callable[[str], None], *, cancel: bool = False
) -> Iterator[None]:
    """Says how to come back when the user leaves with Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        if cancel:
            notice(client.cancel(task_id).message)
        else:
            notice(LEFT.format(task_id))
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _helped(client: Client, task_id: str, screen: Screen) -> bool:
    """Whether a task that called a human goes on: it did before, or the person at the terminal saw to it."""
    task = client.status(task_id, fields=["status", "sandbox_info"])
    if task.status != PAUSED:
        return True
    message = screen.ask(_sandbox_id(task))
    if message is None:
        return False
    try:
        client.resume(task_id, message or None)
    except Conflict as error:  # somebody else was quicker
        screen.notice(error.message)
    return True


# --- looking --------------------------------------------------------------------------------------------


def status(
    task_id: TaskId,
    *,
    context: Annotated[
        bool, typer.Option("--context", help="With --json: the conversation with the model, too.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a task's state and result."""
    with connected(url, as_json=as_json) as client:
        task = client.status(task_id, fields=None if context else STATE)
    _show_task(task, as_json=as_json)


def list_tasks(
    *,
    status: Annotated[list[Status] | None, typer.Option(help="Only with this status; repeatable.")] = None,
    active: Annotated[bool, typer.Option("--active", help="Only those that have not ended.")] = False,
    label: Labels = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only with this text in the instruction, or an id that begins so."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List tasks, newest first."""
    wanted = [*(status or ()), *(ACTIVE if active else ())]
    with connected(url, as_json=as_json) as client:
        found = client.tasks(status=wanted, metadata=labels(label), q=search, limit=limit)
        if as_json:
            for task in found:
                show_json(task.data())
        else:
            show_table(("TASK", "STATUS", "SUBMITTED", "INSTRUCTION"), map(_task_row, found))


def steps(task_id: TaskId, *, url: Url = None, as_json: Json = False) -> None:
    """Show what was decided and done in each step of a task."""
    with connected(url, as_json=as_json) as client:
        found = client.steps(task_id)
        if as_json:
            for step in found:
                show_json(step.data())
        else:
            show_table(("STEP", "STATUS", "MODEL", "SANDBOX", "THOUGHT AND ACTION"), map(_step_row, found))


def report(
    task_id: TaskId,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write it; - is the standard output.", show_default="TASK.html"
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Save a page of HTML that tells of a task, with its screenshots."""
    with connected(url, as_json=as_json) as client:
        page = client.report(task_id)
    if out == Path("-"):
        typer.echo(page, nl=False)
        return
    file = out or Path(f"{task_id}.html")
    file.write_text(page, encoding="utf-8")
    if as_json:
        show_json({"file": str(file)})
    else:
        typer.echo(file)


def info(*, url: Url = None, as_json: Json = False) -> None:
    """Show what the server is, and whether it is ready."""
    with connected(url, as_json=as_json) as client:
        found = client.info()
        if as_json:
            show_json(found.data())
            return
        checks = client.ready().checks
    show_fields(
        [
            ("Version", found.version),
            ("Model", f"{found.model.name} at {found.model.endpoint}"),
            ("API keys", found.api_keys),
            *((name.capitalize(), "ok" if check.ok else check.message) for name, check in checks.items()),
        ]
    )


# --- stopping and going on ------------------------------------------------------------------------------


def cancel(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="The tasks' ids.", autocompletion=task_ids)
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All of yours that have not ended.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """End tasks: they act no more when this returns, or say that they are about to stop."""
    if bool(wanted) == every:
        raise typer.BadParameter("name the tasks, or say --all", param_hint="TASK")
    with connected(url, as_json=as_json) as client:
        for cancelled in map(client.cancel, wanted or (None,)):
            if as_json:
                show_json(cancelled.data())
            else:
                typer.echo(one_line(cancelled.message))


def takeover(task_id: TaskId, *, url: Url = None, as_json: Json = False) -> None:
    """Take a task over from the agent, to act in its sandbox; `resume` gives it back."""
    with connected(url, as_json=as_json) as client:
        taken = client.takeover(task_id)
    if as_json:
        show_json(taken.data())
    else:
        typer.echo(one_line(taken.message))


def resume(
    task_id: TaskId,
    message: Annotated[
        str | None, typer.Argument(help="What the model is told; by default that you have helped.")
    ] = None,
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a task go on that waits for a human."""
    with connected(url, as_json=as_json) as client:
        resumed = client.resume(task_id, message)
    if as_json:
        show_json(resumed.data())
    else:
        typer.echo(one_line(resumed.message))


def sandbox(
    *,
    name: Annotated[str | None, typer.Option(help="What Lybic shows.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="One of Lybic's shapes.", show_default="the server's")
    ] = None,
    life: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="How long it lives.", show_default="3600")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Create a sandbox for tasks that name it, and print its id."""
    with connected(url, as_json=as_json) as client:
        made = client.create_sandbox(name, shape=shape, max_life_seconds=life)
    if as_json:
        show_json(made.data())
    else:
        typer.echo(one_line(made.sandbox_id))


# --- what people read -----------------------------------------------------------------------------------


def _show_task(task: Task, *, as_json: bool) -> None:
    if as_json:
        show_json(task.data())
        return
    error = f"{task.error_message} ({task.error_code})" if task.error_code else None
    usage = task.usage
    used = f"{usage.model_calls} model calls, {usage.input_tokens} tokens in, {usage.output_tokens} out"
    show_fields(
        [
            ("Task", task.task_id),
            ("Status", task.status),
            ("Instruction", task.query),
            ("Answer", task.finished_output),
            ("Error", error),
            ("Waits", task.pending_reason),
            ("Queue", task.queue_position),
            ("Steps", f"{task.steps} of at most {task.max_steps}"),
            ("Submitted", _moment(task.created_at)),
            ("Started", _moment(task.started_at)),
            ("Ended", _moment(task.finished_at)),
            ("Sandbox", _sandbox_id(task)),
            ("Continues", task.parent_task_id),
            ("Labels", " ".join(f"{name}={value}" for name, value in task.metadata.items())),
            ("Usage", used),
        ]
    )


def _sandbox_id(task: Task) -> str:
    return str((task.sandbox_info or {}).get("sandbox_id", ""))


def _task_row(task: Task) -> tuple[str, ...]:
    submitted = f"{task.created_at.astimezone():%m-%d %H:%M}" if task.created_at else ""
    return task.task_id, task.status, submitted, one_line(task.query, LONGEST_CELL)


def _step_row(step: Step) -> tuple[str, ...]:
    said = one_line(step.raw.removeprefix("Thought: "), LONGEST_CELL)
    return str(step.number), step.status, _duration(step.model_ms), _duration(step.action_ms), said


def _moment(when: datetime | None) -> str:
    """In the time of whoever reads it."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}" if when else ""


def _duration(milliseconds: int | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f} s"
