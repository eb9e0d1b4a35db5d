"""The options that several commands share."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from client.calls import Authentication, TaskRequest
from client.clients import DEFAULT_URL, Client
from client.errors import ClientError

WEBHOOK_SECRET = "LYBIC_GUIAGENT_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable

COMPLETIONS = 50
COMPLETION_SECONDS = 1.0

Url = Annotated[
    str | None,
    typer.Option(
        help=f"The server; by default that of LYBIC_GUIAGENT_URL, or {DEFAULT_URL}.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with the server's own fields.")]


def task_ids(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The newest tasks, for the shell to complete; none where asking takes long.

    Shells evaluate what they are given here, so nothing goes there that somebody else chose: no instruction.
    """
    try:
        with Client(context.params.get("url"), timeout=COMPLETION_SECONDS, retry_seconds=0) as client:
            newest = list(client.tasks(limit=COMPLETIONS))
    except ClientError:
        return []
    return [
        (task.task_id, f"submitted {task.created_at:%m-%d %H:%M} UTC" if task.created_at else "")
        for task in newest
        if task.task_id.startswith(incomplete) and re.fullmatch(r"[0-9A-Za-z-]{1,64}", task.task_id)
    ]


TaskId = Annotated[
    str, typer.Argument(metavar="TASK", help="The task's id.", autocompletion=task_ids, show_default=False)
]
IdempotencyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="What was submitted with this key is not submitted again.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Repeatable.")]


def labels(given: Iterable[str] | None) -> dict[str, str]:
    """`["team=docs"]` → `{"team": "docs"}`."""
    found = {}
    for label in given or ():
        name, separator, value = label.partition("=")
        if not (name and separator):
            raise typer.BadParameter("write it NAME=VALUE", param_hint="--label")
        found[name] = value
    return found


def task_request(
    instruction: Annotated[
        str,
        typer.Argument(
            metavar="INSTRUCTION", help="What the agent is to do; - reads it from the standard input."
        ),
    ],
    *,
    sandbox_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Work in this sandbox, not in one of its own.")
    ] = None,
    keep_sandbox: Annotated[
        bool | None,
        typer.Option(
            help="Whether the sandbox outlives the task. By default one that you name does.",
            show_default=False,
        ),
    ] = None,
    continue_task: Annotated[
        str | None,
        typer.Option("--continue", metavar="TASK", help="Go on where this task ended, in its sandbox."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Fail after so many steps.")] = None,
    timeout: Annotated[int | None, typer.Option(min=1, metavar="SECONDS", help="Fail after so long.")] = None,
    max_model_calls: Annotated[
        int | None, typer.Option(min=1, help="Fail after so many calls of the model.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Fail when the model has read and written more tokens.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Ask this model.")] = None,
    language: Annotated[
        Literal["auto", "zh", "en"] | None, typer.Option(help="Of the prompts and thoughts.")
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Added to the system prompt.")
    ] = None,
    use_memory: Annotated[
        bool | None, typer.Option("--use-memory", help="Tell the model what earlier tasks noted.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="0 is the most urgent, 5 the default.")
    ] = None,
    label: Labels = None,
    webhook_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Told of the end; signed with the secret of {WEBHOOK_SECRET}."),
    ] = None,
    own_credentials: Annotated[
        bool,
        typer.Option(
            "--own-credentials",
            help="Send LYBIC_API_KEY, LYBIC_ORG_ID and ARK_API_KEY along, where they are set.",
        ),
    ] = False,
) -> TaskRequest:
    """The request that the options ask for."""
    request: TaskRequest = {
        "instruction": _read() if instruction == "-" else instruction,
        "sandbox_id": sandbox_id,
        "keep_sandbox": keep_sandbox,
        "continue_context": True if continue_task else None,
        "task_id": continue_task,
        "max_steps": max_steps,
        "timeout_seconds": timeout,
        "max_model_calls": max_model_calls,
        "max_tokens": max_tokens,
        "model": {"name": model} if model else None,
        "language": language,
        "user_system_prompt": system_prompt,
        "use_memory": use_memory,
        "priority": priority,
        "metadata": labels(label) or None,
        "webhook_url": webhook_url,
        "webhook_secret": os.environ.get(WEBHOOK_SECRET) if webhook_url else None,
    }
    if own_credentials:
        request["authentication"] = _lybic_credentials()
        request["ark_apikey"] = os.environ.get("ARK_API_KEY")
    return request


def _read() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise typer.BadParameter("what was read is not UTF-8", param_hint="INSTRUCTION") from None


def _lybic_credentials() -> Authentication | None:
    key, organisation = os.environ.get("LYBIC_API_KEY"), os.environ.get("LYBIC_ORG_ID")
    return {"api_key": key, "org_id": organisation} if key and organisation else None


def asks_for_a_task(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `task_request` before its own; it gets the request first."""
    asked = inspect.signature(task_request).parameters
    _, *own = inspect.signature(command).parameters.values()

    @wraps(command)
    def combined(**given: Any) -> None:
        request = task_request(**{name: given.pop(name) for name in asked})
        command(request, **given)

    combined.__signature__ = inspect.Signature([*asked.values(), *own])  # type: ignore[attr-defined]
    return combined
