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
    pinned: bool = False
    """Kept however long the conversation grows: the prompts and instructions."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One instruction and what was done for it so far."""

    instruction: str
    steps: "Sequence[Step]" = ()


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
    messages = [Message("system", prompt, pinned=True) for prompt in prompts]
    for turn in turns:
        messages.append(Message("user", turn.instruction, pinned=True))
        for step in turn.steps:
            messages += step_messages(step)
    return messages


def window(messages: Sequence[Message], *, max_screenshots: int, max_messages: int) -> list[Message]:
    """The conversation without its oldest screenshots and texts; pinned messages stay and do not count."""
    kept: list[Message] = []
    for message in reversed(messages):
        if message.pinned:
            kept.append(message)
        elif message.screenshot:
            max_screenshots -= 1
            if max_screenshots >= 0:
                kept.append(message)
        else:
            max_messages -= 1
            if max_messages >= 0:
                kept.append(message)
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
