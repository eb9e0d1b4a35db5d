"""`lybic-guiagent demo`: one task against the simulated desktop, watched live and checked at its end."""

import json
import os
import secrets
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import httpx
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.text import Text

from local.processes import free_port
from local.stack import Environment, Plan, Stack, Stopped, running
from local.up import Screen, setting_names
from shared.errors import GuiAgentError

SETTLE_SECONDS = "0.2"
TASK_SECONDS = 60
SILENCE_SECONDS = 30
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper")
# Whatever the user has set of these: the demo is the same for everybody.
FOREIGN = ("ARK_", "CELERY_", "FLOWER_", "GUNICORN_", "LYBIC_", "PG", "POSTGRES_", "REDIS_")
INTERRUPTED = 130

SHEET = "demo-screens.png"
COLUMNS = 3
THUMBNAIL = (480, 270)
MARGIN = 12
CAPTION_HEIGHT = 34
CAPTION_LETTERS = 58
FONT_SIZE = 14

Event = dict[str, Any]


class DemoFailed(GuiAgentError):
    """The demo could not be played to its end."""

    code: ClassVar[str] = "demo_failed"


def demo() -> None:
    """Run one task on a simulated desktop, and check what it did.

    Everything is started on free ports with a throw-away database, whatever the environment and .env say.
    The exit code is 0 only if the text really stands in the editor at the end.
    """
    try:
        good = play(Console(highlight=False, soft_wrap=True))
    except Stopped:
        raise typer.Exit(INTERRUPTED) from None
    except httpx.HTTPError as error:
        raise DemoFailed(f"the API did not answer as expected: {error}") from error
    raise typer.Exit(0 if good else 1)


def play(console: Console) -> bool:
    """Whether the task did what it was told. Nobody watches: a child that dies is a failure of the demo."""
    text = f"Hello World {secrets.choice(WORDS)} {secrets.randbelow(900) + 100}"
    instruction = f"Open notepad and type {text}"
    plan = Plan(environment=isolated(os.environ), port=free_port())
    with running(plan, Screen().say) as stack, httpx.Client(trust_env=False, timeout=SILENCE_SECONDS) as http:
        task = submit(http, plan.url, instruction)
        console.print(f"\nTask      {instruction}\n")
        events = list(follow(http, plan.url, task, console))
        sheet = contact_sheet(pictures(http, events))
        console.print(f"\nScreens   {save(sheet)}")
        good = verdict(console, text, notepads(http, plan.url, task, stack.sandbox))
        if not good:
            show_logs(console, stack)
    return good


def isolated(environment: Environment) -> Environment:
    """The environment without anything that would change the demo."""
    foreign = setting_names()
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in foreign and not name.upper().startswith(FOREIGN)
    }
    return {**kept, "AGENT_SETTLE_SECONDS": SETTLE_SECONDS}


def submit(http: httpx.Client, url: str, instruction: str) -> str:
    """Posts the task and returns its id."""
    answer = http.post(f"{url}/api/agent/task/submit", json={"instruction": instruction}).raise_for_status()
    return str(answer.json()["task_id"])


def follow(http: httpx.Client, url: str, task: str, console: Console) -> Iterator[Event]:
    """The task's events as they come, each shown in a line."""
    began = time.monotonic()
    with http.stream("GET", f"{url}/api/agent/task/{task}/events") as stream:
        for line in stream.raise_for_status().iter_lines():
            elapsed = time.monotonic() - began
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                show(console, event, elapsed)
                yield event
            if elapsed > TASK_SECONDS:
                raise DemoFailed(f"task {task} did not end within {TASK_SECONDS} s")


def show(console: Console, event: Event, elapsed: float) -> None:
    """One line for one event."""
    kind = str(event["type"])
    style = {"thinking": "italic", "action": "cyan", "finished": "bold green", "error": "bold red"}.get(
        kind, "dim"
    )
    step = f"step {event['step']}" if "step" in event else ""
    place = f"{elapsed:5.1f} s  {step:<8} {kind:<12} "
    console.print(Text.assemble((place, "dim"), (told(event), style)))


def told(event: Event) -> str:
    """What the event says, in short."""
    for field in ("content", "screenshot", "output", "error", "status"):
        if event.get(field):
            return str(event[field]).replace("\n", " ")
    return str(event["message"])


def notepads(http: httpx.Client, url: str, task: str, sandbox: str) -> list[str]:
    """The true texts of the desktop's notepad windows, asked of the simulation and not of the agent."""
    status = http.get(f"{url}/api/agent/task/status/{task}").raise_for_status().json()
    if status["sandbox_info"] is None:
        return []
    name = status["sandbox_info"]["sandbox_id"]
    desktop = http.get(f"{sandbox}/simulated/sandboxes/{name}").raise_for_status().json()
    return [window["text"] for window in desktop["windows"] if window["kind"] == "notepad"]


def verdict(console: Console, wanted: str, found: list[str]) -> bool:
    """Says and returns whether a notepad holds the text and nothing else."""
    good = wanted in [text.strip() for text in found]
    seen = " and ".join(map(repr, found)) or "no notepad"
    if good:
        console.print(
            Text(f"Checked   the notepad on the simulated desktop holds {wanted!r}", style="bold green")
        )
    else:
        console.print(Text(f"Failed    wanted {wanted!r} in a notepad, found {seen}", style="bold red"))
    return good


def show_logs(console: Console, stack: Stack) -> None:
    """The last lines of the logs, which are gone when the demo ends."""
    for child in stack.services:
        for line in child.tail():
            console.print(Text(f"{child.name} │ {line}", style="dim"))


def pictures(http: httpx.Client, events: list[Event]) -> Iterator[tuple[str, Image.Image]]:
    """Every screenshot with a caption: its step and what was done next."""
    actions = {event["step"]: event["content"] for event in events if event["type"] == "action"}
    for event in events:
        if event["type"] == "observation" and event["screenshot"]:
            answer = http.get(event["screenshot"]).raise_for_status()
            yield (
                f"{event['step']}  {actions.get(event['step'], 'the end')}",
                Image.open(BytesIO(answer.content)),
            )


def contact_sheet(pictures: Iterable[tuple[str, Image.Image]]) -> Image.Image:
    """The pictures in a grid, in order."""
    tiles = [tile(caption, picture) for caption, picture in pictures]
    columns, rows = min(COLUMNS, max(1, len(tiles))), max(1, -(-len(tiles) // COLUMNS))
    width, height = THUMBNAIL[0] + MARGIN, THUMBNAIL[1] + CAPTION_HEIGHT + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    for number, one in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        sheet.paste(one, (MARGIN + column * width, MARGIN + row * height))
    return sheet


def tile(caption: str, picture: Image.Image) -> Image.Image:
    """A picture, made small, over its caption."""
    made = Image.new("RGB", (THUMBNAIL[0], THUMBNAIL[1] + CAPTION_HEIGHT), "white")
    made.paste(ImageOps.pad(picture.convert("RGB"), THUMBNAIL, color="white"))
    drawing = ImageDraw.Draw(made)
    shown = textwrap.shorten(caption, CAPTION_LETTERS, placeholder="…")
    drawing.text((2, THUMBNAIL[1] + 8), shown, fill="black", font=ImageFont.load_default(FONT_SIZE))
    return made


def save(sheet: Image.Image) -> Path:
    """Writes the sheet to the current folder, or else to the folder of temporary files; returns its path."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            sheet.save(folder / SHEET)
            return folder / SHEET
    raise DemoFailed(f"no folder to write {SHEET} to")
