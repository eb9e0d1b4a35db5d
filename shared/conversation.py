"""The conversation with the model, rebuilt from the rows of a job and of the jobs that it continues.

The same rows always give the same messages: a run that takes a job over asks the model just what the
run before it would have asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shared.states import StepStatus

if TYPE_CHECKING:  # the step loop knows messages, but not the tables that they are made of
    from shared.models import Step

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: a text, or a screenshot by its URL."""

    role: Role
    text: str = ""
    screenshot: str | None = None
    picture: str | None = None
    """The screenshot's name in the store, if it is kept there."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One instruction and what was done for it so far."""

    instruction: str
    steps: "Sequence[Step]" = ()
    advice: str | None = None
    """What humans said before the first step."""

    def opening(self) -> list[Message]:
        """What stands before the first step."""
        return [Message("user", text) for text in (self.instruction, self.advice) if text]


def step_messages(step: "Step") -> list[Message]:
    """What one step adds: the screen, the model's answer as it was sent, what it was told of it."""
    messages = [Message("assistant", step.raw)]
    if step.screenshot:
        messages.insert(0, Message("user", screenshot=step.screenshot, picture=step.picture))
    if step.feedback:
        messages.append(Message("user", step.feedback))
    return messages


def conversation(prompts: Sequence[str], turns: Sequence[Turn]) -> list[Message]:
    """The whole conversation: prompts, then each instruction with its steps, oldest first."""
    messages = [Message("system", prompt) for prompt in prompts]
    for turn in turns:
        messages += turn.opening()
        for step in turn.steps:
            messages += step_messages(step)
    return messages


def window(
    prompts: Sequence[str], turns: Sequence[Turn], screen: Message, *, max_screenshots: int, max_messages: int
) -> list[Message]:
    """What the model is asked: the conversation, then the screen, without the oldest screenshots and texts.

    Prompts, instructions and advice stay and do not count; the screen counts. Steps of long ago are not
    looked at.
    """
    kept, screenshots, texts = [screen], max_screenshots - 1, max_messages
    for turn in reversed(turns):
        for step in reversed(turn.steps):
            if screenshots <= 0 and texts <= 0:
                break
            for message in reversed(step_messages(step)):
                if message.screenshot:
                    screenshots -= 1
                else:
                    texts -= 1
                if (screenshots if message.screenshot else texts) >= 0:
                    kept.append(message)
        kept += reversed(turn.opening())
    kept += [Message("system", prompt) for prompt in reversed(prompts)]
    return kept[::-1]


def transcript(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Roles and texts for people to read, without pictures."""
    return [{"role": m.role, "content": m.text} for m in messages if m.screenshot is None]


def trailing(steps: "Sequence[Step]", statuses: frozenset[StepStatus]) -> int:
    """How many of the last steps in a row ended in one of the states."""
    count = 0
    for step in reversed(steps):
        if step.status not in statuses:
            break
        count += 1
    return count
