"""Where everything is on the simulated screen, and the colours by which it can be found in a picture."""

from typing import NamedTuple

Size = tuple[int, int]
Point = tuple[int, int]
Colour = tuple[int, int, int]

TITLES = {"notepad": "Notepad", "calculator": "Calculator", "browser": "Browser"}
APPS = tuple(TITLES)
TASKBAR, TITLE, LINE = 56, 36, 22

# Nothing else on the screen has these colours.
PAPER: Colour = (255, 254, 250)
ADDRESS: Colour = (236, 246, 238)
LINK: Colour = (26, 86, 219)
CLEAR: Colour = (214, 69, 65)
EQUALS: Colour = (245, 130, 32)

# The calculator's buttons, four cells to a row; a label that is there twice has a button two cells wide.
BUTTONS = "CC<<789/456*123-0.=+"
# Left and top in percent of the screen, width and height in pixels.
_WINDOWS = {
    "notepad": (22, 10, 680, 440),
    "calculator": (66, 16, 300, 430),
    "browser": (16, 6, 840, 540),
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

    def part(self, left: int, top: int, right: int, bottom: int) -> "Rect":
        """What is left between these margins."""
        return Rect(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


def taskbar_entry(size: Size, app: str) -> Rect:
    """A single click there opens the app, or brings its window to the front."""
    left = size[0] // 2 - 30 * len(APPS) + 60 * APPS.index(app)
    return Rect(left + 8, size[1] - TASKBAR + 6, 44, 44)


def icon(app: str) -> Rect:
    """A double click there opens the app."""
    return Rect(18, 20 + 100 * APPS.index(app), 88, 92)


def menu_row(menu: Rect, number: int) -> Rect:
    return Rect(menu.x + 4, menu.y + 4 + 30 * number, menu.w - 8, 30)


def home(size: Size, app: str) -> Rect:
    """Where the window of an app first appears."""
    left, top, w, h = _WINDOWS[app]
    return Rect(size[0] * left // 100, size[1] * top // 100, w, h)


def title(window: Rect) -> Rect:
    """What the window is dragged by."""
    return Rect(window.x, window.y, window.w - 46, TITLE)


def close_box(window: Rect) -> Rect:
    return Rect(window.x + window.w - 46, window.y, 46, TITLE)


def fields(app: str, window: Rect) -> dict[str, Rect]:
    """What has text in a window: the calculator's display; else a one-line entry above a sheet."""
    if app == "calculator":
        return {"text": window.part(14, TITLE + 8, 14, window.h - TITLE - 86)}
    return {
        "entry": Rect(window.x + 12, window.y + TITLE + 4, window.w - 24, 32),
        "text": window.part(1, TITLE + 44, 1, 10),
    }


def button(window: Rect, label: str) -> Rect:
    """A button of the calculator."""
    area = window.part(11, TITLE + 93, 11, 11)
    row, column = divmod(BUTTONS.index(label), 4)
    w, h = area.w // 4, area.h // 5
    return Rect(area.x + column * w, area.y + row * h, w * BUTTONS.count(label), h).part(3, 3, 3, 3)
