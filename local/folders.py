"""Folders of our own, each in use by one process at a time, and the secrets that lie in them."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from local.processes import POLL_SECONDS, is_alive
from shared.errors import ConfigurationError

LOCK_SECONDS = 15  # how long a server may go on after the death of whoever started it
YOUNG_SECONDS = 2
TEMPORARY_PREFIX = "lybic-guiagent-"


class Folder:
    """A folder that is ours: a mark in it says so, which is locked by the one process that uses it."""

    MARK = ".lybic-guiagent"

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._mark: int | None = None

    def fileno(self) -> int:
        """The lock's file descriptor. A child that inherits it holds the lock as long as it lives."""
        if self._mark is None:
            raise ValueError(f"{self.path} is not claimed")
        return self._mark

    def make(self) -> Path:
        """Makes and marks the folder. Raises `ConfigurationError` if it holds what is not ours."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = not (self.path / self.MARK).exists() and self._entries()
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be used: {error.strerror}") from error
        if foreign:
            raise ConfigurationError(f"{self.path} holds other files: name a folder that is new or empty")
        (self.path / self.MARK).touch(mode=0o600)
        return self.path

    def claim(self, patience: float = LOCK_SECONDS) -> None:
        """Makes and locks the folder. Raises `ConfigurationError` if others use it, or if it is not ours."""
        self.make()
        mark = os.open(self.path / self.MARK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(mark, time.monotonic() + patience)
        except BaseException:
            os.close(mark)
            raise
        _overwrite(mark, str(os.getpid()))
        self._mark = mark

    def release(self) -> None:
        """Unlocks the folder, as far as no child holds on to it."""
        if self._mark is not None:
            _overwrite(self._mark, "")
            os.close(self._mark)
            self._mark = None

    def remove(self) -> None:
        """Removes the claimed folder and all that is in it; the mark goes last, so that a rest stays ours."""
        self.empty(self._entries())
        with suppress(OSError):
            if not self._entries():
                (self.path / self.MARK).unlink()
                self.path.rmdir()
        self.release()

    def empty(self, names: Iterable[str]) -> None:
        """Removes these entries of the claimed folder."""
        for name in names:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def _entries(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir() if entry.name != self.MARK]

    def _lock(self, mark: int, deadline: float) -> None:
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = self._holder()
            # A holder that is gone left a server behind, which is about to end as well.
            if time.monotonic() > deadline or is_alive(holder):
                raise ConfigurationError(f"{self.path} is in use by process {holder or 'unknown'}")
            time.sleep(POLL_SECONDS)

    def _holder(self) -> int:
        with suppress(ValueError, OSError):
            return int((self.path / self.MARK).read_text())
        return 0


def temporary_folder(place: Path | None = None) -> Folder:
    """A claimed folder that is to be removed after use; `remove_abandoned` does it where we were killed."""
    folder = Folder(Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=place)))
    folder.claim()
    return folder


def remove_abandoned() -> None:
    """Removes temporary folders of ours whose processes were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError, ConfigurationError):
            mark = (path / Folder.MARK).lstat()
            # Anybody may write there: a link, or the folder of somebody else, is not ours to remove.
            ours = path.lstat().st_uid == mark.st_uid == os.geteuid()
            # One that is being made has a mark already, and its lock in a moment.
            if ours and time.time() - mark.st_mtime > YOUNG_SECONDS:
                folder = Folder(path)
                folder.claim(patience=0)
                folder.remove()


def keep_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in the file, which only we may read; made at first."""
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with open(new, "w", opener=_private) as file:
            file.write(make())
        with suppress(FileExistsError):  # another process was faster: its secret is the one
            os.link(new, path)
        new.unlink()
    return path.read_text().strip()


def _overwrite(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
