"""What pictures look like: alike as a person sees them, whoever drew or encoded them."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from local.sandbox import paint
from local.sandbox.desktop import Desktop, start, write
from worker.pictures import KEPT, Looks

PAGE = "The total is 7 apples and 3 pears.\n" * 6


def notepad(text: str) -> Desktop:
    return write(start(Desktop(), "notepad"), text, enter=False)


def calculator(text: str) -> Desktop:
    return write(start(Desktop(), "calculator"), text, enter=False)


def drawn(desktop: Desktop) -> Image.Image:
    return Image.open(io.BytesIO(paint.encode(desktop, "png"))).convert("RGB")


def encoded(image: Image.Image, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


ENCODINGS: dict[str, Callable[[Image.Image], bytes]] = {
    "lossless WebP": lambda image: encoded(image, "WEBP", lossless=True, quality=0, method=0),
    "WebP 90": lambda image: encoded(image, "WEBP", quality=90),
    "WebP 75": lambda image: encoded(image, "WEBP", quality=75),
    "JPEG 85": lambda image: encoded(image, "JPEG", quality=85),
}


@pytest.mark.parametrize("how", ENCODINGS)
@pytest.mark.parametrize(
    "desktop", [Desktop(), notepad(PAGE), calculator("3*14")], ids=["empty", "notepad", "calculator"]
)
def test_a_screen_is_the_same_however_it_is_encoded(desktop: Desktop, how: str) -> None:
    looks, image = Looks(), drawn(desktop)
    assert looks.name(encoded(image, "PNG")) == looks.name(ENCODINGS[how](image))


@pytest.mark.parametrize("how", ENCODINGS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (notepad(PAGE), notepad(PAGE.replace("7", "1", 1))),
        (notepad(PAGE), notepad(PAGE.replace("3", "8", 1))),
        (calculator("3"), calculator("8")),
        (Desktop(), start(Desktop(), "notepad")),
    ],
    ids=["7 and 1", "3 and 8", "display", "window"],
)
def test_a_digit_makes_a_difference(one: Desktop, other: Desktop, how: str) -> None:
    looks, encode = Looks(), ENCODINGS[how]
    assert looks.name(encode(drawn(one))) != looks.name(encode(drawn(other)))


@pytest.mark.parametrize("size", [12, 14, 18])
def test_any_two_digits_differ(size: int) -> None:
    looks, names, font = Looks(), [], ImageFont.load_default(size)
    for digit in "01234567"[:KEPT]:
        image = Image.new("RGB", (1280, 720), (240, 240, 240))
        ImageDraw.Draw(image).text((301, 203), digit, (60, 60, 60), font=font)
        names.append(looks.name(encoded(image, "PNG")))
    assert len(set(names)) == len(names)


def test_a_look_that_comes_back_has_its_name_again() -> None:
    looks = Looks()
    on, off = (encoded(drawn(notepad(text)), "PNG") for text in ("a", "b"))
    assert [looks.name(data) for data in (on, off, on, off)] == [looks.name(on), looks.name(off)] * 2


def test_slow_changes_add_up() -> None:
    looks = Looks()
    shades = [encoded(Image.new("L", (64, 64), shade), "PNG") for shade in range(0, 100, 5)]
    assert len({looks.name(data) for data in shades}) > 3


def test_other_sizes_are_other_looks() -> None:
    looks = Looks()
    sizes = ((64, 64), (64, 65), (1, 1), (2, 2))
    assert len({looks.name(encoded(Image.new("RGB", size), "PNG")) for size in sizes}) >= 3


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG that says of itself that it is huge."""
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


GOOD = encoded(Image.new("RGB", (320, 200), (9, 99, 199)), "PNG")
JUNK = {
    "nothing": b"",
    "text": b"<html>no picture</html>",
    "only the beginning": GOOD[:60],
    "a head": b"\x89PNG\r\n\x1a\n",
    "a warning's bomb": bomb(9_600),
    "a bomb": bomb(60_000),
    "too large": bomb(8_500),
    "cut JPEG": encoded(Image.new("RGB", (99, 99)), "JPEG")[:200],
    "cut WebP": encoded(drawn(notepad(PAGE)), "WEBP")[:900],
    "GIF": encoded(Image.new("P", (9, 9)), "GIF"),
    "broken chunk": GOOD.replace(b"IDAT", b"ID\xff\x00"),
}


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_picture_is_named_by_its_bytes(junk: str) -> None:
    looks, data = Looks(), JUNK[junk]
    assert looks.name(data) == looks.name(bytes(data))
    assert looks.name(data) != looks.name(data + b"\x00")


@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 80))
def test_damage_does_no_harm(noise: bytes, at: int, gap: int) -> None:
    assert Looks().name(GOOD[:at] + noise + GOOD[at + gap :])
