"""Lybic's lengths as pixels of a screen."""

from typing import Any

from lybic import action as lybic

from local.sandbox.layout import Point, Size


def pixels(length: Any, extent: int) -> int:
    """A length as so many pixels."""
    if isinstance(length, lybic.PixelLength):
        return int(length.value)
    if length.denominator <= 0:
        raise ValueError("a denominator is positive")
    return int((2 * extent * length.numerator + length.denominator) // (2 * length.denominator))


def point(size: Size, x: Any, y: Any, origin: Point = (0, 0)) -> Point:
    return _pixel(x, size[0], origin[0]), _pixel(y, size[1], origin[1])


def _pixel(length: Any, extent: int, origin: int) -> int:
    """The very end of a fraction is the last pixel; beyond the screen is an error."""
    at = origin + pixels(length, extent)
    at -= at == extent and not isinstance(length, lybic.PixelLength)
    if not 0 <= at < extent:
        raise ValueError(f"pixel {at} is outside of the screen, which has {extent}")
    return at
