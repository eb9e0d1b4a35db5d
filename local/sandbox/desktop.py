"""The simulated desktop: one immutable value, and what the mouse and the keyboard make of it.

Every function takes a desktop and returns the next one, so that a snapshot is a reference and costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from local.sandbox import apps, layout
from local.sandbox.apps import Window
from local.sandbox.keys import MODIFIERS, character
from local.sandbox.layout import Point, Rect, Size
from local.sandbox.text import Text

LEFT, RIGHT = 1, 2
MOST_FILES = 100
_TEXT_MENU = {"Cut": "ctrl+x", "Copy": "ctrl+c", "Paste": "ctrl+v", "Select all": "ctrl+a"}
_DESKTOP_MENU = ("Open Notepad", "Close all windows")


@dataclass(frozen=True, slots=True)
class Menu:
    """A context menu; its rows are 30 pixels high."""

    at: Point
    labels: tuple[str, ...]

    @property
    def rect(self) -> Rect:
        return Rect(*self.at, 180, 30 * len(self.labels) + 8)

    def row(self, number: int) -> Rect:
        return Rect(self.at[0] + 4, self.at[1] + 4 + 30 * number, 172, 30)


@dataclass(frozen=True, slots=True)
class Desktop:
    """`windows` from back to front; while `active` the last has the keyboard. `held` are modifiers."""

    size: Size = (1280, 720)
    cursor: Point = (640, 360)
    windows: tuple[Window, ...] = ()
    active: bool = False
    held: frozenset[str] = frozenset()
    clipboard: str = ""
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    chosen: str = ""
    menu: Menu | None = None

    @property
    def front(self) -> Window | None:
        return self.windows[-1] if self.windows and self.active else None

    @property
    def icons(self) -> dict[str, Rect]:
        """Name → place of everything that a double click opens: the apps, then the saved files."""
        names = (*layout.APPS, *self.files)
        return {name: layout.icon(self.size, index) for index, name in enumerate(names)}

    def topmost(self, point: Point) -> Window | None:
        return next((window for window in reversed(self.windows) if window.rect.has(point)), None)

    def changed(self, window: Window) -> "Desktop":
        """With another front window; a document that it asks to save is kept."""
        if not window.saving:
            return self if window is self.windows[-1] else replace(self, windows=(*self.windows[:-1], window))
        name = window.entry.value.strip()[:100]
        if not name:
            return self
        saved = replace(window, saving=False, typing="text", name=name)
        files = {**self.files, name: window.text.value}
        kept = MappingProxyType(dict(list(files.items())[-MOST_FILES:]))
        return replace(self, windows=(*self.windows[:-1], saved), files=kept)


def start(desktop: Desktop, app: str) -> Desktop:
    """Opens the app, or brings its window to the front: an app has one window."""
    present = next((window for window in desktop.windows if window.app == app), None)
    return _raised(desktop, present or apps.opened(app, layout.home(desktop.size, app)))


def _raised(desktop: Desktop, window: Window) -> Desktop:
    others = tuple(other for other in desktop.windows if other.app != window.app)
    return replace(desktop, windows=(*others, window), active=True, chosen="", menu=None)


def _closed(desktop: Desktop) -> Desktop:
    return replace(desktop, windows=desktop.windows[:-1], active=len(desktop.windows) > 1)


# The mouse. Points are pixels of the screen.


def move(desktop: Desktop, point: Point) -> Desktop:
    return replace(desktop, cursor=point)


def click(
    desktop: Desktop, point: Point, button: int = LEFT, count: int = 1, *, shift: bool = False
) -> Desktop:
    desktop, menu = replace(desktop, cursor=point, menu=None), desktop.menu
    if menu is not None and menu.rect.has(point):
        return _pick(desktop, menu, point)
    if button & LEFT:
        return _press(desktop, point, count, shift=shift)
    return _ask(desktop, point) if button & RIGHT else desktop


def _press(desktop: Desktop, point: Point, count: int, *, shift: bool) -> Desktop:
    if layout.taskbar(desktop.size).has(point):
        entries = (app for app in layout.APPS if layout.taskbar_entry(desktop.size, app).has(point))
        app = next(entries, None)
        return start(desktop, app) if app else desktop
    window = desktop.topmost(point)
    if window is None:
        return _press_wallpaper(desktop, point, count)
    desktop = _raised(desktop, window)
    if layout.close_box(window.rect).has(point):
        return _closed(desktop)
    return desktop.changed(apps.click(window, point, count, shift=shift))


def _press_wallpaper(desktop: Desktop, point: Point, count: int) -> Desktop:
    name = next((name for name, rect in desktop.icons.items() if rect.has(point)), "")
    if name and count > 1:
        return start(desktop, name) if name in layout.APPS else _open_file(desktop, name)
    return replace(desktop, active=False, chosen=name)


def _open_file(desktop: Desktop, name: str) -> Desktop:
    desktop = start(desktop, "notepad")
    window = desktop.windows[-1]
    return desktop.changed(
        replace(window, text=Text(desktop.files[name]), name=name, typing="text", scroll=0)
    )


def _ask(desktop: Desktop, point: Point) -> Desktop:
    window = desktop.topmost(point)
    if layout.taskbar(desktop.size).has(point) or (window and window.app == "calculator"):
        return desktop
    desktop = _raised(desktop, window) if window else replace(desktop, active=False)
    menu = Menu(point, tuple(_TEXT_MENU) if window else _DESKTOP_MENU)
    room = (desktop.size[0] - menu.rect.w, desktop.size[1] - menu.rect.h)
    return replace(desktop, menu=replace(menu, at=(min(point[0], room[0]), min(point[1], room[1]))))


def _pick(desktop: Desktop, menu: Menu, point: Point) -> Desktop:
    rows = (label for number, label in enumerate(menu.labels) if menu.row(number).has(point))
    label = next(rows, "")
    if label in _TEXT_MENU:
        return press(desktop, [_TEXT_MENU[label]])
    if label == "Open Notepad":
        return start(desktop, "notepad")
    return replace(desktop, windows=(), active=False) if label == "Close all windows" else desktop


def drag(desktop: Desktop, begin: Point, end: Point, button: int = LEFT) -> Desktop:
    """Moves a window by its title, or selects text; from anywhere else it only moves the cursor."""
    window = desktop.topmost(begin) if button & LEFT else None
    desktop = replace(desktop, cursor=end, menu=None)
    if window is None or layout.taskbar(desktop.size).has(begin):
        return desktop
    desktop = _raised(desktop, window)
    if layout.close_box(window.rect).has(begin):
        return desktop
    if layout.title(window.rect).has(begin):
        return desktop.changed(_moved(window, begin, end, desktop.size))
    return desktop.changed(_selected(window, begin, end))


def _moved(window: Window, begin: Point, end: Point, size: Size) -> Window:
    rect = window.rect
    x = max(80 - rect.w, min(size[0] - 80, rect.x + end[0] - begin[0]))
    y = max(0, min(size[1] - layout.TASKBAR - layout.TITLE, rect.y + end[1] - begin[1]))
    return replace(window, rect=Rect(x, y, rect.w, rect.h))


def _selected(window: Window, begin: Point, end: Point) -> Window:
    window = apps.click(window, begin, 1)
    rect, text = apps.field_at(window, begin), window.field
    if rect is None or text is None:
        return window
    ends = (apps.index_at(window, begin, rect), apps.index_at(window, end, rect))
    return window.edited(text.select(*ends))


def wheel(desktop: Desktop, point: Point, up: int) -> Desktop:
    """Scrolls what is under the point by three rows a step."""
    window = desktop.topmost(point)
    desktop = replace(desktop, cursor=point, menu=None)
    if window is None:
        return desktop
    scrolled = apps.wheel(window, -3 * up)
    return replace(desktop, windows=tuple(scrolled if each is window else each for each in desktop.windows))


# The keyboard. Keys have xdotool's names.


def hold(desktop: Desktop, key: str) -> Desktop:
    """Presses a key and leaves it down; only a modifier has an effect for as long as that."""
    if key in MODIFIERS:
        return replace(desktop, held=desktop.held | {MODIFIERS[key]})
    return press(desktop, [key])


def release(desktop: Desktop, key: str) -> Desktop:
    return replace(desktop, held=desktop.held - {MODIFIERS.get(key, key)})


def press(desktop: Desktop, keys: list[str]) -> Desktop:
    """Presses a combination such as `ctrl+c`, given as its keys."""
    parts = [part for key in keys for part in key.split("+")]
    down = desktop.held | {MODIFIERS[part] for part in parts if part in MODIFIERS}
    for part in parts:
        if part not in MODIFIERS:
            desktop = _stroke(desktop, part, down)
    return desktop


def write(desktop: Desktop, content: str, *, enter: bool) -> Desktop:
    """Types a text. With `enter` a new line in it presses Return, else it is a character of a document."""
    if desktop.held & {"ctrl", "alt"}:
        return _strokes(desktop, content)
    for number, piece in enumerate(content.split("\n") if enter else [content]):
        desktop = press(desktop, ["Return"]) if number else desktop
        if desktop.front is not None and piece:
            desktop = desktop.changed(apps.write(desktop.front, piece))
    return desktop


def _strokes(desktop: Desktop, content: str) -> Desktop:
    for key in content:
        desktop = _stroke(desktop, key, desktop.held)
    return desktop


def _stroke(desktop: Desktop, key: str, down: frozenset[str]) -> Desktop:
    if desktop.menu is not None and key == "Escape":
        return replace(desktop, menu=None)
    window = desktop.front
    if "alt" in down:
        return _alternate(desktop, key)
    if window is None or "super" in down:
        return desktop
    name = f"ctrl+{key}" if "ctrl" in down else key
    if name.lower() in ("ctrl+c", "ctrl+x", "ctrl+v"):
        return _clip(desktop, window, name[-1].lower())
    if name == "ctrl+w":
        return _closed(desktop)
    shift = "shift" in down
    written = character(name, shift=shift)
    return desktop.changed(apps.write(window, written) if written else apps.key(window, name, shift=shift))


def _alternate(desktop: Desktop, key: str) -> Desktop:
    if key == "F4" and desktop.front is not None:
        return _closed(desktop)
    if key == "Tab" and len(desktop.windows) > 1:
        return _raised(desktop, desktop.windows[-2])
    return desktop


def _clip(desktop: Desktop, window: Window, letter: str) -> Desktop:
    text = window.field
    if text is None:
        return desktop
    if letter == "v":
        return desktop.changed(apps.write(window, desktop.clipboard))
    if not text.selected:
        return desktop
    desktop = replace(desktop, clipboard=text.selected)
    return desktop.changed(window.edited(text.insert(""))) if letter == "x" else desktop


def truth(desktop: Desktop) -> dict[str, Any]:
    """The whole state as JSON, for witnesses; no client of the desktop could see it so."""
    return {
        "screen": list(desktop.size),
        "cursor": list(desktop.cursor),
        "windows": [_described(window, focused=window is desktop.front) for window in desktop.windows],
        "focused": desktop.front.app if desktop.front else None,
        "clipboard": desktop.clipboard,
        "files": dict(desktop.files),
        "menu": list(desktop.menu.labels) if desktop.menu else None,
        "held": sorted(desktop.held),
        "icons": {name: list(rect) for name, rect in desktop.icons.items()},
    }


def _described(window: Window, *, focused: bool) -> dict[str, Any]:
    text = window.field
    shown = {
        "kind": window.app,
        "title": window.title,
        "rect": list(window.rect),
        "focused": focused,
        "text": window.text.value,
        "entry": window.entry.value,
        "field": window.typing,
        "selection": text.selected if text else "",
        "scroll": apps.first_row(window),
    }
    if window.app == "calculator":
        return {**shown, "display": window.text.value or "0", "calculation": window.name}
    return {**shown, "address": window.name} if window.app == "browser" else {**shown, "file": window.name}
