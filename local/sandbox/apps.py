"""A window and the three programs: what a click, a key, typing and the wheel do inside of one."""

import re
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from functools import lru_cache
from typing import NamedTuple

from local.sandbox import layout
from local.sandbox.layout import Point, Rect
from local.sandbox.text import EMPTY, FONT, Text, press, row_of, wrap

ENTER = ("Return", "KP_Enter")


@dataclass(frozen=True, slots=True)
class Window:
    """`text` is the editor's document or the calculator's display, `entry` the one-line field of an app.

    `typing` names the field that has the keyboard. `name` is the editor's file, the page that the browser
    shows, or the calculation behind the calculator's result. `saving` asks the desktop to keep the document.
    """

    app: str
    rect: Rect
    text: Text = EMPTY
    entry: Text = EMPTY
    typing: str = ""
    name: str = ""
    scroll: int = 0
    follow: bool = True
    saving: bool = False

    @property
    def title(self) -> str:
        what = {"notepad": self.name or "Untitled", "browser": page(self.name)[0].text}.get(self.app)
        label = layout.TITLES[self.app]
        return f"{what} - {label}" if what else label

    @property
    def field(self) -> Text | None:
        return {"text": self.text, "entry": self.entry}.get(self.typing)

    def edited(self, text: Text) -> "Window":
        """With the focused field changed; what is edited is kept in view."""
        if self.typing == "entry":
            return replace(self, entry=text)
        return replace(self, text=text, follow=True)


def opened(app: str, rect: Rect) -> Window:
    typing = {"notepad": "text", "browser": "entry"}.get(app, "")
    return Window(app, rect, typing=typing)


def click(window: Window, point: Point, count: int, *, shift: bool = False) -> Window:
    match window.app:
        case "notepad":
            return _click_notepad(window, point, count, shift=shift)
        case "browser":
            return _click_browser(window, point, count, shift=shift)
    hit = (label for label in layout.BUTTONS if layout.button(window.rect, label).has(point))
    return calculate(window, next(hit, "") * count)


def field_at(window: Window, point: Point) -> Rect | None:
    """Where the focused field's text is drawn, if that is what the point hits."""
    if window.app == "notepad" and window.typing == "text":
        return layout.writing(window.rect) if layout.sheet(window.rect).has(point) else None
    spot = layout.name_field if window.app == "notepad" else layout.address_field
    rect = spot(window.rect)
    return rect.part(8, 0, 8) if window.typing == "entry" and rect.has(point) else None


def index_at(window: Window, point: Point, rect: Rect) -> int:
    """The position in the focused text that is nearest to the point."""
    if window.typing == "entry":
        return wrap(window.entry.value, 10**6)[0].column(point[0] - rect.x)
    lines = wrap(window.text.value, rect.w)
    row = max(0, min(len(lines) - 1, first_row(window) + (point[1] - rect.y) // layout.LINE))
    return lines[row].start + lines[row].column(point[0] - rect.x)


def select_at(window: Window, point: Point, count: int, *, shift: bool = False) -> Window:
    """One click puts the caret, two select a word, three a line."""
    rect = field_at(window, point)
    text = window.field
    if rect is None or text is None:
        return window
    at = index_at(window, point, rect)
    chosen = [text.move(at, keep=shift), text.select_word(at), text.select_line(at)][count - 1]
    return window.edited(chosen)


def key(window: Window, name: str, *, shift: bool = False) -> Window:
    """One key, `ctrl+` before its name if that is held."""
    special = {"notepad": _key_notepad, "browser": _key_browser, "calculator": _key_calculator}
    changed = special[window.app](window, name)
    if changed is not window or window.field is None:
        return changed
    width = layout.writing(window.rect).w if window.typing == "text" else 10**6
    return window.edited(press(window.field, width, name, shift=shift))


def write(window: Window, piece: str) -> Window:
    """Characters as they are typed; a new line among them is one only in the document."""
    if window.app == "calculator":
        return calculate(window, piece)
    if window.field is None:
        return window
    return window.edited(window.field.insert(piece if window.typing == "text" else piece.replace("\n", "")))


def first_row(window: Window) -> int:
    """The first row in view: where it was scrolled to, or so that the caret is seen."""
    if window.app != "notepad" or not window.follow:
        return window.scroll
    rect = layout.writing(window.rect)
    row = row_of(wrap(window.text.value, rect.w), window.text.caret)
    return max(row - rect.h // layout.LINE + 1, min(window.scroll, row))


def wheel(window: Window, rows: int) -> Window:
    """Scrolls down by so many rows, as far as there is something."""
    if window.app == "calculator":
        return window
    area = layout.writing(window.rect) if window.app == "notepad" else layout.page(window.rect)
    held = len(wrap(window.text.value, area.w)) if window.app == "notepad" else len(page(window.name))
    last = max(0, held - area.h // layout.LINE)
    return replace(window, scroll=max(0, min(last, first_row(window) + rows)), follow=False)


# The editor.


def _click_notepad(window: Window, point: Point, count: int, *, shift: bool) -> Window:
    if layout.save_button(window.rect).has(point):
        return _ask_name(window)
    if window.typing == "entry":
        if layout.name_button(window.rect).has(point):
            return replace(window, saving=True)
        if layout.dialog(window.rect).has(point):
            return select_at(window, point, count, shift=shift)
    if not layout.sheet(window.rect).has(point):
        return window
    return select_at(replace(window, typing="text"), point, count, shift=shift)


def _ask_name(window: Window) -> Window:
    return replace(window, typing="entry", entry=Text(window.name).select_all())


def _key_notepad(window: Window, name: str) -> Window:
    if name in ("ctrl+s", "ctrl+S"):
        return _ask_name(window)
    if window.typing == "entry":
        if name in ENTER:
            return replace(window, saving=True)
        return replace(window, typing="text") if name == "Escape" else window
    written = {"Return": "\n", "KP_Enter": "\n", "Tab": "    "}.get(name)
    return write(window, written) if written else window


# The calculator.

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PRODUCT = rf"{_NUMBER}(?:[*/]-?{_NUMBER})*"
_SUM = re.compile(rf"[+-]?{_PRODUCT}(?:[+-]{_PRODUCT})*")
_TERM = re.compile(rf"([+-]?)({_PRODUCT})")
_KEYS = {"Return": "=", "KP_Enter": "=", "Escape": "C", "BackSpace": "<", "Delete": "C"}
_SAME = str.maketrans("cx×÷", "C**/")


def evaluate(calculation: str) -> str:
    """`2+3*4` → `14`. Anything but decimals joined by + - * / is an `Error`."""
    if not _SUM.fullmatch(calculation):
        return "Error"
    try:
        total = sum((_product(sign, term) for sign, term in _TERM.findall(calculation)), Decimal(0))
    except ArithmeticError:
        return "Error"
    rounded = Context(prec=16).plus(total).normalize()
    return format(rounded, "f") if abs(rounded.adjusted()) < 24 else str(rounded)


def _product(sign: str, term: str) -> Decimal:
    value = Decimal(1)
    for operator, number in re.findall(rf"([*/]?)(-?{_NUMBER})", term):
        value = value / Decimal(number) if operator == "/" else value * Decimal(number)
    return -value if sign == "-" else value


def calculate(window: Window, labels: str) -> Window:
    for label in labels.translate(_SAME):
        if label in layout.BUTTONS:
            window = _enter(window, label)
    return window


def _enter(window: Window, label: str) -> Window:
    shown = window.text.value
    if label == "C":
        return replace(window, text=EMPTY, name="")
    if label == "=":
        asked = shown.rstrip("+-*/")
        return replace(window, text=Text(evaluate(asked or "0")), name=f"{asked or 0} =")
    if label == "<":
        shown = shown[:-1]
    elif label in "+-*/":
        shown = _operator(shown, label)
    else:
        anew = window.name or shown == "Error" or (shown == "0" and label != ".")
        shown = label if anew else (shown + label)[:40]
    return replace(window, text=Text(shown), name="")


def _operator(shown: str, label: str) -> str:
    if label == "-" and (not shown or shown[-1] in "*/"):
        return f"{shown}-"
    return f"{shown.rstrip('+-*/') or 0}{label}"


def _key_calculator(window: Window, name: str) -> Window:
    return calculate(window, _KEYS.get(name, ""))


# The browser.


class Row(NamedTuple):
    """One row of a page; `link` is the address that a click on it opens."""

    kind: str
    text: str = ""
    link: str = ""


_SITES = (
    ("encyclopedia.example", "{} - the free encyclopedia"),
    ("learn.example", "{}: a first course"),
    ("docs.example", "Documentation of {}"),
    ("answers.example", "Questions and answers about {}"),
    ("news.example", "{} in the news"),
    ("forum.example", "The forum on {}"),
    ("videos.example", "{}, explained in ten minutes"),
    ("shop.example", "Books about {}"),
)
_BLANK = (
    Row("heading", "New tab"),
    Row("text"),
    Row("text", "Type an address or a search above and press Return."),
    Row("text", "This is a simulated web: every address has a page, and nothing leaves this machine."),
)


@lru_cache(maxsize=256)
def page(address: str) -> tuple[Row, ...]:
    """`?words` is a search; any other address has a page of its own."""
    if not address:
        return _BLANK
    if address.startswith("?"):
        return _results(address[1:].strip())
    story = (f"Paragraph {number} of the simulated page at {address[:60]}." for number in range(1, 61))
    return (
        Row("heading", address),
        Row("text"),
        Row("url", f"https://{address}"),
        *(Row("text", line) for line in story),
    )


def _results(query: str) -> tuple[Row, ...]:
    rows = [
        Row("heading", f"Results for {query}"),
        Row("text"),
        Row("text", f"{len(_SITES)} results, all of them simulated"),
    ]
    slug = re.sub(r"\W+", "-", query.lower()).strip("-")
    for site, name in _SITES:
        link = f"{site}/{slug}"
        rows += [Row("text"), Row("link", name.format(query[:60]), link), Row("url", f"https://{link}"[:90])]
    return tuple(rows)


def go(window: Window, wanted: str) -> Window:
    address = re.sub(r"^https?://", "", wanted.strip()).rstrip("/")
    if not address:
        return window
    if " " in address or "." not in address:
        address = "?" + address.removeprefix("?")
    return replace(window, name=address, entry=Text(wanted.strip()), typing="", scroll=0)


def _click_browser(window: Window, point: Point, count: int, *, shift: bool) -> Window:
    if layout.address_field(window.rect).has(point):
        if window.typing != "entry" and count == 1:
            return replace(window, typing="entry", entry=window.entry.select_all())
        return select_at(replace(window, typing="entry"), point, count, shift=shift)
    link = _link_at(window, point)
    return go(window, link) if link else replace(window, typing="")


def _link_at(window: Window, point: Point) -> str:
    area = layout.page(window.rect)
    rows = page(window.name)
    number = first_row(window) + (point[1] - area.y) // layout.LINE
    if not area.has(point) or number >= len(rows):
        return ""
    return rows[number].link if point[0] < area.x + FONT.getlength(rows[number].text) else ""


def _key_browser(window: Window, name: str) -> Window:
    if name in ("ctrl+l", "F6"):
        return replace(window, typing="entry", entry=window.entry.select_all())
    if window.typing == "entry":
        if name in ENTER:
            return go(window, window.entry.value)
        return replace(window, typing="") if name == "Escape" else window
    rows = {"Down": 1, "Up": -1, "Page_Down": 15, "Page_Up": -15, "Home": -(10**6), "End": 10**6}.get(name)
    return wheel(window, rows) if rows else window
