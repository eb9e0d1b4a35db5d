"""Where everything is on the simulated screen, and the colours by which it can be found in a picture."""

from typing import NamedTuple

Size = tuple[int, int]
Point = tuple[int, int]
Colour = tuple[int, int, int]

APPS = ("notepad", "calculator", "browser")
TITLES = {"notepad": "Notepad", "calculator": "Calculator", "browser": "Browser"}
TASKBAR = 56
TITLE = 36
LINE = 22
SMALLEST: Size = (800, 600)
LARGEST: Size = (3840, 2160)

# Nothing else on the screen has these colours.
PAPER: Colour = (255, 254, 250)
ADDRESS: Colour = (236, 246, 238)
LINK: Colour = (26, 86, 219)
CLEAR: Colour = (214, 69, 65)
EQUALS: Colour = (245, 130, 32)

_ROWS = ("CC<<", "789/", "456*", "123-", "0.=+")
# Label → row, column, columns wide.
BUTTONS = {
    label: (row, labels.index(label), labels.count(label))
    for row, labels in enumerate(_ROWS)
    for label in dict.fromkeys(labels)
}
_WINDOWS = {
    "notepad": ((0.22, 0.10), (680, 440)),
    "calculator": ((0.66, 0.16), (300, 430)),
    "browser": ((0.16, 0.06), (840, 540)),
}


class Rect(NamedTuple):
    """`x` and `y` are the corner at the top left, in pixels."""

    x: int
    y: int
    w: int
    h: int

    def has(self, point: Point) -> bool:
        return self.x <= point[0] < self.x + self.w and self.y <= point[1] < self.y + self.h

    @property
    def centre(self) -> Point:
        return self.x + self.w // 2, self.y + self.h // 2

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The corners as Pillow counts them, the last pixel included."""
        return self.x, self.y, self.x + self.w - 1, self.y + self.h - 1

    def part(self, left: int, top: int, right: int = 0, bottom: int = 0) -> "Rect":
        """What is left between these margins."""
        return Rect(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


def taskbar(size: Size) -> Rect:
    return Rect(0, size[1] - TASKBAR, size[0], TASKBAR)


def taskbar_entry(size: Size, app: str) -> Rect:
    """A single click there opens the app, or brings its window to the front."""
    left = size[0] // 2 - len(APPS) * 30 + APPS.index(app) * 60
    return Rect(left + 8, size[1] - TASKBAR + 6, 44, 44)


def icon(size: Size, index: int) -> Rect:
    """A double click there opens it. Columns fill from the left."""
    rows = (size[1] - TASKBAR - 20) // 100
    return Rect(18 + index // rows * 96, 20 + index % rows * 100, 88, 92)


def home(size: Size, app: str) -> Rect:
    """Where the window of an app first appears."""
    at, wanted = _WINDOWS[app]
    w, h = min(wanted[0], size[0] - 120), min(wanted[1], size[1] - TASKBAR - 60)
    return Rect(min(int(size[0] * at[0]), size[0] - w - 8), int(size[1] * at[1]), w, h)


def title(window: Rect) -> Rect:
    return Rect(window.x, window.y, window.w, TITLE)


def close_box(window: Rect) -> Rect:
    return Rect(window.x + window.w - 46, window.y, 46, TITLE)


def save_button(window: Rect) -> Rect:
    return Rect(window.x + 10, window.y + TITLE + 4, 64, 26)


def sheet(window: Rect) -> Rect:
    """The white area of the editor."""
    return window.part(1, TITLE + 35, 1, 26)


def writing(window: Rect) -> Rect:
    """The text on the sheet."""
    return sheet(window).part(14, 8, 14, 4)


def dialog(window: Rect) -> Rect:
    """The panel "Save as" of the editor."""
    return Rect(window.x + window.w // 2 - 190, window.y + TITLE + 48, 380, 116)


def name_field(window: Rect) -> Rect:
    return dialog(window).part(18, 42, 100, 40)


def name_button(window: Rect) -> Rect:
    panel = dialog(window)
    return Rect(panel.x + panel.w - 90, panel.y + 42, 72, 34)


def address_field(window: Rect) -> Rect:
    return Rect(window.x + 12, window.y + TITLE + 7, window.w - 24, 32)


def page(window: Rect) -> Rect:
    return window.part(28, TITLE + 60, 28, 12)


def display(window: Rect) -> Rect:
    return Rect(window.x + 14, window.y + TITLE + 8, window.w - 28, 78)


def button(window: Rect, label: str) -> Rect:
    """A button of the calculator."""
    area = window.part(11, TITLE + 93, 11, 11)
    w, h = area.w // 4, area.h // len(_ROWS)
    row, column, wide = BUTTONS[label]
    return Rect(area.x + column * w, area.y + row * h, w * wide, h).part(3, 3, 3, 3)
