"""What the scripted model sees: the size of a screenshot, and where a colour is in it."""

import base64
import binascii
import io
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from urllib.parse import urlsplit

import gevent
from PIL import Image, ImageChops, UnidentifiedImageError

from local.sandbox.layout import Colour, Point, Rect, Size
from local.standin import LOOPBACK, Refused

FETCH_SECONDS = 5
MOST_BYTES = 10 << 20
PATCH = 4
FAR = 6  # pixels between two things of one colour


def invalid(reason: str) -> Refused:
    return Refused(400, "invalid_image", reason)


class Screen:
    """A screenshot, opened from its URL when it is first looked at."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    @cached_property
    def _image(self) -> Image.Image:
        if self._url is None:
            raise invalid("this instruction needs a screenshot")
        try:
            return Image.open(io.BytesIO(_bytes(self._url)))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
            raise invalid("the screenshot is no picture") from error

    @property
    def size(self) -> Size:
        return self._image.size

    @cached_property
    def _bands(self) -> tuple[Image.Image, ...]:
        try:
            return self._image.convert("RGB").split()
        except OSError as error:
            raise invalid("the screenshot is cut short") from error

    def _mask(self, colour: Colour) -> Image.Image:
        """White where the picture has exactly this colour."""
        same = [
            band.point([255 * (level == wanted) for level in range(256)])
            for band, wanted in zip(self._bands, colour, strict=True)
        ]
        return ImageChops.darker(ImageChops.darker(same[0], same[1]), same[2])

    def shows(self, colour: Colour) -> bool:
        return self._mask(colour).getbbox() is not None

    def find(self, colour: Colour) -> Rect | None:
        """The rectangle around every patch of this colour, to some pixels; a lone pixel is no patch."""
        patches = self._mask(colour).reduce(PATCH).point([0] * 255 + [255])
        rect = _around(patches)
        return rect and Rect(*(PATCH * measure for measure in rect))

    def rows(self, colour: Colour) -> list[Rect]:
        """The things of this colour from top to bottom, with a gap of some pixels between them."""
        mask = self._mask(colour)
        filled = [y for y, any_there in enumerate(mask.getprojection()[1]) if any_there]
        starts = [y for y, before in zip(filled, [-FAR, *filled], strict=False) if y - before >= FAR]
        found = []
        for top, bottom in pairwise([*starts, mask.height]):
            rect = _around(mask.crop((0, top, mask.width, bottom)))
            found += [Rect(rect.x, top, rect.w, rect.h)] if rect else []
        return found

    def point(self, pixel: Point) -> str:
        """A pixel in the model's own units: thousandths of the width and height."""
        x, y = (round(1000 * at / extent) for at, extent in zip(pixel, self.size, strict=True))
        return f"<point>{x} {y}</point>"


def _around(mask: Image.Image) -> Rect | None:
    box = mask.getbbox()
    return Rect(box[0], box[1], box[2] - box[0], box[3] - box[1]) if box else None


def _bytes(url: str) -> bytes:
    parts = urlsplit(url[:200])
    if parts.scheme == "data":
        try:
            return base64.b64decode(url.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise invalid("the screenshot is not base64") from error
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        raise invalid("a screenshot is a data URL, or an http URL of this machine")
    # In a thread: nothing here is patched, and a fetch would stop all other requests.
    return bytes(gevent.get_hub().threadpool.apply(_fetch, (parts.hostname, parts.port or 80, parts.path)))


def _fetch(host: str, port: int, path: str) -> bytes:
    connection = HTTPConnection(host, port, timeout=FETCH_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise invalid(f"the screenshot's address answered {answer.status}")
        return answer.read(MOST_BYTES)
    except (OSError, HTTPException) as error:
        raise invalid("the screenshot can't be fetched") from error
    finally:
        connection.close()
