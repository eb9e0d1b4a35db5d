"""Where everything is on the simulated phone's screen, and the colours by which it can be found."""

from typing import NamedTuple

from local.sandbox.layout import Colour, Point, Rect, Size

SIZE: Size = (720, 1280)
STATUS, BAR, NAVIGATION, ROW, LINE, LETTERS = 48, 96, 88, 104, 42, 28


class App(NamedTuple):
    title: str
    chinese: str
    package: str


APPS = {
    "notes": App("Notes", "备忘录", "com.simulated.notes"),
    "settings": App("Settings", "设置", "com.android.settings"),
    "browser": App("Browser", "浏览器", "com.android.browser"),
}
# The home screen's pages; a swipe to the side turns them.
PAGES = (("notes", "settings"), ("browser",))
# The keyboard, row by row.
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm\b", ", .\n")
LABELS = {"\b": "del", " ": "space", "\n": "enter"}

# Nothing else on the screen has these colours.
ADD: Colour = (18, 140, 126)
WRITTEN: Colour = (46, 160, 67)
SWITCH: Colour = (98, 84, 196)
LAST: Colour = (200, 96, 60)
DOT: Colour = (255, 250, 244)

BACK_BUTTON = Rect(0, SIZE[1] - NAVIGATION, SIZE[0] // 2, NAVIGATION)
HOME_BUTTON = Rect(SIZE[0] // 2, SIZE[1] - NAVIGATION, SIZE[0] // 2, NAVIGATION)
ADD_BUTTON = Rect(SIZE[0] - 96, STATUS + 12, 72, 72)
ADDRESS_BAR = Rect(20, STATUS + 12, SIZE[0] - 40, 72)
KEYBOARD = Rect(0, SIZE[1] - NAVIGATION - 400, SIZE[0], 400)


def icon(app: str) -> Rect:
    """A tap there opens the app, while its page of the home screen is shown."""
    column = next(page.index(app) for page in PAGES if app in page)
    return Rect(40 + 220 * column, 640, 200, 220)


def body(*, keyboard: bool) -> Rect:
    """What an app has below its bar."""
    top, bottom = STATUS + BAR, KEYBOARD.y if keyboard else SIZE[1] - NAVIGATION
    return Rect(0, top, SIZE[0], bottom - top)


def menu(point: Point, rows: int) -> Rect:
    """A menu of so many rows that opens at a finger."""
    return Rect(min(point[0], SIZE[0] - 320), min(point[1], SIZE[1] - 88 * rows), 320, 88 * rows)


def menu_row(rect: Rect, number: int) -> Rect:
    return Rect(rect.x, rect.y + 88 * number, rect.w, 88)


def key(character: str) -> Rect:
    """A key of the keyboard."""
    row, keys = next((row, keys) for row, keys in enumerate(KEYS) if character in keys)
    w = KEYBOARD.w // len(keys)
    return Rect(w * keys.index(character), KEYBOARD.y + 100 * row, w, 100).part(4, 4, 4, 4)
