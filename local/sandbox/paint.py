"""Draws the desktop. A pure function of its state; what never changes is drawn once and kept."""

import io
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

from local.sandbox import apps, layout
from local.sandbox.desktop import MENU, Desktop
from local.sandbox.layout import ADDRESS, CLEAR, EQUALS, LINE, LINK, PAPER, Colour, Point, Rect, Size
from local.sandbox.text import Text, font

INK: Colour = (32, 36, 48)
FAINT: Colour = (120, 128, 144)
FRONT: Colour = (226, 231, 241)
BEHIND: Colour = (242, 244, 248)
BLUE: Colour = (58, 110, 230)
SELECTION: Colour = (178, 208, 255)
WHITE: Colour = (255, 255, 255)
NIGHT: Colour = (24, 28, 52)
_SHADOW = 28
_POINTER = ((0, 0), (0, 17), (4, 13), (7, 19), (10, 18), (7, 12), (12, 12))
# App → the colours of its picture, and the letters on it.
_PICTURES = {
    "notepad": ((255, 205, 84), INK, "Aa"),
    "calculator": ((60, 70, 98), WHITE, "±"),
    "browser": ((54, 130, 240), WHITE, "@"),
}
_HINTS = {"notepad": "File name (Ctrl+S, then Return saves)", "browser": "Search, or an address"}
_PAPERS = {("notepad", "text"): PAPER, ("browser", "entry"): ADDRESS}
_BUTTONS = {"C": CLEAR, "=": EQUALS}


def encode(desktop: Desktop, form: str = "webp") -> bytes:
    """The screen as a picture file without loss."""
    options = {"lossless": True, "quality": 30, "method": 0} if form == "webp" else {"compress_level": 1}
    file = io.BytesIO()
    render(desktop).save(file, form, **options)
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


@lru_cache(maxsize=4)
def _wallpaper(size: Size) -> Image.Image:
    """An evening sky in bands of plain colours, which compress well, over three hills."""
    w, h = 2 * size[0], 2 * size[1]
    image = Image.new("RGB", (w, h))
    canvas = ImageDraw.Draw(image)
    for band in range(48):
        colour = (38 + 4 * band, 46 + 2 * band, 112 + band // 2)
        canvas.rectangle((0, h * band // 64, w, h), colour)
    canvas.circle((w * 4 // 5, h * 9 // 20), h // 9, (255, 214, 168))
    canvas.ellipse((w // 3, h * 5 // 9, w * 3 // 2, h * 3 // 2), (128, 92, 152))
    canvas.ellipse((-w // 2, h * 5 // 8, w * 3 // 4, h * 3 // 2), (92, 74, 140))
    canvas.ellipse((w // 9, h * 3 // 4, w * 3 // 2, h * 3 // 2), (62, 58, 122))
    return image.reduce(2)


@lru_cache(maxsize=128)
def _rounded(w: int, h: int, radius: int) -> Image.Image:
    """The mask of a rectangle with smooth round corners."""
    mask = Image.new("L", (4 * w, 4 * h))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * w - 1, 4 * h - 1), 4 * radius, 255)
    return mask.reduce(4)


@lru_cache(maxsize=16)
def _panel(w: int, h: int, colour: Colour) -> Image.Image:
    """A plate over its shadow, which reaches `_SHADOW` pixels beyond it."""
    shadow = Image.new("L", (w + 2 * _SHADOW, h + 2 * _SHADOW))
    shadow.paste(110, (_SHADOW, _SHADOW + 6, _SHADOW + w, _SHADOW + 6 + h))
    image = Image.new("RGBA", shadow.size, NIGHT)
    image.putalpha(shadow.filter(ImageFilter.GaussianBlur(10)))
    image.paste(colour, (_SHADOW, _SHADOW), _rounded(w, h, 10))
    return image


class _Screen:
    """The picture as far as it is drawn, from back to front."""

    def __init__(self, size: Size) -> None:
        self.image = _wallpaper(size).copy()
        self.canvas = ImageDraw.Draw(self.image)

    def plate(self, rect: Rect, colour: Colour, radius: int = 6) -> None:
        self.image.paste(colour, rect[:2], _rounded(rect.w, rect.h, radius))

    def panel(self, rect: Rect, colour: Colour) -> None:
        panel = _panel(rect.w, rect.h, colour)
        self.image.paste(panel, (rect.x - _SHADOW, rect.y - _SHADOW), panel)

    def label(self, at: Point, text: str, colour: Colour = INK, anchor: str = "mm", size: int = 15) -> None:
        self.canvas.text(at, text, colour, font(size), anchor)

    def picture(self, app: str, centre: Point, side: int) -> None:
        colour, ink, letters = _PICTURES[app]
        self.plate(Rect(centre[0] - side // 2, centre[1] - side // 2, side, side), colour, side // 4)
        self.label(centre, letters, ink, size=side // 2)

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
