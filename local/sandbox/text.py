"""Editable text: a value with a caret and a selection, and how it wraps into lines of pixels."""

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, cast

from PIL import ImageFont

LIMIT = 100_000
_WORD = re.compile(r"\w+")


def font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


FONT = font(15)


@dataclass(frozen=True, slots=True)
class Text:
    """`anchor` is the other end of the selection; where it equals the caret, nothing is selected."""

    value: str = ""
    caret: int = 0
    anchor: int = 0

    @property
    def span(self) -> tuple[int, int]:
        return min(self.caret, self.anchor), max(self.caret, self.anchor)

    @property
    def selected(self) -> str:
        return self.value[slice(*self.span)]

    def insert(self, piece: str) -> "Text":
        start, end = self.span
        room = LIMIT - len(self.value) + end - start
        at = start + len(piece[:room])
        return Text(self.value[:start] + piece[:room] + self.value[end:], at, at)

    def move(self, caret: int, *, keep: bool = False) -> "Text":
        """Puts the caret there; `keep` makes the selection reach it."""
        caret = max(0, min(len(self.value), caret))
        return replace(self, caret=caret, anchor=self.anchor if keep else caret)

    def select(self, start: int, end: int) -> "Text":
        return Text(self.value, end, start)

    def select_all(self) -> "Text":
        return self.select(0, len(self.value))

    def select_word(self, at: int) -> "Text":
        words = (word.span() for word in _WORD.finditer(self.value))
        return self.select(*next((span for span in words if span[0] <= at <= span[1]), (at, at)))

    def select_line(self, at: int) -> "Text":
        end = self.value.find("\n", at)
        return self.select(self.value.rfind("\n", 0, at) + 1, len(self.value) if end < 0 else end)

    def erase(self, step: int) -> "Text":
        """Removes the selection, or the character before (-1) or after (+1) the caret."""
        return (self if self.selected else self.move(self.caret + step, keep=True)).insert("")


EMPTY = Text()


class Line(NamedTuple):
    start: int
    text: str

    def x(self, column: int) -> int:
        return round(FONT.getlength(self.text[:column]))

    def column(self, x: int) -> int:
        """The gap between characters that is nearest to `x`."""
        return bisect_right(range(len(self.text)), 2 * x, key=lambda i: self.x(i) + self.x(i + 1))


@lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    return FONT.getlength(character)


def _fold(start: int, text: str, width: int) -> list[Line]:
    """One paragraph as lines, broken after a blank where there is one."""
    lines = []
    while text:
        fits = bisect_right(list(accumulate(map(_advance, text[:400]))), width)
        if fits >= len(text):
            break
        cut = text.rfind(" ", 0, fits) + 1 or max(fits, 1)
        lines.append(Line(start, text[:cut]))
        start, text = start + cut, text[cut:]
    return [*lines, Line(start, text)]


@lru_cache(maxsize=64)
def wrap(value: str, width: int) -> tuple[Line, ...]:
    lines: list[Line] = []
    start = 0
    for paragraph in value.split("\n"):
        lines += _fold(start, paragraph, width)
        start += len(paragraph) + 1
    return tuple(lines)


def row_of(lines: tuple[Line, ...], index: int) -> int:
    return bisect_right(lines, index, key=lambda line: line.start) - 1


def _end(lines: tuple[Line, ...], row: int) -> int:
    line = lines[row]
    return lines[row + 1].start - 1 if row + 1 < len(lines) else line.start + len(line.text)


def _vertical(text: Text, lines: tuple[Line, ...], rows: int) -> int:
    row = row_of(lines, text.caret)
    target = row + rows
    if not 0 <= target < len(lines):
        return 0 if target < 0 else len(text.value)
    x = lines[row].x(text.caret - lines[row].start)
    return min(lines[target].start + lines[target].column(x), _end(lines, target))


def _destination(text: Text, lines: tuple[Line, ...], key: str) -> int | None:
    """Where a key of movement takes the caret; None for any other key."""
    row = row_of(lines, text.caret)
    match key:
        case "Left" | "Right":
            return text.caret + (1 if key == "Right" else -1)
        case "Up" | "Down":
            return _vertical(text, lines, 1 if key == "Down" else -1)
        case "Page_Up" | "Page_Down":
            return _vertical(text, lines, 12 if key == "Page_Down" else -12)
        case "Home" | "End":
            return lines[row].start if key == "Home" else _end(lines, row)
        case "ctrl+Home" | "ctrl+End":
            return 0 if key == "ctrl+Home" else len(text.value)
    return None


def press(text: Text, width: int, key: str, *, shift: bool) -> Text:
    """A key that edits or moves, in a field of that width; any other changes nothing."""
    if key in ("BackSpace", "Delete"):
        return text.erase(-1 if key == "BackSpace" else 1)
    if key == "ctrl+a":
        return text.select_all()
    caret = _destination(text, wrap(text.value, width), key)
    return text if caret is None else text.move(caret, keep=shift)
