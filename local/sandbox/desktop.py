"""The simulated desktop: one immutable value, and what the mouse and the keyboard make of it.

Every function takes a desktop and returns the next one, so that a snapshot is a reference and costs nothing.
Points are pixels of the screen, keys have xdotool's names.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from local.sandbox import apps, layout
from local.sandbox.apps import Window
from local.sandbox.keys import MODIFIERS, character
from local.sandbox.layout import APPS, TASKBAR, TITLE, Point, Rect, Size

LEFT, RIGHT = 1, 2
# The context menu: label → the keys that it presses.
MENU = {"Cut": ["ctrl", "x"], "Copy": ["ctrl", "c"], "Paste": ["ctrl", "v"], "Select all": ["ctrl", "a"]}


@dataclass(frozen=True, slots=True)
class Desktop:
    """`windows` from back to front; while `active` the last has the keyboard. `held` are modifiers."""

    size: Size = (1280, 720)
    cursor: Point = (640, 360)
    windows: tuple[Window, ...] = ()
    active: bool = False
    held: frozenset[str] = frozenset()
    clipboard: str = ""
    files: dict[str, str] = field(default_factory=dict)
    menu: Rect | None = None

    @property
    def front(self) -> Window | None:
        return self.windows[-1] if self.windows and self.active else None

    def topmost(self, point: Point) -> Window | None:
        """The window that is there; the taskbar is over all of them."""
        hit = (window for window in reversed(self.windows) if window.rect.has(point))
        return next(hit, None) if point[1] < self.size[1] - TASKBAR else None

    def raised(self, window: Window) -> "Desktop":
        """With this window, as it is now, in front of the others; an app has one window."""
        others = (other for other in self.windows if other.app != window.app)
        return replace(self, windows=(*others, window), active=True)


def start(desktop: Desktop, app: str) -> Desktop:
    """Opens the app, or brings its window to the front."""
    new = Window(app, layout.home(desktop.size, app), "entry" if app == "browser" else "text")
    return desktop.raised(next((window for window in desktop.windows if window.app == app), new))


def _entered(desktop: Desktop, window: Window) -> Desktop:
    """What Return in the entry does: the browser goes there, the editor saves under that name."""
    wanted = window.entry.value.strip()[:200]
    if window.app == "browser" or not wanted:
        return desktop.raised(apps.go(window, wanted))
    saved = replace(window, name=wanted, typing="text")
    return replace(desktop.raised(saved), files={**desktop.files, wanted: window.text.value})


def click(desktop: Desktop, point: Point, button: int = LEFT, count: int = 1) -> Desktop:
    menu, desktop = desktop.menu, replace(desktop, cursor=point, menu=None)
    for number, keys in enumerate(MENU.values()):
        if menu and layout.menu_row(menu, number).has(point):
            return press(desktop, keys)
    window = desktop.topmost(point)
    desktop = desktop.raised(window) if window else replace(desktop, active=False)
    if button & RIGHT:
        x, y = min(point[0], desktop.size[0] - 180), min(point[1], desktop.size[1] - 128)
        return replace(desktop, menu=Rect(x, y, 180, 128))
    if not button & LEFT:
        return desktop
    return _press(desktop, window, point, count) if window else _open(desktop, point, count)


def _press(desktop: Desktop, window: Window, point: Point, count: int) -> Desktop:
    if layout.close_box(window.rect).has(point):
        return replace(desktop, windows=desktop.windows[:-1])
    return desktop.raised(apps.click(window, point, count, shift="shift" in desktop.held))


def _open(desktop: Desktop, point: Point, count: int) -> Desktop:
    """Opens the app whose taskbar entry is there, or after two clicks the one whose icon is."""
    for app in APPS:
        icon = count > 1 and layout.icon(app).has(point)
        if icon or layout.taskbar_entry(desktop.size, app).has(point):
            return start(desktop, app)
    return desktop


def drag(desktop: Desktop, begin: Point, end: Point, button: int = LEFT) -> Desktop:
    """Moves a window by its title, or selects text; from anywhere else it only moves the cursor."""
    window = desktop.topmost(begin) if button & LEFT else None
    desktop = replace(desktop, cursor=end, menu=None)
    if window and layout.title(window.rect).has(begin):
        right, down = end[0] - begin[0], min(end[1], desktop.size[1] - TASKBAR - TITLE) - begin[1]
        return desktop.raised(replace(window, rect=window.rect.part(right, down, -right, -down)))
    name = apps.field_at(window, begin) if window else ""
    if window and name:
        window = apps.caret_to(window, name, begin, keep=False)
        return desktop.raised(apps.caret_to(window, name, end, keep=True))
    return desktop


def wheel(desktop: Desktop, point: Point, up: int) -> Desktop:
    """Scrolls what is under the point by three rows a step."""
    window = desktop.topmost(point)
    scrolled = [apps.wheel(each, -3 * up) if each is window else each for each in desktop.windows]
    return replace(desktop, cursor=point, menu=None, windows=tuple(scrolled))


def press(desktop: Desktop, keys: list[str]) -> Desktop:
    """Presses a combination, given as its keys."""
    desktop = replace(desktop, menu=None)
    down = desktop.held | {MODIFIERS.get(key, "") for key in keys}
    for key in keys:
        if key not in MODIFIERS and desktop.front:
            desktop = _stroke(desktop, desktop.front, key, down)
    return desktop


def write(desktop: Desktop, content: str, *, enter: bool) -> Desktop:
    """Types a text. With `enter` a new line in it presses Return, else it is a character of a document."""
    for number, piece in enumerate(content.split("\n") if enter else [content]):
        desktop = press(desktop, ["Return"]) if number else desktop
        if desktop.front and piece:
            desktop = desktop.raised(apps.write(desktop.front, piece))
    return desktop


def _stroke(desktop: Desktop, window: Window, key: str, down: frozenset[str]) -> Desktop:
    """One key on the front window, while modifiers are down."""
    shift = "shift" in down
    if down & {"alt", "super"}:
        return replace(desktop, windows=desktop.windows[:-1]) if key == "F4" else desktop
    if "ctrl" in down:
        return _command(desktop, window, key.lower() if len(key) == 1 else key, shift=shift)
    written = character(key, shift=shift)
    if written == "\n" and window.typing == "entry":
        return _entered(desktop, window)
    return desktop.raised(apps.write(window, written) if written else apps.key(window, key, shift=shift))


def _command(desktop: Desktop, window: Window, key: str, *, shift: bool) -> Desktop:
    """A key while ctrl is held; the clipboard is the desktop's."""
    if key == "v":
        return desktop.raised(apps.write(window, desktop.clipboard))
    if key in ("c", "x"):
        desktop = replace(desktop, clipboard=window.focused.selected or desktop.clipboard)
        return desktop.raised(apps.write(window, "")) if key == "x" else desktop
    return desktop.raised(apps.key(window, f"ctrl+{key}", shift=shift))


def truth(desktop: Desktop) -> dict[str, Any]:
    """The whole state as JSON, for witnesses; no client of the desktop could see it so."""
    return {
        "screen": desktop.size,
        "cursor": desktop.cursor,
        "windows": [_described(window, focused=window is desktop.front) for window in desktop.windows],
        "focused": desktop.front.app if desktop.front else None,
        "clipboard": desktop.clipboard,
        "files": desktop.files,
        "menu": list(MENU) if desktop.menu else None,
        "held": sorted(desktop.held),
        "icons": {app: layout.icon(app) for app in APPS},
    }


def _described(window: Window, *, focused: bool) -> dict[str, Any]:
    shown = {"kind": window.app, "title": window.title, "rect": window.rect, "focused": focused}
    shown |= {"text": window.text.value, "entry": window.entry.value, "field": window.typing}
    shown |= {"selection": window.focused.selected, "scroll": window.scroll}
    if window.app == "calculator":
        return {**shown, "display": window.text.value or "0", "calculation": window.name}
    return {**shown, "address" if window.app == "browser" else "file": window.name}
