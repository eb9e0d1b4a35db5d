"""Draws what a device shows, which is a pure function of its state; the desktop's picture is here."""

import io

from PIL import Image

from local.sandbox import apps, layout, phone_paint
from local.sandbox.canvas import BEHIND, BLUE, FAINT, FRONT, INK, NIGHT, SELECTION, WHITE, Canvas
from local.sandbox.desktop import MENU, Desktop
from local.sandbox.layout import ADDRESS, CLEAR, EQUALS, LINE, LINK, PAPER, Rect
from local.sandbox.phone import Phone
from local.sandbox.text import Text

_POINTER = ((0, 0), (0, 17), (4, 13), (7, 19), (10, 18), (7, 12), (12, 12))
_HINTS = {"notepad": "File name (Ctrl+S, then Return saves)", "browser": "Search, or an address"}
_PAPERS = {("notepad", "text"): PAPER, ("browser", "entry"): ADDRESS}
_BUTTONS = {"C": CLEAR, "=": EQUALS}


def encode(device: Desktop | Phone, form: str = "webp") -> bytes:
    """The screen as a picture file without loss."""
    options = {"lossless": True, "quality": 30, "method": 0} if form == "webp" else {"compress_level": 1}
    file = io.BytesIO()
    picture = phone_paint.render(device) if isinstance(device, Phone) else render(device)
    picture.save(file, form, **options)
    return file.getvalue()


def render(desktop: Desktop) -> Image.Image:
    screen = _Screen(desktop.size)
    for app in layout.APPS:
        screen.icon(app)
    for window in desktop.windows:
        screen.window(window, active=window is desktop.front)
    screen.taskbar(desktop)
    if desktop.menu:
        screen.menu(desktop.menu)
    x, y = desktop.cursor
    screen.canvas.polygon([(x + right, y + down) for right, down in _POINTER], WHITE, INK)
    return screen.image


class _Screen(Canvas):
    """The picture of a desktop."""

    def icon(self, app: str) -> None:
        x, y = layout.icon(app).centre
        self.picture(app, (x, y - 12), 48)
        self.label((x, y + 30), layout.TITLES[app], WHITE)

    def taskbar(self, desktop: Desktop) -> None:
        w, h = desktop.size
        self.canvas.rectangle((0, h - layout.TASKBAR, w, h), NIGHT)
        self.label((w - 18, h - layout.TASKBAR // 2), "Simulated desktop", FAINT, "rm")
        for app in layout.APPS:
            rect = layout.taskbar_entry(desktop.size, app)
            self.picture(app, rect.centre, 36)
            if any(window.app == app for window in desktop.windows):
                self.plate(rect.part(12, 42, 12, -2), BLUE, 1)

    def menu(self, rect: Rect) -> None:
        self.panel(rect, WHITE)
        for number, label in enumerate(MENU):
            row = layout.menu_row(rect, number)
            self.label((row.x + 12, row.centre[1]), label, anchor="lm")

    def window(self, window: apps.Window, *, active: bool) -> None:
        rect, ink = window.rect, INK if active else FAINT
        self.panel(rect, FRONT if active else BEHIND)
        self.picture(window.app, (rect.x + 22, rect.y + 18), 20)
        self.label((rect.x + 40, rect.y + 18), window.title[:60], ink, "lm")
        self.label(layout.close_box(rect).centre, "x", ink, size=20)
        for field, place in layout.fields(window.app, rect).items():
            self.plate(place, _PAPERS.get((window.app, field), WHITE))
            if window.app != "calculator":
                self.text(window, field, caret=active and window.typing == field)
        if window.app == "calculator":
            self.calculator(window)

    def text(self, window: apps.Window, field: str, *, caret: bool) -> None:
        """The rows of a field that are in view, with the selection and maybe the caret."""
        area, page = window.area(field), (window.app, field) == ("browser", "text")
        text: Text = getattr(window, field)
        begin, end = text.span
        for number, row in enumerate(window.visible(field)):
            y = area.y + LINE * number
            if max(begin, row.first) < min(end, row.last + 1):
                self.canvas.rectangle((area.x + row.x(begin), y, area.x + row.x(end), y + 20), SELECTION)
            if field == "entry" and not text.value:
                self.label((area.x, y + 1), _HINTS[window.app], FAINT, "la")
            ink = LINK if page and row.text.startswith(apps.LINK) else INK
            heading = page and not row.first and row.x(row.last) < 0.6 * area.w
            self.label((area.x, y + 1), row.text, ink, "la", 24 if heading else 15)
            if caret and not page and row.first <= text.caret <= row.last:
                x = area.x + row.x(text.caret)
                self.canvas.rectangle((x, y + 1, x + 1, y + 19), BLUE)

    def calculator(self, window: apps.Window) -> None:
        rect, shown = window.rect, window.text.value or "0"
        right = rect.x + rect.w - 26
        self.label((right, rect.y + 62), window.name[-34:], FAINT, "rm")
        self.label((right, rect.y + 96), shown[-34:], INK, "rm", 32 if len(shown) <= 14 else 15)
        for label in dict.fromkeys(layout.BUTTONS):
            button = layout.button(rect, label)
            self.plate(button, _BUTTONS.get(label, WHITE))
            self.label(button.centre, "Back" if label == "<" else label, WHITE if label in _BUTTONS else INK)
