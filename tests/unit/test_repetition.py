"""When the same counts as the same again."""

import asyncio
from collections.abc import Sequence

import pytest

from worker.actions import Action
from worker.protocols import Observation
from worker.repetition import Repetition

CLICK: Action = {"type": "mouse:click", "x": 1}
OTHER: Action = {"type": "mouse:click", "x": 2}
WAIT: Action = {"type": "wait", "duration": 500}


def counts(decisions: Sequence[tuple[Sequence[Action], str | None]]) -> list[int]:
    """The counts of decisions, each with what the screen looked like before."""
    looks = dict(enumerate(look for _, look in decisions))

    async def fingerprint(seen: Observation) -> str | None:
        return looks[int(seen.screenshot)]

    async def counted() -> list[int]:
        repetition = Repetition(fingerprint)
        return [
            await repetition.count(actions, Observation(str(number)))
            for number, (actions, _) in enumerate(decisions)
        ]

    return asyncio.run(counted())


def same(looks: Sequence[str | None]) -> list[int]:
    return counts([([CLICK], look) for look in looks])


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ("aaaaaa", [1, 2, 3, 4, 5, 6]),
        ("baaaaa", [1, 2, 3, 4, 5, 6]),  # the first one moved the mouse pointer
        ("ababab", [1, 2, 3, 4, 5, 6]),  # a cursor blinks
        ("abcdef", [1, 2, 2, 2, 2, 2]),  # the screen answers
        ("aaabcc", [1, 2, 3, 4, 2, 3]),  # it did in the end
        ("abcabc", [1, 2, 2, 2, 2, 2]),
    ],
)
def test_how_often_on_a_screen_that_stays(looks: str, expected: list[int]) -> None:
    assert same(looks) == expected


def test_what_can_t_be_seen_is_not_counted() -> None:
    assert same([None] * 5) == [1] * 5
    assert same(["a", "a", None, "a", "a"]) == [1, 2, 1, 1, 2]


def test_another_action_begins_anew() -> None:
    decisions = [([CLICK], "a"), ([CLICK], "a"), ([OTHER], "a"), ([CLICK], "a"), ([CLICK, OTHER], "a")]
    assert counts(decisions) == [1, 2, 1, 1, 1]


def test_waiting_is_no_repetition() -> None:
    assert counts([([WAIT], "a")] * 4) == [1] * 4
    assert counts([([CLICK, WAIT], "a")] * 3) == [1, 2, 3]


def test_pictures_are_looked_into_only_for_a_second_time() -> None:
    asked: list[str] = []

    async def fingerprint(seen: Observation) -> str:
        asked.append(seen.screenshot)
        return "a"

    async def count() -> None:
        repetition = Repetition(fingerprint)
        for number, action in enumerate((CLICK, OTHER, OTHER, OTHER)):
            await repetition.count([action], Observation(str(number)))

    asyncio.run(count())
    assert asked == ["1", "2", "3"]
