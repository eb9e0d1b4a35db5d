"""Which rows have a result by now, and what came of them: on the disk, and in numbers."""

from client.batch.results import Result, Results
from client.batch.summary import Summary


class Numbers:
    """A set of row numbers, one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, number: int) -> bool:
        byte, bit = divmod(number, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def add(self, number: int) -> None:
        """Adds the number."""
        byte, bit = divmod(number, 8)
        self._bits.extend(bytes(max(0, byte + 1 - len(self._bits))))
        self._bits[byte] |= 1 << bit


class Ledger:
    """The results of a batch of so many rows. Raises `ResultsRefused` for a file that is no such thing."""

    def __init__(self, results: Results, rows: int) -> None:
        self.rows = rows
        self.summary = Summary()
        self._results = results
        self._done = Numbers()
        for result in results.earlier(rows):
            self._count(result)

    def __contains__(self, row: int) -> bool:
        return row in self._done

    @property
    def left(self) -> int:
        """How many rows have no result."""
        return self.rows - self.summary.done

    def add(self, result: Result) -> None:
        """Writes the result down, and counts it."""
        self._results.add(result)
        self._count(result)

    def _count(self, result: Result) -> None:
        if result.row not in self._done:
            self._done.add(result.row)
            self.summary.add(result)
