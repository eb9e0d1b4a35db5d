"""What came of a batch, in numbers. Memory does not grow with its rows."""

from collections import Counter
from datetime import timedelta
from typing import Any

from client.batch.results import Result

FINISHED = "finished"
TOKENS = ("input_tokens", "output_tokens")


class Summary:
    """Counts results, and adds up times and tokens."""

    def __init__(self) -> None:
        self._endings: Counter[tuple[str, str]] = Counter()  # by status and error code, which may be empty
        self._retries = 0
        self._tokens: Counter[str] = Counter()
        self._seconds = self._longest = 0.0
        self._timed = 0

    @property
    def done(self) -> int:
        """How many rows have a result."""
        return self._endings.total()

    @property
    def failed(self) -> int:
        """How many of these did not finish."""
        return self.done - self._endings[FINISHED, ""]

    def add(self, result: Result) -> None:
        """Counts a result."""
        self._endings[result.status, result.error_code or ""] += 1
        self._retries += max(0, result.attempts - 1)
        self._tokens.update({name: getattr(result.usage, name) for name in TOKENS})
        if result.started_at and result.finished_at:
            seconds = (result.finished_at - result.started_at).total_seconds()
            self._timed += 1
            self._seconds += seconds
            self._longest = max(self._longest, seconds)

    def as_json(self) -> dict[str, Any]:
        """The summary for programs. Durations, in seconds, are those of tasks from start to end."""
        return {
            "done": self.done,
            "finished": self.done - self.failed,
            "failed": self.failed,
            "endings": [
                {"status": status, "error_code": code or None, "rows": rows}
                for status, code, rows in self.endings()
            ],
            "retries": self._retries,
            "mean_seconds": round(self._mean, 3) if self._timed else None,
            "longest_seconds": round(self._longest, 3) if self._timed else None,
            **{name: self._tokens[name] for name in TOKENS},
        }

    def endings(self) -> list[tuple[str, str, int]]:
        """Status, error code and number of rows, the most frequent first."""
        return [(status, code, rows) for (status, code), rows in self._endings.most_common()]

    def sentence(self) -> str:
        """Times and tokens for people: one line."""
        parts = [f"{self._retries:,} retries"] if self._retries else []
        if self._timed:
            parts.append(f"{duration(self._mean)} per task, {duration(self._longest)} at most")
        parts += [f"{self._tokens[name]:,} {name.replace('_', ' ')}" for name in TOKENS]
        return "; ".join(parts)

    @property
    def _mean(self) -> float:
        return self._seconds / self._timed


def duration(seconds: float) -> str:
    """`0.4 s`, `59 s`, `1:03`, `2:00:00`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")
