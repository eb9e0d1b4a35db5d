"""Keeping children alive: one that dies is started again, after a longer pause each time."""

from collections.abc import Sequence
from typing import Protocol

from local.processes import Child, Program, ending
from shared.errors import GuiAgentError

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
LONG_LIFE = 30.0


class Kept(Protocol):
    """What a keeper can start again: a service or a server."""

    @property
    def child(self) -> Child:
        """Its present process."""
        ...

    def start_again(self) -> None:
        """Gives it a new process, without waiting until that is ready. May raise as the first start does."""
        ...


class Service:
    """A program of ours that is to run all the time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.child = Child(program)

    def start_again(self) -> None:
        """The same program in a new process."""
        self.child = Child(self.program)


class Backoff:
    """The pauses of a child that dies again and again, in seconds: doubled each time, up to a limit."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def pause(self, lived: float) -> float:
        """The pause after a life of so many seconds; a long life makes up for all earlier deaths."""
        pause = FIRST_PAUSE if lived >= LONG_LIFE else self._next
        self._next = min(2 * pause, LONGEST_PAUSE)
        return pause


class Keeper:
    """Starts one child again whenever it dies. It never waits, so that one loop does it for all of them.

    The times are seconds of any clock that goes steadily.
    """

    def __init__(self, kept: Kept, now: float) -> None:
        self.kept = kept
        self._backoff = Backoff()
        self._born = now
        self._due: float | None = None  # when it is to be started again

    def tend(self, now: float) -> str | None:
        """What happened, if it is worth telling. From the main thread: children end with their thread."""
        if self._due is None:
            return self._look(now)
        return self._start_again(now) if now >= self._due else None

    def _look(self, now: float) -> str | None:
        child = self.kept.child
        code = child.exit_code
        if code is None:
            return None
        child.kill()  # what is left of its group may still hold its port
        return self._postpone(now, f"died with {ending(code)}", child.tail() if code > 0 else ())

    def _start_again(self, now: float) -> str | None:
        self._born, self._due = now, None
        try:
            self.kept.start_again()
        except (OSError, GuiAgentError) as error:
            return self._postpone(now, f"can't be started: {error}")
        return None

    def _postpone(self, now: float, what: str, details: Sequence[str] = ()) -> str:
        pause = self._backoff.pause(now - self._born)
        self._due = now + pause
        return "\n  ".join([f"{what}, starting again in {pause:g} s", *details])
