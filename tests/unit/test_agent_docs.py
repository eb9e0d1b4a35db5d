"""`docs/agent.md` says what the code does: its tables are made from it, its example is run.

A table that went stale is written anew by `python -m tests.unit.test_agent_docs`.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from shared.errors import JOB_CODES
from shared.profiles import PROFILES
from shared.settings import Settings
from worker.actions import Action, Control, xdotool_keys
from worker.uitars import parse, words

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"
TEXT = PAGE.read_text() if PAGE.exists() else ""
TABLE = r"(<!-- table: {name} -->\n\n).*?(\n\n|\Z)"

POINT, START, END = (f"<point>{place}</point>" for place in ("500 300", "10 20", "30 40"))
ARGUMENTS = {
    "drag": [f"start_point='{START}', end_point='{END}'"],
    "hotkey": ["key='ctrl c'"],
    "press": ["key='shift'"],
    "release": ["key='shift'"],
    "type": ["content='text'", r"content='text\n'"],
    "open_app": ["app_name='Maps'"],
    "close_app": ["app_name='Maps'"],
    "list_apps": [""],
    "press_back": [""],
    "press_home": [""],
    "wait": ["", "t=2"],
    "finished": ["content='text'"],
    "call_user": ["content='text'"],
    "failed": ["content='text'"],
    "output": ["content='text'"],
    "save_memory": ["content='text'"],
}
ON_A_SCREEN: dict[str, dict[str, list[str]]] = {
    "computer": {
        "scroll": [
            f"point='{POINT}', direction='{direction}'" for direction in ("up", "down", "left", "right")
        ],
    },
    "mobile": {
        "long_press": [f"point='{POINT}'", f"point='{POINT}', time='2'"],
        "scroll": [
            *(f"point='{POINT}', direction='{direction}'" for direction in ("up", "down", "left", "right")),
            f"start_point='{START}', end_point='{END}'",
        ],
        "hotkey": [f"key='{key}'" for key in ("enter", "back", "home")],
    },
}
CONTROLS = {
    "finished": "ends the task: `finished`",
    "call_user": "halts the task: `human_intervention`",
    "failed": "ends the task: `error`, code `agent_failed`",
    "output": "told to the client as an event; the task goes on",
    "save_memory": "kept as a [note](#notes); the task goes on",
}
KEYS = [
    *("enter", "esc", "backspace", "del", "tab", "space", "page up", "pagedown", "home", "arrowleft", "f5"),
    *("capslock", "printscreen", "win", "cmd", "control", "option", "ctrl c", "Ctrl+Shift+S", "ctrl-alt-del"),
    *("ctrl -", "ctrl =", "ctrl /", "ctrl ,", "ctrl++", "kp_0"),
]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def code(text: str) -> str:
    return f"`{text}`"


def became(said: Action | Control) -> str:
    """An action without its places, as JSON; or what a control call does."""
    if isinstance(said, Control):
        return CONTROLS[said.name]
    places = {"x", "y", "startX", "startY", "endX", "endY"}
    shown = {name: value for name, value in said.items() if name not in places}
    between = [", ".join(name for name in said if name in places)]
    return code(json.dumps(shown)) + "".join(f" with {names}" for names in between if names)


def word_rows(vocabulary: str) -> Iterable[list[str]]:
    for word, aliases in words(vocabulary).items():
        options = {**ARGUMENTS, **ON_A_SCREEN[vocabulary]}.get(word, [f"point='{POINT}'"])
        for index, arguments in enumerate(options):
            call = f"{word}({arguments})"
            decision = parse(call, vocabulary=vocabulary)
            (said,) = [*decision.actions, *decision.notes, *filter(None, [decision.control])]
            yield [code(call), became(said), "" if index else ", ".join(map(code, aliases))]


TABLES: dict[str, Callable[[], str]] = {
    **{
        vocabulary: lambda vocabulary=vocabulary: table(  # type: ignore[misc]
            ["call", "becomes", "also read"], word_rows(vocabulary)
        )
        for vocabulary in ON_A_SCREEN
    },
    "keys": lambda: table(
        ["written", "sent"], ([code(text), code("+".join(xdotool_keys(text)))] for text in KEYS)
    ),
    "profiles": lambda: table(
        ["family", "names that hold", "dialect", "sent along"],
        (
            [
                profile.family,
                code(profile.names.pattern.replace("|", "\\|")) if profile.names.pattern else "all others",
                code(profile.dialect),
                code(json.dumps(profile.extra_body)) if profile.extra_body else "",
            ]
            for profile in PROFILES
        ),
    ),
}


def as_made(page: str) -> str:
    """The page with its tables as they are today."""
    for name, make in TABLES.items():
        found = re.search(TABLE.format(name=name), page, re.DOTALL)
        assert found, f"no table {name}"
        page = page[: found.end(1)] + make() + page[found.start(2) :]
    return page


def settings() -> dict[str, Any]:
    """The defaults by environment variable."""
    groups = (field.annotation for field in Settings.model_fields.values())
    return {
        str(field.validation_alias): field.default
        for group in groups
        if isinstance(group, type) and issubclass(group, BaseModel)
        for field in group.model_fields.values()
    }


def test_the_tables_are_those_of_the_code() -> None:
    assert as_made(TEXT) == TEXT


def test_every_word_is_in_its_table() -> None:
    for vocabulary in ON_A_SCREEN:
        section = re.search(TABLE.format(name=vocabulary), TEXT, re.DOTALL)
        assert section
        for word, aliases in words(vocabulary).items():
            assert f"`{word}(" in section[0]
            assert all(f"`{alias}`" in section[0] for alias in aliases)


@pytest.mark.parametrize(("name", "default"), re.findall(r"`([A-Z][A-Z_]{4,})`(?: \(([^()\s]+)\))?", TEXT))
def test_the_settings_are_there(name: str, default: str) -> None:
    known = settings()
    assert name in known
    if default:
        assert default == str(known[name])


def test_the_settings_that_count_are_named() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]{4,})`", TEXT))
    prefixes = ("AGENT_", "SANDBOX_", "SCREENSHOT_STORE", "SCREENSHOT_DAYS", "MODEL_FALLBACK_")
    assert {name for name in settings() if name.startswith(prefixes)} <= named


def test_the_error_codes_are_real() -> None:
    named = set(re.findall(r"code `(\w+)`", TEXT)) | set(re.findall(r"^\| `(\w+)` \| The task", TEXT, re.M))
    assert named
    assert named <= JOB_CODES


def test_the_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^#)]+)", TEXT):
        assert (PAGE.parent / path).exists(), path
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"(?m)^#+ (.+)$", TEXT)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


EXAMPLES = re.findall(r"```bash\n([^`]*lybic-guiagent parse.*?)```\n\n```json\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("script", "shown"), EXAMPLES)
def test_the_examples_of_parse_are_real(script: str, shown: str) -> None:
    assert printed(script) == [json.loads(line) for line in shown.splitlines()]


def test_there_are_examples_of_parse() -> None:
    assert len(EXAMPLES) == 2


def printed(script: str) -> list[Any]:
    """What a command of the page prints."""
    folder = shlex.quote(str(Path(sys.executable).parent))
    done = subprocess.run(
        ["bash", "-c", f"PATH={folder}:$PATH\n{script}"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    PAGE.write_text(as_made(TEXT))
