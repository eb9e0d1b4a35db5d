"""What the commands show: text to people, lines with tabs to pipes, with `--json` what the server says."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Protocol, cast

import typer
from rich.console import Console, RenderableType
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from client.models import PAUSED, Event
from client.text import one_line, plain, safe_json

STYLES = {
    "action": "cyan",
    "cancelled": "yellow",
    "error": "bold red",
    "finished": "bold green",
    PAUSED: "bold yellow",
    "result": "green",
    "thinking": "italic",
}
LABEL_WIDTH = 9
NOTICE_SECONDS = 5.0
"""Of what goes wrong again and again, so much is told."""


def console(*, stderr: bool = False) -> Console:
    """Where people read. The text of others is never taken for markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Says what is not the result itself, on the standard error output."""
    typer.echo(plain(text), err=True)


def show_json(document: Mapping[str, Any]) -> None:
    """One line, with nothing in it that a terminal would obey."""
    typer.echo(safe_json(json.dumps(document, ensure_ascii=False)))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows below each other. Only a terminal gets a heading, and no more of a cell than finds room."""
    screen = console()
    if not screen.is_terminal:
        for row in rows:
            typer.echo("\t".join(map(one_line, row)))
        return
    *others, last = columns
    heading = [*(Column(name, no_wrap=True) for name in others), Column(last, no_wrap=True, ratio=1)]
    table = Table(*heading, box=None, pad_edge=False, expand=True)
    for row in rows:
        table.add_row(*(Text(one_line(cell), style=STYLES.get(cell, "")) for cell in row))
    screen.print(table)


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values; those without a value are left out."""
    screen = console()
    table = Table.grid(Column(style="bold"), Column(overflow="fold"), padding=(0, 2))
    for name, value in fields:
        if value in {None, ""}:
            continue
        if not screen.is_terminal:
            typer.echo(f"{name}\t{one_line(str(value))}")
        table.add_row(name, Text(plain(str(value)), style=STYLES.get(str(value), "")))
    if screen.is_terminal:
        screen.print(table)


# --- events ---------------------------------------------------------------------------------------------


class Screen(Protocol):
    """Where a task is watched."""

    def watching(self) -> AbstractContextManager[object]:
        """While it lasts, events are shown."""

    def show(self, event: Event) -> None:
        """Shows an event."""

    def ask(self, sandbox: str) -> str | None:
        """What a human says who has helped in that sandbox; None if nobody is there."""

    def notice(self, text: str) -> None:
        """Says something that is not about the task itself."""


class JsonScreen:
    """Each event is a line of JSON."""

    def watching(self) -> AbstractContextManager[object]:
        """Nothing moves."""
        return nullcontext()

    def show(self, event: Event) -> None:
        """Shows the event as the server sent it."""
        show_json(event.data())

    def ask(self, sandbox: str) -> None:
        """Programs are not asked."""

    def notice(self, text: str) -> None:
        """Says it where the events are not."""
        say(text)


class TextScreen:
    """Each event is a line; below them, on a terminal, stands what goes on and for how long."""

    def __init__(self) -> None:
        self._console = console()
        self._began: datetime | None = None
        self._doing = "submitted"
        self._since = time.monotonic()
        self._bottom = Status(cast(RenderableType, self), console=self._console)

    def __rich__(self) -> Text:
        """The line at the bottom, made anew several times a second."""
        return Text(f"{self._doing} · {time.monotonic() - self._since:.0f} s", style="dim")

    def watching(self) -> AbstractContextManager[object]:
        """Keeps the line at the bottom of a terminal."""
        return self._bottom if self._console.is_terminal else nullcontext()

    def show(self, event: Event) -> None:
        """Shows the event, unless it only tells of a new screenshot."""
        self._doing, self._since = _doing(event), time.monotonic()
        self._began = self._began or event.timestamp
        if event.type != "observation":
            seconds = f"{(event.timestamp - self._began).total_seconds():.1f} s"
            label = f"step {event.step}" if event.step else event.type.partition("_")[0]
            self._line(seconds, one_line(label, LABEL_WIDTH), event)

    def _line(self, seconds: str, label: str, event: Event) -> None:
        if not self._console.is_terminal:
            typer.echo(f"{seconds:>9}  {label:<{LABEL_WIDTH}}  {one_line(_told(event))}")
            return
        columns = Column(width=9, justify="right"), Column(width=LABEL_WIDTH), Column(overflow="fold")
        table = Table.grid(*columns, padding=(0, 2, 0, 0))
        told = Text(plain(_told(event)), style=STYLES.get(event.type, "dim"))
        table.add_row(Text(seconds, style="dim"), Text(label, style="dim"), told)
        self._console.print(table)

    def ask(self, sandbox: str) -> str | None:
        """What the person at the terminal says; None without one."""
        if not (self._console.is_terminal and sys.stdin.isatty()):
            return None
        self._bottom.stop()
        try:
            where = f"It waits in sandbox {one_line(sandbox)}."
            return self._console.input(f"{where} Press Enter when you have helped, or tell the model more: ")
        except EOFError:
            return None
        finally:
            self._bottom.start()

    def notice(self, text: str) -> None:
        """Says it; on a terminal above the line at the bottom, which must not be written over."""
        if self._console.is_terminal:
            self._console.print(Text(plain(text), style="yellow"))
        else:
            say(text)


def _told(event: Event) -> str:
    """What the event says, in short."""
    match event.type:
        case "status":
            return f"{event.status} on {event.worker}" if event.worker else f"{event.status}"
        case "action":
            return f"▸ {event.content}"
        case "error":
            return f"{event.error} ({event.error_code})"
        case _:
            return event.content or event.output or event.message


def _doing(event: Event) -> str:
    """What goes on after the event."""
    match event.type:
        case "observation" | "thinking":
            return f"step {event.step}: the model decides"
        case "action":
            return f"step {event.step}: the sandbox acts"
        case "status" if event.status == "pending":
            return "waiting for a worker"
        case _:
            return "working"


class Notices(logging.Handler):
    """Tells whoever watches that the client tries again, now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say
        self._last = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Says it, unless something was said just now."""
        if time.monotonic() - self._last >= NOTICE_SECONDS:
            self._last = time.monotonic()
            self._say(record.getMessage())
