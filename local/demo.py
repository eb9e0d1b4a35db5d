"""`lybic-guiagent demo`: a task on a simulated computer and one on a phone, watched live and checked."""

import json
import os
import secrets
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urljoin

import httpx
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.text import Text

from local.processes import free_port
from local.sandbox.sandboxes import PHONE_SHAPE
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

MARGIN = 12
CAPTION_LINES = 2
CAPTION_LINE = 20
FONT_SIZE = 14
LETTER_WIDTH = 8

Event = dict[str, Any]
Truth = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A task on one device, and where its text is to stand then.

    A shape is that of a sandbox made for the task; without one the worker makes its own. `texts` finds the
    candidates in what the simulation itself says of the device, and the sheet shows `columns` pictures of
    that size in a row.
    """

    device: str
    shape: str | None
    order: str
    place: str
    texts: Callable[[Truth], list[str]]
    sheet: str
    columns: int
    picture: tuple[int, int]


def _notepads(desktop: Truth) -> list[str]:
    return [window["text"] for window in desktop["windows"] if window["kind"] == "notepad"]


def _new_notes(phone: Truth) -> list[str]:
    return list(phone["notes"][:1])


TRIALS = (
    Trial(
        device="computer",
        shape=None,
        order="Open notepad and type",
        place="the notepad on the simulated desktop",
        texts=_notepads,
        sheet="demo-screens.png",
        columns=3,
        picture=(480, 270),
    ),
    Trial(
        device="phone",
        shape=PHONE_SHAPE,
        order="Open notes and write",
        place="the newest note on the simulated phone",
        texts=_new_notes,
        sheet="demo-screens-phone.png",
        columns=4,
        picture=(288, 512),
    ),
)


class DemoFailed(GuiAgentError):
    """The demo could not be played to its end."""

    code: ClassVar[str] = "demo_failed"


def demo(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what came of it as JSON, and all else as errors are.")
    ] = False,
) -> None:
    """Run one task on a simulated desktop and one on a simulated phone, and check what they did.

    Everything is started on free ports with a throw-away database, whatever the environment and .env say.
    The exit code is 0 only if the text really stands in the editor, and the other one in the phone's notes.
    """
    try:
        good = play(Console(highlight=False, soft_wrap=True, stderr=as_json))
    except Stopped:
        raise typer.Exit(INTERRUPTED) from None
    except httpx.HTTPError as error:
        raise DemoFailed(f"the API did not answer as expected: {error}") from error
    if as_json:
        typer.echo(json.dumps({"passed": good}))
    raise typer.Exit(0 if good else 1)


def play(console: Console) -> bool:
    """Whether both tasks did what they were told. Nobody watches: a child that dies is a failure."""
    plan = Plan(environment=isolated(os.environ), port=free_port())
    with (
        running(plan, Screen(console).say) as stack,
        httpx.Client(trust_env=False, timeout=SILENCE_SECONDS) as http,
    ):
        done = [run(trial, console, http, stack) for trial in TRIALS]
        good = all(done)
        if not good:
            show_logs(console, stack)
    return good


def run(trial: Trial, console: Console, http: httpx.Client, stack: Stack) -> bool:
    """Whether the task did what it was told."""
    url = stack.plan.url
    text = f"Hello World {secrets.choice(WORDS)} {secrets.randbelow(900) + 100}"
    instruction = f"{trial.order} {text}"
    task = submit(http, url, instruction, trial.shape)
    console.print(f"\nTask      on a {trial.device}: {instruction}\n")
    events = list(follow(http, url, task, console))
    sheet = contact_sheet(pictures(http, url, events), trial.picture, trial.columns)
    console.print(f"\nScreens   {save(sheet, trial.sheet)}")
    device = truth(http, url, task, stack.sandbox)
    return verdict(console, trial.place, text, trial.texts(device) if device else [])


def isolated(environment: Environment) -> Environment:
    """The environment without anything that would change the demo."""
    foreign = setting_names()
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in foreign and not name.upper().startswith(FOREIGN)
    }
    return {**kept, "AGENT_SETTLE_SECONDS": SETTLE_SECONDS}


def submit(http: httpx.Client, url: str, instruction: str, shape: str | None) -> str:
    """Posts the task, at a new sandbox of a shape if there is one, and returns its id."""
    body = {"instruction": instruction}
    if shape is not None:
        made = http.post(f"{url}/api/sandbox/create", json={"shape": shape}).raise_for_status()
        body["sandbox_id"] = made.json()["sandbox_id"]
    answer = http.post(f"{url}/api/agent/task/submit", json=body).raise_for_status()
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


def truth(http: httpx.Client, url: str, task: str, sandbox: str) -> Truth | None:
    """What the task's device is really like, asked of the simulation and not of the agent."""
    status = http.get(f"{url}/api/agent/task/status/{task}").raise_for_status().json()
    if status["sandbox_info"] is None:
        return None
    name = status["sandbox_info"]["sandbox_id"]
    return dict(http.get(f"{sandbox}/simulated/sandboxes/{name}").raise_for_status().json())


def verdict(console: Console, place: str, wanted: str, found: list[str]) -> bool:
    """Says and returns whether the text, and nothing else, stands where it should."""
    good = wanted in [text.strip() for text in found]
    if good:
        console.print(Text(f"Checked   {place} holds {wanted!r}", style="bold green"))
    else:
        seen = " and ".join(map(repr, found)) or "nothing"
        console.print(Text(f"Failed    {place} should hold {wanted!r}, found {seen}", style="bold red"))
    return good


def show_logs(console: Console, stack: Stack) -> None:
    """The last lines of the logs, which are gone when the demo ends."""
    for child in stack.services:
        for line in child.tail():
            console.print(Text(f"{child.name} │ {line}", style="dim"))


def pictures(http: httpx.Client, url: str, events: list[Event]) -> Iterator[tuple[str, Image.Image]]:
    """Every screenshot with a caption: its step and what was done next."""
    actions = {event["step"]: event["content"] for event in events if event["type"] == "action"}
    for event in events:
        if event["type"] == "observation" and event["screenshot"]:
            answer = http.get(urljoin(url, event["screenshot"])).raise_for_status()
            yield (
                f"{event['step']}  {actions.get(event['step'], 'the end')}",
                Image.open(BytesIO(answer.content)),
            )


def contact_sheet(
    pictures: Iterable[tuple[str, Image.Image]], size: tuple[int, int], columns: int
) -> Image.Image:
    """The pictures in a grid, in order, each made to fit the size."""
    tiles = [tile(caption, picture, size) for caption, picture in pictures]
    columns, rows = min(columns, max(1, len(tiles))), max(1, -(-len(tiles) // columns))
    width, height = size[0] + MARGIN, size[1] + CAPTION_LINES * CAPTION_LINE + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    for number, one in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(one, (MARGIN + column * width, MARGIN + row * height))
    return sheet


def tile(caption: str, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture, made small, over its caption."""
    made = Image.new("RGB", (size[0], size[1] + CAPTION_LINES * CAPTION_LINE), "white")
    made.paste(ImageOps.pad(picture.convert("RGB"), size, color="white"))
    drawing = ImageDraw.Draw(made)
    lines = textwrap.wrap(caption, size[0] // LETTER_WIDTH, max_lines=CAPTION_LINES, placeholder="…")
    for number, line in enumerate(lines):
        at = (2, size[1] + 4 + CAPTION_LINE * number)
        drawing.text(at, line, fill="black", font=ImageFont.load_default(FONT_SIZE))
    return made


def save(sheet: Image.Image, name: str) -> Path:
    """Writes the sheet to the current folder, or else to the folder of temporary files; returns its path."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            sheet.save(folder / name)
            return folder / name
    raise DemoFailed(f"no folder to write {name} to")
