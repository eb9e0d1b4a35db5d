"""`lybic-guiagent batch`: what the user asks for, and what the user is told in the end."""

import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, NoReturn

import typer
from rich.console import Console

from client.batch.attempts import ERROR_CODES, PASSING, PATIENCE_SECONDS, Policy, Then
from client.batch.ledger import Ledger
from client.batch.requests import CREDENTIALS, BadRow, Batch, Recipe, is_field, request_fields
from client.batch.results import Beginning, Results, ResultsRefused
from client.batch.rows import FIELDS, SUFFIXES, Format, Rows
from client.batch.runner import Runner, Say
from client.batch.survey import survey
from client.batch.templates import InvalidTemplate, Template
from client.clients import AsyncClient
from client.commands import connected
from client.exits import ExitCode
from client.options import Labels, Url, labels, task_request
from client.screen import console, show_table
from client.text import one_line, safe_json

QUICK_SECONDS = 2.0
MOST_ACTIVE = 500
"""So many the server lists at once."""
PRIORITY = 7
"""Less urgent than a single task, for which somebody may wait."""
LONGEST_STEM = 50


def batch(
    rows: Annotated[Path, typer.Argument(metavar="FILE", help="The rows; - is the standard input.")],
    *,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", dir_okay=False, help="Gets a line of JSON for each row that ended."),
    ],
    form: Annotated[
        Format | None,
        typer.Option("--format", help="How the rows are written.", show_default="by the file's name"),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Makes instructions from columns, such as 'Open {url}'."),
    ] = None,
    template_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The same from a file.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field for rows that lack it, such as max_steps=20. Repeatable.",
        ),
    ] = None,
    label: Labels = None,
    own_credentials: Annotated[
        bool,
        typer.Option("--own-credentials", help="Send LYBIC_API_KEY, LYBIC_ORG_ID and ARK_API_KEY along."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="What the batch is called: rows submitted under this name before are not run again.",
            show_default="a new one for each new --out",
        ),
    ] = None,
    max_active: Annotated[
        int, typer.Option(min=1, max=MOST_ACTIVE, help="At most so many tasks at a time.")
    ] = 20,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="Try a row that failed again, at most so often.")
    ] = 0,
    retry_on: Annotated[
        str, typer.Option(metavar="CODES", help="The error codes after which it is tried again.")
    ] = ",".join(sorted(PASSING)),
    on_human: Annotated[Then, typer.Option(help="What becomes of a task that calls a human.")] = Then.CANCEL,
    on_interrupt: Annotated[Then, typer.Option(help="What becomes of tasks on Ctrl-C.")] = Then.LEAVE,
    strict: Annotated[bool, typer.Option("--strict", help="Begin only if every row can be used.")] = False,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Carry out a file of rows: JSON lines, CSV or YAML.

    Interrupt it however you like, and run the same command again: it goes on, and no row is run twice.
    """
    recipe = Recipe(_template(template, template_file), _fields(settings, own=own_credentials), labels(label))
    policy = Policy(
        max_active=max_active,
        retries=retries,
        retry_on=_codes(retry_on),
        on_human=on_human,
        on_interrupt=on_interrupt,
    )
    form = form or _form(rows)
    screen = console(stderr=True)
    say = partial(screen.print, style="yellow", soft_wrap=True)
    with (
        connected(url, patience=QUICK_SECONDS, notice=say) as client,
        _opened(rows) as stream,
        Results(out) as results,
    ):
        begun = results.beginning()
        todo = Batch(_name(name, begun, rows), Rows(stream, form), recipe)
        found = survey(todo, begun)
        found.check(begun, strict=strict)
        ledger, interrupted = Ledger(results, found.rows), False
        if ledger.left:
            client.info()  # nothing is begun with a server that is not there
            results.begin(Beginning(name=todo.name, rows=found.rows, digest=found.digest))
            interrupted = asyncio.run(_carry_out(url, todo, ledger, policy, screen, say))
    _conclude(todo, ledger, out, interrupted=interrupted, as_json=as_json)


async def _carry_out(
    url: str | None, todo: Batch, ledger: Ledger, policy: Policy, screen: Console, say: Say
) -> bool:
    """Whether it was interrupted."""
    async with (
        AsyncClient(url, retry_seconds=0) as hasty,
        AsyncClient(url, retry_seconds=PATIENCE_SECONDS) as patient,
    ):
        runner = Runner(todo, ledger, policy, (hasty, patient), screen, say)
        await runner.run()
        return runner.interrupted


def _conclude(todo: Batch, ledger: Ledger, out: Path, *, interrupted: bool, as_json: bool) -> NoReturn:
    """Shows what came of the batch, and exits accordingly."""
    summary = ledger.summary
    if as_json:
        told = {
            "batch": todo.name,
            "rows": ledger.rows,
            "left": ledger.left,
            **summary.as_json(),
            "results": str(out),
        }
        typer.echo(safe_json(json.dumps(told)))
    else:
        endings = [(status, code, f"{rows:,}") for status, code, rows in summary.endings()]
        show_table(("STATUS", "ERROR CODE", "ROWS"), endings)
        typer.echo(f"{summary.done:,} of {ledger.rows:,} rows of {todo.name} done; {summary.sentence()}")
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(ExitCode.TASK_FAILED if summary.failed else ExitCode.DONE)


# --- options --------------------------------------------------------------------------------------------


def _template(text: str | None, file: Path | None) -> Template | None:
    if text is not None and file is not None:
        raise typer.BadParameter("say one of --template and --template-file", param_hint="--template")
    try:
        text = file.read_text(encoding="utf-8") if file else text
        return None if text is None else Template(text)
    except (InvalidTemplate, OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error), param_hint="--template-file" if file else "--template") from None


def _fields(settings: Iterable[str] | None, *, own: bool) -> dict[str, Any]:
    """The fields for rows that lack them."""
    given: dict[str, Any] = {"priority": PRIORITY}
    for setting in settings or ():
        name, separator, value = setting.partition("=")
        if not (separator and is_field(name)):
            raise typer.BadParameter(
                f"write it FIELD=VALUE with one of {', '.join(sorted(FIELDS))}", param_hint="--set"
            )
        given[name] = _value(value)
    if own:
        request = task_request("", own_credentials=True)
        given.update({name: value for name, value in request.items() if name in CREDENTIALS and value})
    try:
        return request_fields(given)
    except BadRow as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None


def _value(text: str) -> Any:
    """JSON, or else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _codes(text: str) -> frozenset[str]:
    codes = frozenset(code.strip() for code in text.split(",") if code.strip())
    if unknown := codes - ERROR_CODES:
        raise typer.BadParameter(
            f"{min(unknown)} is none of {', '.join(sorted(ERROR_CODES))}", param_hint="--retry-on"
        )
    return codes


def _form(path: Path) -> Format:
    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"say whether {path} is {', '.join(Format)}", param_hint="--format")
    return SUFFIXES[path.suffix.lower()]


def _name(wanted: str | None, begun: Beginning | None, rows: Path) -> str:
    """What the batch is called, once and for all. Raises `ResultsRefused`."""
    if begun is None:
        stem = "rows" if str(rows) == "-" else one_line(rows.stem, LONGEST_STEM)
        return wanted or f"{stem}-{secrets.token_hex(4)}"
    if wanted not in {None, begun.name}:
        raise ResultsRefused(f"these are the results of {begun.name}: choose another --out for {wanted}")
    return begun.name


def _opened(path: Path) -> IO[bytes]:
    """The file; a copy of what can't be rewound."""
    try:
        stream = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be read: {error.strerror}", param_hint="FILE") from None
    if stream.seekable():
        return stream
    with stream:
        copy = TemporaryFile()  # noqa: SIM115 - closed by whoever gets it
        shutil.copyfileobj(stream, copy)
        return copy
