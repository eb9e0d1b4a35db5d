"""What the model is asked: complete, in order, and within its window."""

from collections.abc import Iterator

import pytest

from shared.conversation import Message, Turn, conversation, trailing, transcript, window
from shared.models import Step
from shared.states import StepStatus


def step(number: int, status: StepStatus = StepStatus.DONE, feedback: str | None = None) -> Step:
    return Step(
        number=number, raw=f"answer {number}", screenshot=f"shot {number}", status=status, feedback=feedback
    )


def told(messages: list[Message]) -> list[str]:
    return [message.screenshot or message.text for message in messages]


def test_a_step_shows_the_screen_then_the_answer_then_what_came_of_it() -> None:
    turns = [Turn("do it", [step(1), step(2, StepStatus.FAILED, "refused")])]
    assert told(conversation(["prompt"], turns)) == [
        "prompt",
        "do it",
        "shot 1",
        "answer 1",
        "shot 2",
        "answer 2",
        "refused",
    ]


def test_a_follow_up_comes_after_what_it_continues() -> None:
    turns = [Turn("first", [step(1)]), Turn("second", [step(1)])]
    assert told(conversation([], turns)) == ["first", "shot 1", "answer 1", "second", "shot 1", "answer 1"]


def test_what_a_human_said_before_the_first_step_comes_after_the_instruction_and_stays() -> None:
    turns = [Turn("do it", [step(n) for n in range(1, 40)], "the blue one"), Turn("and now", [], "quick")]
    assert told(conversation(["prompt"], turns))[:4] == ["prompt", "do it", "the blue one", "shot 1"]
    kept = window(["prompt"], turns, NOW, max_screenshots=1, max_messages=1)
    assert told(kept) == ["prompt", "do it", "the blue one", "answer 39", "and now", "quick", "now"]


NOW = Message("user", screenshot="now")


def test_window_keeps_the_newest_and_all_prompts_and_instructions() -> None:
    turns = [Turn("before", [step(1)]), Turn("do it", [step(n) for n in range(1, 40)])]
    kept = window(["prompt"], turns, NOW, max_screenshots=5, max_messages=20)
    assert told(kept)[:3] == ["prompt", "before", "do it"]
    assert [m.screenshot for m in kept if m.screenshot] == ["shot 36", "shot 37", "shot 38", "shot 39", "now"]
    assert [m.text for m in kept if m.role == "assistant"] == [f"answer {n}" for n in range(20, 40)]


def test_window_keeps_each_answer_as_it_was_sent() -> None:
    odd = Step(number=1, raw="Thought: ’ \n\nAction: wait()  ", screenshot=None, status=StepStatus.DONE)
    kept = window([], [Turn("x", [odd])], NOW, max_screenshots=1, max_messages=2)
    assert kept[-2].text == "Thought: ’ \n\nAction: wait()  "


@pytest.mark.parametrize("screenshots", [1, 2, 9])
@pytest.mark.parametrize("texts", [0, 1, 3, 9])
def test_window_is_the_conversation_where_it_fits(screenshots: int, texts: int) -> None:
    """What is kept of the steps is the end of each kind, in the order of the whole."""
    turns = [Turn("i", [step(1), step(2, StepStatus.FAILED, "no")]), Turn("j", [step(3), step(4)])]
    whole = [*conversation(["p"], turns), NOW]
    kept = window(["p"], turns, NOW, max_screenshots=screenshots, max_messages=texts)
    assert kept == [one for one in whole if one in kept]
    assert [one for one in kept if one.screenshot] == [one for one in whole if one.screenshot][-screenshots:]
    of_steps = [one for one in whole if one.text.startswith(("answer", "no"))]
    assert [one for one in kept if one in of_steps] == of_steps[len(of_steps) - min(texts, len(of_steps)) :]


def test_a_long_past_is_not_looked_at() -> None:
    """A step of a long job costs what one of a short job does."""

    class Watched(list[Step]):
        def __reversed__(self) -> Iterator[Step]:
            for number in range(len(self) - 1, -1, -1):
                assert number >= 379, "looked at far more than the window"
                yield self[number]

    steps = Watched([step(number) for number in range(400)])
    window([], [Turn("i", steps)], NOW, max_screenshots=5, max_messages=20)


def test_the_same_rows_give_the_same_messages() -> None:
    def built() -> list[Message]:
        return conversation(["p"], [Turn("i", [step(1), step(2, StepStatus.INTERRUPTED, "maybe")])])

    assert built() == built()


def test_transcript_has_no_pictures() -> None:
    assert transcript(conversation(["p"], [Turn("i", [step(1)])])) == [
        {"role": "system", "content": "p"},
        {"role": "user", "content": "i"},
        {"role": "assistant", "content": "answer 1"},
    ]


def test_trailing_counts_only_the_last_in_a_row() -> None:
    failed = frozenset({StepStatus.FAILED})
    steps = [step(1, StepStatus.FAILED), step(2), step(3, StepStatus.FAILED), step(4, StepStatus.FAILED)]
    assert trailing(steps, failed) == 2
    assert trailing(steps[:2], failed) == 0
    assert trailing([], failed) == 0
