"""Draws the desktop. A pure function of its state; what never changes is drawn once and kept."""

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from local.sandbox import apps, layout
from local.sandbox.apps import Window
from local.sandbox.desktop import Desktop, Menu
from local.sandbox.layout import Colour, Point, Rect, Size
from local.sandbox.text import FONT, Text, font, wrap

Canvas = ImageDraw.ImageDraw

INK: Colour = (32, 36, 48)
FAINT: Colour = (120, 128, 144)
PANE: Colour = (249, 250, 252)
STRIP: Colour = (228, 232, 240)
BLUE: Colour = (58, 110, 230)
SELECTION: Colour = (178, 208, 255)
WHITE: Colour = (255, 255, 255)
NIGHT: Colour = (24, 28, 48)
_SMALL, _HEADING, _DISPLAY = font(12), font(24), font(32)
_MARGIN = 28


def encode(desktop: Desktop, form: Literal["webp", "png"] = "webp") -> bytes:
    """The screen as a picture file without loss."""
    file = io.BytesIO()
    if form == "webp":
        render(desktop).save(file, "WEBP", lossless=True, quality=30, method=0)
    else:
        render(desktop).save(file, "PNG", compress_level=1)
    return file.getvalue()


def render(desktop: Desktop) -> Image.Image:
    image = _wallpaper(desktop.size).copy()
    canvas = ImageDraw.Draw(image)
    for name, rect in desktop.icons.items():
        _icon(image, canvas, name, rect, chosen=name == desktop.chosen)
    for window in desktop.windows:
        _window(image, canvas, window, active=window is desktop.front)
    _taskbar(image, canvas, desktop)
    if desktop.menu is not None:
        _menu(image, canvas, desktop.menu, desktop.cursor)
    _pointer(canvas, desktop.cursor)
    return image


# What never changes.


_SKY: tuple[Colour, Colour] = ((38, 46, 112), (236, 150, 132))
# Ridges from far to near: height, depth of the wave, waves on the screen, shift, colour.
_RIDGES: tuple[tuple[float, float, float, float, Colour], ...] = (
    (0.62, 0.05, 1.3, 0.2, (128, 92, 152)),
    (0.70, 0.07, 0.9, 2.4, (92, 74, 140)),
    (0.79, 0.05, 1.6, 4.1, (62, 58, 122)),
    (0.88, 0.04, 1.1, 0.9, (40, 44, 98)),
)


@lru_cache(maxsize=4)
def _wallpaper(size: Size) -> Image.Image:
    """A sky and ridges of plain colours, which compress well; drawn at twice the size for smooth edges."""
    image = Image.new("RGB", (2 * size[0], 2 * size[1]))
    canvas = ImageDraw.Draw(image)
    _sky(canvas, image.size)
    for ridge in _RIDGES:
        _ridge(canvas, image.size, *ridge)
    image = image.resize(size, Image.Resampling.BOX)
    _blend(image, layout.taskbar(size), NIGHT, 215)
    text = "Simulated desktop"
    place = (size[0] - 18 - FONT.getlength(text), size[1] - layout.TASKBAR + 19)
    ImageDraw.Draw(image).text(place, text, (196, 204, 224), FONT)
    return image


def _sky(canvas: Canvas, size: Size) -> None:
    bands, deep = 48, size[1] * 3 // 4
    for band in range(bands):
        part = band / bands
        red, green, blue = (round(top + (low - top) * part) for top, low in zip(*_SKY, strict=True))
        canvas.rectangle((0, deep * band // bands, size[0], size[1]), (red, green, blue))
    radius = size[1] // 9
    x, y = size[0] * 4 // 5, size[1] * 9 // 20
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (255, 214, 168))


def _ridge(
    canvas: Canvas, size: Size, height: float, wave: float, waves: float, shift: float, colour: Colour
) -> None:
    turn = 2 * math.pi * waves / size[0]
    points = [
        (x, round(size[1] * (height + wave * math.sin(x * turn + shift) * math.cos(x * turn / 3))))
        for x in range(0, size[0] + 8, 8)
    ]
    canvas.polygon([*points, (size[0], size[1]), (0, size[1])], colour)


def _blend(image: Image.Image, rect: Rect, colour: Colour, alpha: int) -> None:
    image.paste(colour, (rect.x, rect.y), Image.new("L", (rect.w, rect.h), alpha))


@lru_cache(maxsize=64)
def _rounded(w: int, h: int, radius: int) -> Image.Image:
    """The mask of a rectangle with smooth round corners."""
    corner = Image.new("L", (8 * radius, 8 * radius))
    ImageDraw.Draw(corner).ellipse((0, 0, 8 * radius - 1, 8 * radius - 1), 255)
    disc = corner.resize((2 * radius, 2 * radius), Image.Resampling.BOX)
    mask = Image.new("L", (w, h), 255)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        quarter = disc.crop((x * radius, y * radius, (x + 1) * radius, (y + 1) * radius))
        mask.paste(quarter, (x * (w - radius), y * (h - radius)))
    return mask


@lru_cache(maxsize=32)
def _panel(w: int, h: int, strip: Colour | None = None) -> Image.Image:
    """An empty window or panel; its shadow reaches `_MARGIN` beyond it. `strip` colours the title."""
    image = Image.new("RGBA", (w + 2 * _MARGIN, h + 2 * _MARGIN))
    shadow = Image.new("L", image.size)
    shadow.paste(110, (_MARGIN, _MARGIN + 6, _MARGIN + w, _MARGIN + h + 6))
    image.putalpha(shadow.filter(ImageFilter.GaussianBlur(10)))
    image.paste(PANE if strip else WHITE, (_MARGIN, _MARGIN), _rounded(w, h, 10))
    if strip:
        image.paste(strip, (_MARGIN, _MARGIN), _rounded(w, layout.TITLE + 10, 10))
        ImageDraw.Draw(image).rectangle(
            (_MARGIN, _MARGIN + layout.TITLE, _MARGIN + w - 1, _MARGIN + layout.TITLE + 10), PANE
        )
    return image


def _lay(image: Image.Image, rect: Rect, strip: Colour | None = None) -> None:
    panel = _panel(rect.w, rect.h, strip)
    image.paste(panel, (rect.x - _MARGIN, rect.y - _MARGIN), panel)


@lru_cache(maxsize=32)
def _glyph(kind: str, side: int) -> Image.Image:
    """The picture of an app or a file, drawn large and reduced."""
    image = Image.new("RGBA", (256, 256))
    _GLYPHS.get(kind, _draw_file)(ImageDraw.Draw(image))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _draw_notepad(canvas: Canvas) -> None:
    canvas.rounded_rectangle((36, 16, 220, 240), 24, (255, 205, 84))
    canvas.rounded_rectangle((36, 50, 220, 240), 20, (250, 250, 246))
    for row in range(4):
        canvas.rounded_rectangle(
            (64, 84 + 36 * row, 192 - 48 * (row == 3), 96 + 36 * row), 6, (150, 160, 180)
        )


def _draw_calculator(canvas: Canvas) -> None:
    canvas.rounded_rectangle((36, 16, 220, 240), 28, (52, 60, 84))
    canvas.rounded_rectangle((60, 40, 196, 90), 12, (188, 226, 212))
    for row in range(3):
        for column in range(3):
            colour = (240, 140, 50) if column == 2 else (206, 212, 226)
            x, y = 60 + 50 * column, 108 + 42 * row
            canvas.rounded_rectangle((x, y, x + 36, y + 30), 8, colour)


def _draw_browser(canvas: Canvas) -> None:
    canvas.ellipse((20, 20, 236, 236), (54, 130, 240))
    for inset in (20, 76):
        canvas.ellipse((inset, 20, 256 - inset, 236), outline=(226, 240, 255), width=10)
    canvas.line((128, 24, 128, 232), (226, 240, 255), 10)
    for y in (84, 128, 172):
        canvas.line((38, y, 218, y), (226, 240, 255), 10)


def _draw_file(canvas: Canvas) -> None:
    canvas.polygon(((52, 16), (160, 16), (208, 64), (208, 240), (52, 240)), (246, 248, 252))
    canvas.polygon(((160, 16), (208, 64), (160, 64)), (190, 200, 220))
    for row in range(4):
        canvas.rounded_rectangle((80, 96 + 32 * row, 180, 106 + 32 * row), 5, (150, 162, 186))


_GLYPHS: dict[str, Callable[[Canvas], None]] = {
    "notepad": _draw_notepad,
    "calculator": _draw_calculator,
    "browser": _draw_browser,
}


# The parts of the screen.


def _centred(canvas: Canvas, point: Point, text: str, colour: Colour) -> None:
    canvas.text(point, text, colour, FONT, anchor="mm")


def _icon(image: Image.Image, canvas: Canvas, name: str, rect: Rect, *, chosen: bool) -> None:
    if chosen:
        _blend(image, rect, WHITE, 60)
    glyph = _glyph(name if name in layout.APPS else "file", 52)
    image.paste(glyph, (rect.centre[0] - 26, rect.y + 8), glyph)
    label = layout.TITLES.get(name, name)
    label = label if len(label) <= 12 else f"{label[:10]}..."
    for offset, colour in ((1, (10, 12, 30)), (0, WHITE)):
        _centred(canvas, (rect.centre[0] + offset, rect.y + 76 + offset), label, colour)


def _taskbar(image: Image.Image, canvas: Canvas, desktop: Desktop) -> None:
    bar = layout.taskbar(desktop.size)
    image.paste(_wallpaper(desktop.size).crop((bar.x, bar.y, bar.x + bar.w, bar.y + bar.h)), (bar.x, bar.y))
    present = [window.app for window in desktop.windows]
    for app in layout.APPS:
        rect = layout.taskbar_entry(desktop.size, app)
        front = desktop.front is not None and desktop.front.app == app
        if front:
            _blend(image, rect, WHITE, 40)
        glyph = _glyph(app, 34)
        image.paste(glyph, (rect.x + 5, rect.y + 3), glyph)
        if app in present:
            half = 10 if front else 4
            middle = rect.centre[0]
            canvas.rounded_rectangle(
                (middle - half, rect.y + 40, middle + half, rect.y + 43), 2, (120, 180, 255)
            )


def _window(image: Image.Image, canvas: Canvas, window: Window, *, active: bool) -> None:
    rect = window.rect
    _lay(image, rect, STRIP if active else (240, 242, 246))
    glyph = _glyph(window.app, 20)
    image.paste(glyph, (rect.x + 12, rect.y + 8), glyph)
    title = window.title if len(window.title) < 60 else f"{window.title[:57]}..."
    canvas.text((rect.x + 40, rect.y + 18), title, INK if active else FAINT, FONT, anchor="lm")
    x, y = layout.close_box(rect).centre
    canvas.line((x - 5, y - 5, x + 5, y + 5), INK if active else FAINT, 2)
    canvas.line((x - 5, y + 5, x + 5, y - 5), INK if active else FAINT, 2)
    match window.app:
        case "notepad":
            _notepad(image, canvas, window, active=active)
        case "browser":
            _browser(canvas, window, active=active)
        case "calculator":
            _calculator(image, canvas, window)


def _notepad(image: Image.Image, canvas: Canvas, window: Window, *, active: bool) -> None:
    _push(image, canvas, layout.save_button(window.rect), "Save", BLUE, WHITE)
    canvas.rectangle(layout.sheet(window.rect).box, layout.PAPER)
    rect = layout.writing(window.rect)
    lines, first = wrap(window.text.value, rect.w), apps.first_row(window)
    for row, line in enumerate(lines[first : first + rect.h // layout.LINE]):
        last = first + row + 1 == len(lines)
        place = (rect.x, rect.y + row * layout.LINE)
        _line(
            canvas,
            place,
            line.start,
            line.text,
            window.text,
            caret=active and window.typing == "text",
            last=last,
        )
    status = f"Characters: {len(window.text.value)}   Lines: {len(lines)}"
    canvas.text((rect.x, window.rect.y + window.rect.h - 13), status, FAINT, _SMALL, anchor="lm")
    if window.typing == "entry":
        _save_as(image, canvas, window, active=active)


def _save_as(image: Image.Image, canvas: Canvas, window: Window, *, active: bool) -> None:
    panel = layout.dialog(window.rect)
    _lay(image, panel)
    canvas.text((panel.x + 18, panel.y + 22), "Save as", INK, FONT, anchor="lm")
    _field(canvas, layout.name_field(window.rect), window.entry, WHITE, caret=active)
    _push(image, canvas, layout.name_button(window.rect), "Save", BLUE, WHITE)


def _calculator(image: Image.Image, canvas: Canvas, window: Window) -> None:
    area = layout.display(window.rect)
    image.paste((234, 240, 246), (area.x, area.y), _rounded(area.w, area.h, 8))
    right = area.x + area.w - 12
    canvas.text((right, area.y + 18), window.name[-34:], FAINT, FONT, anchor="rm")
    shown = window.text.value or "0"
    size = _DISPLAY if len(shown) <= 14 else FONT
    canvas.text((right, area.y + 52), shown[-34:], INK, size, anchor="rm")
    for label in layout.BUTTONS:
        colour = {"C": layout.CLEAR, "=": layout.EQUALS}.get(
            label, WHITE if label.isdigit() else (214, 222, 236)
        )
        name = "Back" if label == "<" else label
        _push(image, canvas, layout.button(window.rect, label), name, colour, WHITE if label in "C=" else INK)


def _browser(canvas: Canvas, window: Window, *, active: bool) -> None:
    _field(
        canvas,
        layout.address_field(window.rect),
        window.entry,
        layout.ADDRESS,
        caret=active and window.typing == "entry",
    )
    canvas.rectangle(window.rect.part(1, layout.TITLE + 46, 1, 10).box, WHITE)
    rect, first = layout.page(window.rect), apps.first_row(window)
    for number, row in enumerate(apps.page(window.name)[first : first + rect.h // layout.LINE]):
        colour, style = _STYLES[row.kind]
        text = row.text[:100]
        place = (rect.x, rect.y + number * layout.LINE)
        canvas.text(place, text, colour, style)
        if row.kind == "link":
            width = round(FONT.getlength(text))
            canvas.line((place[0], place[1] + 18, place[0] + width, place[1] + 18), layout.LINK)


_STYLES: dict[str, tuple[Colour, ImageFont.FreeTypeFont]] = {
    "heading": (INK, _HEADING),
    "text": ((70, 76, 92), FONT),
    "url": ((30, 120, 70), _SMALL),
    "link": (layout.LINK, FONT),
}


def _push(image: Image.Image, canvas: Canvas, rect: Rect, label: str, colour: Colour, ink: Colour) -> None:
    """A button. Its middle rows have the pure colour to the left and right of the label."""
    if colour == WHITE:
        image.paste((222, 227, 236), (rect.x, rect.y + 1), _rounded(rect.w, rect.h, 6))
    image.paste(colour, (rect.x, rect.y), _rounded(rect.w, rect.h, 6))
    _centred(canvas, rect.centre, label, ink)


def _field(canvas: Canvas, rect: Rect, text: Text, colour: Colour, *, caret: bool) -> None:
    outline = BLUE if caret else (204, 210, 222)
    canvas.rounded_rectangle(rect.box, 6, colour, outline)
    _line(canvas, (rect.x + 8, rect.y + rect.h // 2 - 10), 0, text.value[:200], text, caret=caret, last=True)


def _line(canvas: Canvas, at: Point, start: int, shown: str, text: Text, *, caret: bool, last: bool) -> None:
    """One line of an editable text, with its part of the selection and the caret."""
    begin, end = (max(0, min(len(shown), index - start)) for index in text.span)
    if begin < end:
        left, right = at[0] + FONT.getlength(shown[:begin]), at[0] + FONT.getlength(shown[:end])
        canvas.rectangle((left, at[1], right, at[1] + 20), SELECTION)
    canvas.text((at[0], at[1] + 1), shown, INK, FONT)
    column = text.caret - start
    if caret and 0 <= column <= len(shown) - (not last and shown.endswith(" ")):
        x = at[0] + round(FONT.getlength(shown[:column]))
        canvas.rectangle((x, at[1] + 1, x + 1, at[1] + 19), BLUE)


def _menu(image: Image.Image, canvas: Canvas, menu: Menu, cursor: Point) -> None:
    rect = menu.rect
    _lay(image, rect)
    for number, label in enumerate(menu.labels):
        row = menu.row(number)
        if row.has(cursor):
            canvas.rounded_rectangle(row.box, 6, (232, 238, 250))
        canvas.text((row.x + 12, row.y + 15), label, INK, FONT, anchor="lm")


_ARROW = ((0, 0), (0, 17), (4, 13), (7, 19), (10, 18), (7, 12), (12, 12))


def _pointer(canvas: Canvas, at: Point) -> None:
    canvas.polygon([(at[0] + x, at[1] + y) for x, y in _ARROW], WHITE, (20, 22, 30))
