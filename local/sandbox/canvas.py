"""What every screen is drawn with. What never changes is drawn once and kept."""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

from local.sandbox.layout import Colour, Point, Rect, Size
from local.sandbox.text import font

INK: Colour = (32, 36, 48)
FAINT: Colour = (120, 128, 144)
FRONT: Colour = (226, 231, 241)
BEHIND: Colour = (242, 244, 248)
BLUE: Colour = (58, 110, 230)
SELECTION: Colour = (178, 208, 255)
WHITE: Colour = (255, 255, 255)
NIGHT: Colour = (24, 28, 52)
_SHADOW = 28
# App → the colours of its picture, and the letters on it.
_PICTURES = {
    "notepad": ((255, 205, 84), INK, "Aa"),
    "calculator": ((60, 70, 98), WHITE, "±"),
    "browser": ((54, 130, 240), WHITE, "@"),
    "notes": ((255, 205, 84), INK, "Aa"),
    "settings": ((104, 114, 136), WHITE, "#"),
}


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


class Canvas:
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
        """An app's icon."""
        colour, ink, letters = _PICTURES[app]
        self.plate(Rect(centre[0] - side // 2, centre[1] - side // 2, side, side), colour, side // 4)
        self.label(centre, letters, ink, size=side // 2)
