"""A look at all rows before anything is submitted."""

from dataclasses import dataclass, field
from hashlib import sha256

from client.batch.requests import Batch, Refusal, Request
from client.batch.results import Beginning
from client.errors import ClientError

MOST_SHOWN = 5


class InputRefused(ClientError):
    """The rows are not what the batch needs; nothing was submitted."""

    code = "input_refused"


@dataclass
class Survey:
    """How many rows there are, how many are bad, and what is wrong with the first of these.

    `digest` is that of all rows, `digest_before` that of those with which the batch was begun.
    """

    rows: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)
    digest: str = ""
    digest_before: str = ""

    def check(self, begun: Beginning | None, *, strict: bool) -> None:
        """Raises `InputRefused` if the batch had better not be begun, or gone on with."""
        if begun is not None and self.digest_before != begun.digest:
            raise InputRefused(
                f"the first {begun.rows:,} rows, or options that shape them, are not those that the batch "
                "was begun with: restore them, or choose another --out"
            )
        if not self.rows:
            raise InputRefused("there are no rows")
        if self.bad == self.rows or (strict and self.bad):
            rest = [f"… and {self.bad - MOST_SHOWN:,} more"] if self.bad > MOST_SHOWN else []
            lines = [f"{self.bad:,} of {self.rows:,} rows can't be used:", *self.problems, *rest]
            raise InputRefused("\n".join(lines))


def survey(batch: Batch, begun: Beginning | None) -> Survey:
    """Reads all rows. Raises `UnreadableInput` and `MissingColumn`."""
    found, digest = Survey(), sha256()
    for item in batch.requests():
        found.rows += 1
        digest.update(_fingerprint(item))
        if begun is not None and found.rows == begun.rows:
            found.digest_before = digest.hexdigest()
        if isinstance(item, Refusal):
            found.bad += 1
            if found.bad <= MOST_SHOWN:
                found.problems.append(f"row {item.row}: {item.problem}")
    found.digest = digest.hexdigest()
    return found


def _fingerprint(item: Request | Refusal) -> bytes:
    content = item.digest if isinstance(item, Request) else item.problem
    return f"{item.id!r} {content!r}\n".encode()
