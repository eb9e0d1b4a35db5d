"""Notices a model that does the same again and again though nothing comes of it."""

from collections.abc import Awaitable, Callable, Sequence

from worker.actions import Action
from worker.protocols import Observation

BLINKING = 2
"""So many looks of one screen do not count as a change: a cursor in a field of text blinks."""


class Repetition:
    """Counts repeated actions on a screen that stays as it is. Waiting does not count."""

    def __init__(self, fingerprint: Callable[[Observation], Awaitable[str | None]]) -> None:
        self._fingerprint = fingerprint
        self._actions: Sequence[Action] = ()
        self._unread: Observation | None = None
        self._looks: list[str] = []

    async def count(self, actions: Sequence[Action], before: Observation) -> int:
        """How often the actions were decided on in a row, on the same screen; `before` is what it showed."""
        if all(action["type"] == "wait" for action in actions) or actions != self._actions:
            self._actions, self._unread, self._looks = actions, before, []
            return 1
        # Only now are pictures looked into: most decisions differ from the one before.
        seen = [await self._fingerprint(one) for one in (self._unread, before) if one is not None]
        self._unread = None
        for look in seen:
            self._looks = [] if look is None else [*self._looks, look]
        return max(1, len(self._looks) - self._changed())

    def _changed(self) -> int:
        """How many of the looks lie before the screen took on its present ones."""
        present: set[str] = set()
        for index in range(len(self._looks) - 1, -1, -1):
            present.add(self._looks[index])
            if len(present) > BLINKING:
                return index + 1
        return 0
