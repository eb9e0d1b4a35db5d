"""Reads a conversation: what is wanted, and how far that has come.

The server keeps nothing between requests: each answer says its own position, so that a client may leave out
the oldest messages.
"""

import re
from dataclasses import dataclass
from typing import Any

from local.model.computer import COMPUTER
from local.model.mobile import MOBILE
from local.model.phrases import Repertoire
from local.model.plans import Plan, Step, say
from local.model.screen import Screen
from local.model.script import read_script
from local.standin import Refused

_MARK = re.compile(r"\(scripted, step (\d+) of (\d+)\)")
_ENDED = re.compile(r"^Action: (?:finished|failed)\(", re.MULTILINE)
_ASKED = re.compile(r"\bcall_user\(")
_DOUBT = re.compile(r"may or may not|可能已|是否已", re.IGNORECASE)
_FAILED = re.compile(r"not carried out|未执行|没有执行", re.IGNORECASE)
_NOTE = re.compile(
    r"may or may not|not carried out|no action|no longer available|unusable|invalid|not understood|could not"
    r"|can't|noted|go on|unchanged|same action|\b(?:calls?|argument|coordinate)\b"
    r"|可能|未执行|没有|无法|无效|继续",
    re.IGNORECASE,
)
_PHONE = re.compile(r"\b(?:press_home|open_app)\(")
_ROLES = frozenset({"system", "developer", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its text, and the URLs of its pictures."""

    role: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be done, and the turns since it was said."""

    plan: Plan
    turns: tuple[Turn, ...] = ()


def read_turns(messages: Any) -> list[Turn]:
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "invalid_messages", "messages is a list that is not empty")
    return [_turn(message) for message in messages]


def _turn(message: Any) -> Turn:
    try:
        role, content = message["role"], message.get("content") or ""
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        images = tuple(str(part["image_url"]["url"]) for part in parts if part["type"] == "image_url")
    except (AttributeError, KeyError, TypeError) as error:
        raise Refused(400, "invalid_messages", "a message has a role, and a text or parts") from error
    if role not in _ROLES:
        raise Refused(400, "invalid_messages", "a message has the role system, user or assistant")
    return Turn(role, text, images)


def screen(turns: list[Turn]) -> Screen:
    """The last screenshot."""
    return Screen(next((turn.images[-1] for turn in reversed(turns) if turn.images), None))


def repertoire(turns: list[Turn]) -> Repertoire:
    """A phone's where the prompt offers the words for one."""
    prompt = "\n".join(turn.text for turn in turns if turn.role in ("system", "developer"))
    return MOBILE if _PHONE.search(prompt) else COMPUTER


def find_goal(turns: list[Turn]) -> Goal:
    """The last instruction; one that is not known gives a plan that says so."""
    at, plan, heart = None, None, repertoire(turns)
    for index, turn in enumerate(turns):
        if turn.role != "user" or not turn.text.strip():
            continue
        known = read_script(turn.text) or heart.recognise(turn.text)
        if known or at is None or _is_new(turn, turns[index - 1], plan):
            at, plan = index, known
    unknown = Plan((Step(say(heart.unknown)),))
    return Goal(plan or unknown, tuple(turns[at + 1 :]) if at is not None else ())


def _is_new(turn: Turn, before: Turn, plan: Plan | None) -> bool:
    """Whether a text that is not known is an instruction, and no remark on the answer before it."""
    if before.role != "assistant":  # what stood between may have left the window
        return not (turn.images or _NOTE.search(turn.text))
    if _ENDED.search(before.text):
        return True
    remark = plan is None or plan.script or not _MARK.search(before.text) or _ASKED.search(before.text)
    return not (remark or _NOTE.search(turn.text))


def position(goal: Goal) -> int:
    """The index of the step that is next; it may lie behind the end."""
    done = 0
    for turn in goal.turns:
        if turn.role == "assistant":
            mark = _MARK.search(turn.text)
            done = int(mark[1]) if mark else done + 1
    remarks = _remarks(goal.turns)
    insist = goal.plan.insist or not goal.plan.script
    if insist and _FAILED.search(remarks):
        return max(done - 1, 0)
    if insist and _DOUBT.search(remarks) and not goal.plan.looks:
        return max(done - 1, 0) if goal.plan.script else 0
    return done


def _remarks(turns: tuple[Turn, ...]) -> str:
    """What the user said after the last answer."""
    texts: list[str] = []
    for turn in reversed(turns):
        if turn.role == "assistant":
            break
        texts.append(turn.text)
    return "\n".join(texts)


def next_step(goal: Goal, seen: Screen) -> tuple[Step, str]:
    """The step to answer with, and the answer. What can't be seen makes a plan begin again."""
    steps = goal.plan.steps
    at = min(position(goal), len(steps) - 1)
    call = steps[at].call(seen)
    if call is None:
        at, call = 0, steps[0].call(seen)
    if steps[at].raw:
        return steps[at], str(call)
    mark = f"(scripted, step {at + 1} of {len(steps)})"
    return steps[at], f"Thought: {mark} {steps[at].thought}\nAction: {call}"
