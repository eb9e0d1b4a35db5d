"""The words of the step loop: what a model decided, and the actions a Lybic sandbox understands.

An action is a plain dict in Lybic's own JSON form. The constructors here give every shape that the parser may
produce; the sandbox adapter validates them against the vendor's models before anything is sent.
Source of the shapes: Lybic's action space document and the models of its SDK 1.4.0.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

Action = dict[str, Any]
Length = dict[str, Any]
Point = tuple[Length, Length]
ControlName = Literal["finished", "call_user", "failed", "output", "save_memory"]

ENDING: Final[frozenset[ControlName]] = frozenset({"finished", "call_user", "failed"})
LEFT, RIGHT, MIDDLE = 1, 2, 4

WHEEL_STEPS = 5
# The direction says what to show more of, as (vertical, horizontal) steps. Lybic: positive is up and right.
_WHEEL: Final = {"up": (1, 0), "down": (-1, 0), "left": (0, -1), "right": (0, 1)}
# To show more of one side the finger moves to the other.
_FINGER: Final = {"up": "down", "down": "up", "left": "right", "right": "left"}
# From the middle of a phone's screen a third stays clear of the edges, where swipes are system gestures.
_SWIPE_DISTANCE: Final = {"type": "/", "numerator": 1, "denominator": 3}


@dataclass(frozen=True, slots=True)
class Control:
    """A call to the service itself instead of the sandbox, such as `finished(content='done')`."""

    name: ControlName
    content: str

    @property
    def ends(self) -> bool:
        """Whether the step loop stops or pauses here; `output` and `save_memory` do not end anything."""
        return self.name in ENDING


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model said in one answer: do the actions in order, keep the notes, then obey the control.

    `call` is the text of the calls as the model wrote it, for display; `raw` is the whole answer.
    """

    thought: str
    actions: tuple[Action, ...]
    notes: tuple[Control, ...]
    control: Control | None
    call: str
    raw: str

    def as_json(self) -> dict[str, Any]:
        """The public form: `control` is the ending one, or else the last note, or null."""
        last = self.control or (self.notes[-1] if self.notes else None)
        control = {"name": last.name, "content": last.content} if last else None
        return {"thought": self.thought, "actions": list(self.actions), "control": control}


def fraction(value: Decimal, whole: int) -> Length:
    """`value` of `whole` units as a Lybic length, which holds integers only: decimals scale both sides up.

    >>> fraction(Decimal("0.5"), 1000)
    {'type': '/', 'numerator': 5, 'denominator': 10000}
    """
    scale = 10 ** max(0, -int(value.normalize().as_tuple().exponent))
    return {"type": "/", "numerator": int(value * scale), "denominator": whole * scale}


def click(at: Point, button: int = LEFT) -> Action:
    return {"type": "mouse:click", "x": at[0], "y": at[1], "button": button}


def double_click(at: Point) -> Action:
    return {"type": "mouse:doubleClick", "x": at[0], "y": at[1], "button": LEFT}


def triple_click(at: Point) -> Action:
    return {"type": "mouse:tripleClick", "x": at[0], "y": at[1], "button": LEFT}


def move(to: Point) -> Action:
    return {"type": "mouse:move", "x": to[0], "y": to[1]}


def drag(start: Point, end: Point) -> Action:
    return {"type": "mouse:drag", **_way(start, end), "button": LEFT}


def scroll(at: Point, direction: str) -> Action:
    """Turn the wheel so that more of the `direction` side shows: up, down, left or right (else KeyError)."""
    vertical, horizontal = _WHEEL[direction]
    steps = {"stepVertical": vertical * WHEEL_STEPS, "stepHorizontal": horizontal * WHEEL_STEPS}
    return {"type": "mouse:scroll", "x": at[0], "y": at[1], **steps}


def type_text(content: str) -> Action:
    """A newline anywhere is the Enter key: Lybic would otherwise not say what becomes of it."""
    return {"type": "keyboard:type", "content": content, "treatNewLineAsEnter": "\n" in content}


def hotkey(keys: list[str]) -> Action:
    return {"type": "keyboard:hotkey", "keys": "+".join(keys)}


def key_down(key: str) -> Action:
    return {"type": "key:down", "key": key}


def key_up(key: str) -> Action:
    return {"type": "key:up", "key": key}


def wait(milliseconds: int) -> Action:
    return {"type": "wait", "duration": milliseconds}


def tap(at: Point) -> Action:
    return {"type": "touch:tap", "x": at[0], "y": at[1]}


def long_press(at: Point, milliseconds: int) -> Action:
    return {"type": "touch:longPress", "x": at[0], "y": at[1], "duration": milliseconds}


def touch_drag(start: Point, end: Point) -> Action:
    return {"type": "touch:drag", **_way(start, end)}


def swipe(at: Point, direction: str) -> Action:
    """Swipe so that more of the `direction` side shows (else KeyError): the finger moves the other way."""
    finger = {"direction": _FINGER[direction], "distance": dict(_SWIPE_DISTANCE)}
    return {"type": "touch:swipe", "x": at[0], "y": at[1], **finger}


def start_app(name: str) -> Action:
    return {"type": "os:startAppByName", "name": name}


def close_app(name: str) -> Action:
    return {"type": "os:closeAppByName", "name": name}


def _way(start: Point, end: Point) -> dict[str, Length]:
    return {"startX": start[0], "startY": start[1], "endX": end[0], "endY": end[1]}


MAX_KEYS = 5
_PLUS_KEY = re.compile(r"(?:^|[\s+])\+$")
_TWO_WORDS = re.compile(
    r"\b(page)[ _-](up|down)\b|\b(caps|num|scroll)[ _-](lock)\b|\b(print)[ _-](screen)\b"
    r"|\b(back)[ _-](space)\b|\b(arrow)[ _-](up|down|left|right)\b|\b(up|down|left|right)[ _-](arrow)\b",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?<=[a-z0-9])(?:-|,\s{0,9})(?=[a-z0-9])", re.IGNORECASE)
_F_OR_KEYPAD = re.compile(r"(f)([1-9]|1[0-9]|2[0-4])|(kp_)([a-z0-9_]+)", re.IGNORECASE)
_KEYSYM = re.compile(r"[A-Za-z0-9_]{2,32}")
_KEYS: Final = {
    name: key
    for key, names in {
        "Return": "return enter",
        "Escape": "escape esc",
        "BackSpace": "backspace",
        "Delete": "delete del",
        "Insert": "insert ins",
        "Tab": "tab",
        "space": "space spacebar",
        "Page_Up": "pageup pgup",
        "Page_Down": "pagedown pgdn pgdown",
        "Home": "home",
        "End": "end",
        "Left": "left arrowleft leftarrow",
        "Right": "right arrowright rightarrow",
        "Up": "up arrowup uparrow",
        "Down": "down arrowdown downarrow",
        "Caps_Lock": "capslock",
        "Num_Lock": "numlock",
        "Scroll_Lock": "scrolllock",
        "Print": "print printscreen prtsc prtscr prtscn",
        "Pause": "pause",
        "Menu": "menu contextmenu",
        "super": "super win windows cmd command meta",
        "ctrl": "ctrl control",
        "alt": "alt option opt",
        "shift": "shift",
        "minus": "-",
        "equal": "=",
        "plus": "+ plus",
        "slash": "/",
        "backslash": "\\",
        "comma": ",",
        "period": ".",
        "semicolon": ";",
        "colon": ":",
        "apostrophe": "'",
        "quotedbl": '"',
        "grave": "`",
        "bracketleft": "[",
        "bracketright": "]",
        "braceleft": "{",
        "braceright": "}",
        "parenleft": "(",
        "parenright": ")",
        "less": "<",
        "greater": ">",
        "question": "?",
        "exclam": "!",
        "at": "@",
        "numbersign": "#",
        "dollar": "$",
        "percent": "%",
        "asciicircum": "^",
        "ampersand": "&",
        "asterisk": "*",
        "bar": "|",
        "asciitilde": "~",
    }.items()
    for name in names.split()
} | {"_": "underscore"}


def xdotool_keys(text: str) -> list[str]:
    """The xdotool names of a key combination as models write it; ValueError when it is none.

    Keys stand apart by blanks, `+`, or a hyphen or comma between words; a `+` at the end is the plus key
    itself.

    >>> xdotool_keys("Ctrl shift page down")
    ['ctrl', 'shift', 'Page_Down']
    >>> xdotool_keys("ctrl++")
    ['ctrl', 'plus']
    """
    text = text[:200].strip()
    plus = ["+"] if _PLUS_KEY.search(text) else []
    joined = _TWO_WORDS.sub(lambda words: "".join(filter(None, words.groups())), text)
    keys = _BETWEEN.sub("+", joined).replace("+", " ").split() + plus
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError(f"give 1 to {MAX_KEYS} keys separated by spaces")
    return [_xdotool_key(key) for key in keys]


def _xdotool_key(key: str) -> str:
    name = _KEYS.get(key.lower()) or _KEYS.get(key.lower().replace("_", ""))
    if name:
        return name
    if len(key) == 1 and key.isprintable():
        return key.lower()
    if special := _F_OR_KEYPAD.fullmatch(key):
        f, number, _, keypad = special.groups()
        return f"F{number}" if f else "KP_" + (keypad[0].upper() + keypad[1:])
    if _KEYSYM.fullmatch(key):
        return key
    raise ValueError(f"no key is named {key[:40]!r}")
