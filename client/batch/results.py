"""The results file of a batch: JSON lines, one for each row that ended, only ever added to.

Beside it lies `NAME.batch`, which says what the batch is called and which rows it was begun with. That is on
the disk before the first row is submitted: whoever goes on later submits the same rows under the same keys.
The results need not be, as those that a crash took away are asked for again.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.errors import ClientError
from client.models import Timestamp, Usage
from client.text import safe_json

LONGEST_LINE = 2**26


class ResultsRefused(ClientError):
    """The results file can't be used; the message says why, and what to do."""

    code = "results_refused"


class Beginning(BaseModel):
    """What a batch was begun with: its name, and the digest of its first `rows` rows."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    digest: str


class Result(BaseModel):
    """What came of a row: a line of the results file.

    `status` is that of its last task, or `error` where nothing could be submitted. `usage` is that of all its
    tasks, `attempts` their number.
    """

    model_config = ConfigDict(frozen=True)

    row: int = Field(ge=1)
    id: str
    task_id: str | None = None
    status: str
    output: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    steps: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    created_at: Timestamp | None = None
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None


class Results:
    """The results file, locked while it is open, and what lies beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(f"{path.name}.batch")

    def __enter__(self) -> Self:
        """Makes the file if need be. Raises `ResultsRefused`, also if another process has it."""
        try:
            is_new, self._file = _opened(self.path)
            if is_new:  # somebody removed the results, to begin anew
                self._beside.unlink(missing_ok=True)
        except BlockingIOError:
            raise ResultsRefused(f"{self.path} is in use by another batch") from None
        except OSError as error:
            raise ResultsRefused(f"{self.path} can't be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if not self._beside.exists() and not os.fstat(self._file.fileno()).st_size:
            self.path.unlink(missing_ok=True)  # nothing was begun
        self._file.close()

    def beginning(self) -> Beginning | None:
        """What the batch was begun with; None if it is new. Raises `ResultsRefused`."""
        try:
            return Beginning.model_validate_json(self._beside.read_bytes())
        except FileNotFoundError:
            if os.fstat(self._file.fileno()).st_size:
                raise ResultsRefused(
                    f"{self.path} is no results file, as {self._beside.name} is missing: choose another --out"
                ) from None
            return None
        except (OSError, ValidationError) as error:
            raise ResultsRefused(f"{self._beside} can't be read: choose another --out") from error

    def begin(self, beginning: Beginning) -> None:
        """Makes durable what the batch is begun with. Raises `ResultsRefused`."""
        new = self._beside.with_name(f"{self._beside.name}.new")
        try:
            with new.open("w") as file:
                file.write(beginning.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._beside)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise ResultsRefused(f"{self._beside} can't be written: {error.strerror}") from error

    def earlier(self, rows: int) -> Iterator[Result]:
        """The results that are there, of so many rows. What a crash left at the end is cut off.

        Raises `ResultsRefused` if there is anything else.
        """
        end, unreadable = 0, 0
        with self.path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                result = _result(line, rows)
                if result is None:
                    unreadable = unreadable or number
                elif unreadable:
                    raise ResultsRefused(
                        f"{self.path}, line {unreadable}: this is no result: mend it, or choose another --out"
                    )
                else:
                    end += len(line)
                    yield result
        self._file.truncate(end)

    def add(self, result: Result) -> None:
        """Adds a result. Raises `ResultsRefused` if there is no room."""
        line = f"{safe_json(result.model_dump_json())}\n".encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise ResultsRefused(f"{self.path} can't be written: {error.strerror}") from error
        if written < len(line):
            raise ResultsRefused(f"{self.path} can't be written: the disk is full")


def _opened(path: Path) -> tuple[bool, IO[bytes]]:
    """Whether the file is new, and it itself, locked; each line that is added is one system call."""
    is_new = not path.exists()
    if not (is_new or path.is_file()):
        raise OSError(errno.EINVAL, "is no file")
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return is_new, file


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _result(line: bytes, rows: int) -> Result | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = Result.model_validate_json(line)
    except ValidationError:
        return None
    return found if found.row <= rows else None
