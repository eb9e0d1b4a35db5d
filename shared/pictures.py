"""The store of screenshots: a folder, or a bucket by its URL. What a run saw, until it is too old."""

import asyncio
import re
from contextlib import suppress
from uuid import UUID

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from shared.errors import ConfigurationError, PictureNotFound, PicturesUnavailable
from shared.settings import PictureSettings

MAGIC = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""The types that a model is shown, and how their bytes begin."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Left to themselves the clients of buckets try for minutes.
GET_SECONDS = 10.0
PUT_SECONDS = 30.0
REMOVE_SECONDS = 60.0
REMOVALS = 5
"""Rounds, where others remove the same at the same time."""


def kind_of(data: bytes) -> str | None:
    """The type, `image/…`, of a picture by how its bytes begin; None if it is none of ours."""
    return next((kind for kind, magic in MAGIC.items() if magic.match(data)), None)


class PictureStore:
    """Pictures by their names, `JOB/…`. Its calls run on the portal's thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def connect(cls, settings: PictureSettings) -> "PictureStore | None":
        """The configured store; None where pictures are not kept. Raises `ConfigurationError`."""
        if settings.store is None:
            return None
        try:
            if "://" in settings.store:
                return cls(from_url(settings.store))
            return cls(LocalStore(settings.store, mkdir=True, automatic_cleanup=True))
        except (BaseError, OSError, ValueError):
            raise ConfigurationError(
                "SCREENSHOT_STORE is neither a folder that can be written nor a URL such as s3://bucket/prefix"
            ) from None

    async def put(self, name: str, data: bytes) -> None:
        """Keeps a picture. Raises `PicturesUnavailable`."""
        try:
            async with asyncio.timeout(PUT_SECONDS):
                await obstore.put_async(self._store, _checked(name), data)
        except (BaseError, OSError) as error:
            raise PicturesUnavailable(f"a screenshot can't be kept ({type(error).__name__})") from None

    async def get(self, name: str) -> bytes:
        """A picture. Raises `PictureNotFound` and `PicturesUnavailable`."""
        try:
            async with asyncio.timeout(GET_SECONDS):
                found = await obstore.get_async(self._store, _checked(name))
                return bytes(await found.bytes_async())
        except FileNotFoundError:
            raise PictureNotFound(f"there is no screenshot {name[:100]}") from None
        except (BaseError, OSError) as error:
            raise PicturesUnavailable(f"the screenshots can't be read ({type(error).__name__})") from None

    async def remove(self, job_id: UUID) -> None:
        """Forgets the pictures of a job. Raises `PicturesUnavailable`."""
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                for _ in range(REMOVALS):
                    if await self._removed(str(job_id)):
                        return
        except (BaseError, OSError) as error:
            raise PicturesUnavailable(f"screenshots can't be removed ({type(error).__name__})") from None
        raise PicturesUnavailable("screenshots can't be removed (others do the same)")

    async def _removed(self, prefix: str) -> bool:
        """Whether all went; not if the folder went while it was read, since somebody else removes it, too."""
        try:
            async for page in obstore.list(self._store, prefix=prefix):
                names = [one["path"] for one in page]
                try:
                    await obstore.delete_async(self._store, names)
                except FileNotFoundError:  # which ends it there: some of the others may still be
                    for name in names:
                        with suppress(FileNotFoundError):
                            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return False
        return True


def _checked(name: str) -> str:
    """The name, if it is one that pictures have. Raises `PictureNotFound`."""
    if not all(map(NAME.fullmatch, name.split("/", 1))):
        raise PictureNotFound("there is no screenshot of such a name")
    return name
