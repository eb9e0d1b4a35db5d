"""A window and the three programs: what a click, a key, typing and the wheel do inside of one."""

import re
from dataclasses import dataclass, replace

from local.sandbox import layout
from local.sandbox.layout import BUTTONS, LINE, Point, Rect
from local.sandbox.text import Row, Text, press, row_of, wrap


@dataclass(frozen=True, slots=True)
class Window:
    """`text` is the document, the page or the calculator's display, `entry` the one-line field above it.

    `typing` names the field that has the keyboard. `name` is the file, the address of the page or the
    calculation behind the result. `scroll` is the first row in view.
    """

    app: str
    rect: Rect
    typing: str = ""
    text: Text = Text()  # noqa: RUF009 - it is immutable
    entry: Text = Text()  # noqa: RUF009 - it is immutable
    name: str = ""
    scroll: int = 0

    @property
    def title(self) -> str:
        heading = self.text.value.partition("\n")[0] or "New tab"
        what = {"notepad": self.name or "Untitled", "browser": heading}.get(self.app)
        return f"{what} - {layout.TITLES[self.app]}" if what else layout.TITLES[self.app]

    @property
    def focused(self) -> Text:
        return self.entry if self.typing == "entry" else self.text

    def area(self, field: str) -> Rect:
        """Where the rows of a field are."""
        return layout.fields(self.app, self.rect)[field].part(12, 5, 12, 5)

    def rows(self, field: str) -> tuple[Row, ...]:
        return wrap(getattr(self, field).value, self.area(field).w)

    def visible(self, field: str) -> tuple[Row, ...]:
        """The rows in view; of an entry the one with the caret."""
        rows = self.rows(field)
        top = row_of(rows, self.entry.caret) if field == "entry" else self.scroll
        return rows[top : top + self.area(field).h // LINE]

    def edited(self, text: Text) -> "Window":
        """With the focused field changed, and the caret in view. A page can't be written on."""
        if self.app == "browser" and self.typing == "text" and text.value != self.text.value:
            return self
        if self.typing == "entry":
            return replace(self, entry=text)
        changed, room = replace(self, text=text), self.area("text").h // LINE
        row = row_of(changed.rows("text"), text.caret)
        return replace(changed, scroll=max(row - room + 1, min(self.scroll, row)))


def click(window: Window, point: Point, count: int, *, shift: bool) -> Window:
    if window.app == "calculator":
        pressed = (label for label in BUTTONS if layout.button(window.rect, label).has(point))
        return calculate(window, next(pressed, "") * count)
    field = field_at(window, point)
    if not field:
        return window
    window = caret_to(window, field, point, keep=shift)
    return go(window, _link(window)) if (window.app, field) == ("browser", "text") else window


def field_at(window: Window, point: Point) -> str:
    """The name of the field that is there, if any is."""
    fields = layout.fields(window.app, window.rect)
    return next((field for field, place in fields.items() if place.has(point)), "")


def caret_to(window: Window, field: str, point: Point, *, keep: bool) -> Window:
    """Focuses a field, its caret at the position in view that is nearest to the point."""
    window, area, rows = replace(window, typing=field), window.area(field), window.visible(field)
    row = rows[max(0, min(len(rows) - 1, (point[1] - area.y) // LINE))]
    return window.edited(window.focused.move(row.nearest(point[0] - area.x), keep=keep))


def wheel(window: Window, down: int) -> Window:
    """Scrolls down by so many rows, as far as there is something."""
    last = max(0, len(window.rows("text")) - window.area("text").h // LINE)
    return replace(window, scroll=max(0, min(last, window.scroll + down)))


def write(window: Window, piece: str) -> Window:
    """Characters as they are typed; a new line among them is one only in the document."""
    if window.app == "calculator":
        return calculate(window, piece)
    return window.edited(window.focused.insert(piece if window.typing == "text" else piece.replace("\n", "")))


def key(window: Window, name: str, *, shift: bool) -> Window:
    """One key that writes nothing, `ctrl+` before its name if that is held."""
    if window.app == "calculator":
        return calculate(window, {"Escape": "C", "Delete": "C", "BackSpace": "<"}.get(name, ""))
    if name == {"notepad": "ctrl+s", "browser": "ctrl+l"}[window.app]:
        return replace(window, typing="entry", entry=window.entry.select_all())
    if name == "Escape":
        return replace(window, typing="text")
    return window.edited(press(window.focused, window.rows(window.typing), name, shift=shift))


# A calculation: decimals, and what stands between them.
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]\d+)?"
_CALCULATION = re.compile(rf"[+-]?{_NUMBER}(?:[+-]{_NUMBER}|[*/]-?{_NUMBER})*")
_STEP = re.compile(rf"([-+*/]?)(-?{_NUMBER})")


def evaluate(calculation: str) -> str:
    """`2+3*4` → `14`. Anything but decimals joined by + - * / is an `Error`."""
    if not _CALCULATION.fullmatch(calculation):
        return "Error"
    total = product = 0.0
    for operator, number in _STEP.findall(calculation):
        value = float(number)
        if operator == "/" and not value:
            return "Error"
        if operator in ("*", "/"):
            product = product * value if operator == "*" else product / value
        else:
            total, product = total + product, -value if operator == "-" else value
    return f"{total + product:.15g}"


def calculate(window: Window, labels: str) -> Window:
    """Presses the buttons with these labels; a new line is the equals button."""
    for label in labels.replace("\n", "="):
        if label in BUTTONS:
            window = _pressed(window, label)
    return window


def _pressed(window: Window, label: str) -> Window:
    shown = window.text.value
    if label == "=":
        return replace(window, text=Text(evaluate(shown or "0")), name=f"{shown or 0} =")
    anew = window.name and (label not in "+-*/" or shown == "Error")
    shown = {"C": "", "<": shown[:-1]}.get(label, label if anew else (shown + label)[:40])
    return replace(window, text=Text(shown), name="")


# A row of a page that begins with `https://` is a link.
LINK = "https://"
_SITES = ("encyclopedia", "learn", "docs", "answers", "news", "videos", "shop")


def page(address: str) -> str:
    """`?words` is a search; any other address has a page of its own. The first row is the heading."""
    if not address.startswith("?"):
        story = (f"Paragraph {number} of the simulated page at {address[:60]}." for number in range(1, 61))
        return "\n".join((address, "", *story))
    query = address[1:].strip()[:60]
    slug = re.sub(r"\W+", "-", query.lower()).strip("-")
    results = (f"\n\n{query} - {site}\n{LINK}{site}.example/{slug}" for site in _SITES)
    return f"Results for {query}{''.join(results)}\n\nNo more results."


def address_of(wanted: str) -> str:
    """The address that an address bar makes of a text; one that is none is searched for."""
    address = wanted.strip().removeprefix(LINK).removeprefix("http://").rstrip("/")
    searched = address and (" " in address or "." not in address)
    return "?" + address.removeprefix("?") if searched else address


def go(window: Window, wanted: str) -> Window:
    """Opens what the address bar would."""
    address = address_of(wanted)
    if not address:
        return window
    shown = replace(window, name=address, text=Text(page(address)), entry=Text(wanted.strip()))
    return replace(shown, typing="text", scroll=0)


def _link(window: Window) -> str:
    """The link that the caret is within."""
    caret, rows = window.text.caret, window.rows("text")
    row = rows[row_of(rows, caret)]
    return row.text if row.text.startswith(LINK) and row.first < caret < row.last else ""
