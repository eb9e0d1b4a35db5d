"""Editable text: a value with a caret and a selection, and how it wraps into rows of pixels."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple, cast

from PIL import ImageFont

LIMIT = 20_000


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


SIZE = 15
FONT = font(SIZE)


@lru_cache
def _advance(size: int) -> Callable[[str], float]:
    return lru_cache(maxsize=4096)(font(size).getlength)


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
        """With the piece in the place of the selection; what is too long loses its end."""
        start, end = self.span
        value = (self.value[:start] + piece + self.value[end:])[:LIMIT]
        return Text(value).move(start + len(piece))

    def move(self, caret: int, *, keep: bool = False) -> "Text":
        """Puts the caret there; `keep` makes the selection reach it."""
        caret = max(0, min(len(self.value), caret))
        return replace(self, caret=caret, anchor=self.anchor if keep else caret)

    def select_all(self) -> "Text":
        return Text(self.value, len(self.value), 0)


class Row(NamedTuple):
    """One row of a wrapped text, from its first to its last position of the caret."""

    first: int
    last: int
    text: str

    def x(self, caret: int) -> int:
        return round(FONT.getlength(self.text[: max(0, caret - self.first)]))

    def nearest(self, x: int) -> int:
        """The position of the caret that is nearest to `x`."""
        positions = range(self.first, self.last)
        return self.first + bisect_right(positions, 2 * x, key=lambda at: self.x(at) + self.x(at + 1))


@lru_cache(maxsize=64)
def wrap(value: str, width: int, size: int = SIZE) -> tuple[Row, ...]:
    """The rows of a text. At the end of a broken one the caret stands before its last character."""
    rows: list[Row] = []
    start = 0
    for paragraph in value.split("\n"):
        cuts, end = _cuts(paragraph, width, size), len(paragraph)
        rows += [Row(start + a, start + b - (b < end), paragraph[a:b]) for a, b in pairwise(cuts)]
        start += end + 1
    return tuple(rows)


def _cuts(paragraph: str, width: int, size: int) -> list[int]:
    """Where the rows of a paragraph begin, and its end; broken after a blank where there is one."""
    ends = list(accumulate(map(_advance(size), paragraph), initial=0.0))
    cuts = [0]
    while ends[-1] - ends[cuts[-1]] > width:
        fits = bisect_right(ends, ends[cuts[-1]] + width) - 1
        cuts.append(paragraph.rfind(" ", cuts[-1], fits) + 1 or fits)
    return [*cuts, len(paragraph)]


def row_of(rows: tuple[Row, ...], caret: int) -> int:
    return bisect_right(rows, caret, key=lambda row: row.first) - 1


def press(text: Text, rows: tuple[Row, ...], key: str, *, shift: bool) -> Text:
    """What a key does that edits or moves; any other changes nothing."""
    if key in ("BackSpace", "Delete"):
        beside = text.move(text.caret + (1 if key == "Delete" else -1), keep=True)
        return (text if text.selected else beside).insert("")
    if key == "ctrl+a":
        return text.select_all()
    caret = _destinations(text, rows).get(key)
    return text if caret is None else text.move(caret, keep=shift)


def _destinations(text: Text, rows: tuple[Row, ...]) -> dict[str, int]:
    """Where the keys of movement take the caret."""
    number = row_of(rows, text.caret)
    row, above, below = rows[number], rows[max(0, number - 1)], rows[min(len(rows) - 1, number + 1)]
    column = text.caret - row.first
    return {
        "Left": text.caret - 1,
        "Right": text.caret + 1,
        "Up": min(above.first + column, above.last),
        "Down": min(below.first + column, below.last),
        "Page_Up": rows[max(0, number - 15)].first,
        "Page_Down": rows[min(len(rows) - 1, number + 15)].first,
        "Home": row.first,
        "End": row.last,
    }
