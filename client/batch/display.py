"""How a batch is getting on: a line that changes at a terminal, else one now and then."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from client.batch.summary import duration

TICK_SECONDS = 0.25
FIRST_LINE_SECONDS, LONGEST_LINE_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Standing:
    """How far it is. `done` are all rows that ended, `failed` among them; the others are active tasks."""

    total: int
    done: int
    failed: int
    running: int = 0
    waiting: int = 0
    paused: int = 0


class Display:
    """Shows on a console how far the batch is. What else is printed there stands above."""

    def __init__(self, console: Console, look: Callable[[], Standing]) -> None:
        self._console = console
        self._look = look
        self._began = time.monotonic()
        self._done_before = look().done

    async def show(self) -> None:
        """Shows it until it is cancelled."""
        if self._console.is_terminal:
            await self._move()
        pause = FIRST_LINE_SECONDS
        while True:
            await asyncio.sleep(pause)
            self._console.print(self._sentence(self._look()), soft_wrap=True)
            pause = min(pause * 1.5, LONGEST_LINE_SECONDS)

    async def _move(self) -> None:
        columns = BarColumn(bar_width=24), TextColumn("{task.description}")
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("", total=self._look().total)
            while True:
                now = self._look()
                progress.update(bar, completed=now.done, description=self._sentence(now))
                await asyncio.sleep(TICK_SECONDS)

    def _sentence(self, now: Standing) -> str:
        counts = [f"{count:,} {what}" for count, what in _others(now) if count]
        return ", ".join([f"{now.done:,} of {now.total:,} done", *counts, *self._pace(now)])

    def _pace(self, now: Standing) -> list[str]:
        seconds, done = time.monotonic() - self._began, now.done - self._done_before
        if not done:
            return []
        left = round((now.total - now.done) * seconds / done)
        return [f"{60 * done / seconds:,.0f} a minute", f"{duration(left)} left"]


def _others(now: Standing) -> list[tuple[int, str]]:
    return [
        (now.failed, "failed"),
        (now.running, "running"),
        (now.waiting, "waiting"),
        (now.paused, "needing a human"),
    ]
