"""One run's pictures: fetched once, shown to the model, compared, and put into the store."""

import asyncio
import io
import logging
from collections import OrderedDict
from hashlib import sha256
from typing import cast
from uuid import UUID, uuid4

from PIL import Image, ImageChops

from shared.errors import GuiAgentError, SandboxError
from shared.pictures import PictureStore
from shared.screenshots import Picture, ScreenshotFetcher, checked, picture
from worker.retries import retrying

log = logging.getLogger(__name__)

KEPT = 8
LARGEST_PIXELS = 64_000_000
CELL = 2
"""Pixels that are looked at as one, each way."""
TOLERANCE = 18
"""Of 255 shades: more than a lossy picture is off by, less than one digit's turning into another."""
CLOSE_SECONDS = 5.0


class Pictures:
    """Keeps the last few: each is sent to the model several times."""

    def __init__(self, fetcher: ScreenshotFetcher, job_id: UUID, store: PictureStore | None) -> None:
        self._fetcher = fetcher
        self._job_id = job_id
        self._store = store
        self._loaded: OrderedDict[str, asyncio.Task[Picture]] = OrderedDict()
        self._looks = Looks()
        self._named: dict[bytes, str] = {}
        self._storing: set[asyncio.Task[None]] = set()

    async def get(self, url: str, name: str | None = None) -> Picture:
        """A screenshot, from the store if it has that name there, or else from its address.

        Raises `SandboxError`, or `SandboxUnavailable` if it may come later.
        """
        task = self._loaded.get(url)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._loaded[url] = asyncio.ensure_future(self._load(url, name))
            if len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(url)
        return await asyncio.shield(task)  # others may wait for it, too

    async def fingerprint(self, url: str) -> str | None:
        """What the screenshot looks like, by its name among `Looks`; None if it can't be had."""
        try:
            data = (await self.get(url)).data
        except GuiAgentError as error:
            log.info("a screenshot is not compared: %s", error.message)
            return None
        digest = sha256(data).digest()
        if digest not in self._named:
            self._named[digest] = await asyncio.to_thread(self._looks.name, data)
        return self._named[digest]

    async def size(self, url: str) -> tuple[int, int]:
        """Width and height of the screenshot in pixels, where Lybic does not tell them.

        Raises `SandboxError` and its kin.
        """
        try:
            with Image.open(io.BytesIO((await self.get(url)).data)) as image:
                return image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            raise SandboxError("the size of the screen is not known: the screenshot can't be read") from None

    def keep(self, url: str) -> str | None:
        """Has the screenshot put into the store, and tells by which name; nobody waits for it."""
        if self._store is None:
            return None
        name = f"{self._job_id}/{uuid4().hex}"
        storing = asyncio.create_task(self._put(self._store, url, name))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return name

    async def close(self) -> None:
        """Gives the last pictures some time to reach the store."""
        if self._storing:
            await asyncio.wait(self._storing, timeout=CLOSE_SECONDS)

    async def _put(self, store: PictureStore, url: str, name: str) -> None:
        try:
            await store.put(name, (await self.get(url)).data)
        except GuiAgentError as error:
            log.info("a screenshot is not kept: %s", error.message)

    async def _load(self, url: str, name: str | None) -> Picture:
        if self._store is not None and name is not None:
            try:
                return picture(await self._store.get(name))
            except GuiAgentError as error:  # its address may still do
                log.info("%s", error.message)
        address = checked(url)
        return await retrying(lambda: self._fetcher.fetch(address))


class Looks:
    """Gives pictures names: the same name to pictures that a person would hardly tell apart.

    They are compared, with a tolerance: a hash of rounded shades would differ wherever a lossy picture moves
    one of them across the edge of its step.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Image.Image] = OrderedDict()

    def name(self, data: bytes) -> str:
        """The name of what the picture shows; of its bytes where they are no readable picture."""
        name, grid = sha256(data).hexdigest()[:16], _grid(data)
        if grid is None:
            return name
        name = next((known for known, other in self._known.items() if _alike(grid, other)), name)
        self._known.setdefault(name, grid)
        self._known.move_to_end(name)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return name


def _grid(data: bytes) -> Image.Image | None:
    """The picture's shades of grey, with a bit less detail."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            small_enough = image.width * image.height <= LARGEST_PIXELS
            return image.convert("L").reduce(CELL) if small_enough else None
    except Exception as error:  # noqa: BLE001 - the decoders raise almost anything for bytes that are none
        log.info("a screenshot can't be read: %s", type(error).__name__)
        return None


def _alike(one: Image.Image, other: Image.Image) -> bool:
    if one.size != other.size:
        return False
    _, most = cast(tuple[int, int], ImageChops.difference(one, other).getextrema())
    return most <= TOLERANCE
