"""Actions as they are shown: in words, and as marks on the picture that they were decided on.

The actions come from rows, old ones among them: what can't be understood is told by its type, and not drawn.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

Action = dict[str, Any]
Percent = Annotated[float, Field(ge=0, le=100)]

POINTS = {
    "mouse:click": 1,
    "mouse:doubleClick": 2,
    "mouse:tripleClick": 3,
    "mouse:move": 0,
    "touch:tap": 1,
    "touch:longPress": 2,
}
"""Actions at one point, and with how many rings it is marked."""
WAYS = frozenset({"mouse:drag", "touch:drag"})
TOWARDS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
TURNS = {"right": 0, "down": 90, "left": 180, "up": 270}
BUTTONS = {2: "Right click", 4: "Middle click"}
LONGEST_TEXT = 200
CALL = re.compile(r"^\s*Action:\s*", re.MULTILINE)

WORDS = {
    "mouse:click": "Click",
    "mouse:doubleClick": "Double click",
    "mouse:tripleClick": "Triple click",
    "mouse:move": "Move the mouse",
    "mouse:drag": "Drag",
    "mouse:scroll": "Scroll",
    "keyboard:type": "Type",
    "keyboard:hotkey": "Press",
    "key:down": "Hold down",
    "key:up": "Let go",
    "wait": "Wait",
    "touch:tap": "Tap",
    "touch:longPress": "Press long",
    "touch:drag": "Drag",
    "touch:swipe": "Swipe",
    "os:startAppByName": "Start",
    "os:closeAppByName": "Close",
}
OBJECTS = {
    "keyboard:type": "content",
    "keyboard:hotkey": "keys",
    "key:down": "key",
    "key:up": "key",
    "os:startAppByName": "name",
    "os:closeAppByName": "name",
    "touch:swipe": "direction",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an action touches the screen. Places are percentages of its width and height."""

    kind: Literal["point", "way", "scroll"]
    x: Percent
    y: Percent
    to_x: Annotated[Percent, Field(description="Of a way: where it ends.")] = 0
    to_y: Percent = 0
    rings: Annotated[
        int, Field(description="Of a point: 1 for a click, 2 for a double click, and so on.")
    ] = 0
    turn: Annotated[int, Field(description="Of a scroll: degrees, clockwise from the right.")] = 0
    number: Annotated[
        int | None, Field(description="Which of the step's actions it is, where there are several.")
    ] = None


def marks(actions: Iterable[Action]) -> list[Mark]:
    """The marks of a step's actions, in order."""
    all_actions = list(actions)
    several = len(all_actions) > 1
    found = (_mark(one, number if several else None) for number, one in enumerate(all_actions, 1))
    return [mark for mark in found if mark]


def call(raw: str) -> str:
    """The action part of a model's answer; all of it where there is none."""
    return CALL.split(raw, maxsplit=1)[-1].strip()


def words(action: Action) -> str:
    """An action in a few words."""
    kind = str(action.get("type"))
    text = WORDS.get(kind, kind)
    match kind:
        case "mouse:click":
            text = BUTTONS.get(_whole(action.get("button")), text)
        case "mouse:scroll":
            text = f"{text} {_scrolls(action)}"
        case "wait":
            text = f"{text} {_whole(action.get('duration')) / 1000:g} s"
    said = action.get(OBJECTS.get(kind, ""))
    if isinstance(said, str):
        text += f" {said[:LONGEST_TEXT]}{'…' if len(said) > LONGEST_TEXT else ''}"
    return text


def _mark(action: Action, number: int | None) -> Mark | None:
    kind = str(action.get("type"))
    if kind in WAYS:
        start, end = _place(action, "startX", "startY"), _place(action, "endX", "endY")
        return Mark("way", *start, *end, number=number) if start and end else None
    place = _place(action, "x", "y")
    if place is None:
        return None
    if kind in POINTS:
        return Mark("point", *place, rings=POINTS[kind], number=number)
    if kind == "mouse:scroll":
        return Mark("scroll", *place, turn=TURNS[_scrolls(action)], number=number)
    direction, distance = TOWARDS.get(str(action.get("direction"))), _percent(action.get("distance"))
    if kind == "touch:swipe" and direction and distance is not None:
        end = (_within(place[0] + direction[0] * distance), _within(place[1] + direction[1] * distance))
        return Mark("way", *place, *end, number=number)
    return None


def _place(action: Action, x: str, y: str) -> tuple[float, float] | None:
    across, down = _percent(action.get(x)), _percent(action.get(y))
    return None if across is None or down is None else (across, down)


def _percent(length: object) -> float | None:
    """A Lybic length that is a fraction of the screen."""
    match length:
        case {"type": "/", "numerator": int(part), "denominator": int(whole)} if whole > 0:
            return _within(100 * part / whole)
    return None


def _within(percent: float) -> float:
    return min(100.0, max(0.0, percent))


def _scrolls(action: Action) -> str:
    """Lybic counts steps up and to the right."""
    vertical, horizontal = _whole(action.get("stepVertical")), _whole(action.get("stepHorizontal"))
    if abs(horizontal) > abs(vertical):
        return "right" if horizontal > 0 else "left"
    return "up" if vertical > 0 else "down"


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
