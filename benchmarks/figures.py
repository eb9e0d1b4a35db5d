"""What rows are made of: figures with their goals, tasks to measure with."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True)
class Figure:
    """One result. `most`: the goal is at most that much; else at least."""

    name: str
    unit: str
    value: float
    goal: float
    most: bool = True

    @property
    def reached(self) -> bool:
        return self.value <= self.goal if self.most else self.value >= self.goal


def yardstick() -> float:
    """Milliseconds of CPU that a fixed piece of work takes: how fast this machine is at the moment."""
    return min(_work() for _ in range(3)) * 1000


def _work() -> float:
    text = json.dumps({"words": ["word"] * 400, "numbers": list(range(400))})
    began = time.process_time()
    for _ in range(500):
        json.dumps(json.loads(text))
    return time.process_time() - began


def task(steps: int) -> dict[str, object]:
    """A request for a task of so many answers of the model."""
    return {"instruction": f"bench-{steps}-{uuid4().hex}", "max_steps": 500}


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]
