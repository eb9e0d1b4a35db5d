"""What the step loop asks of the world: a model, a sandbox, a record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.conversation import Message
from shared.schemas import Usage
from shared.states import StepStatus
from worker.actions import Action, Decision


@dataclass(frozen=True, slots=True)
class Observation:
    """What the sandbox showed: the URL of a picture of its screen, and the screen's size in pixels."""

    screenshot: str
    screen: tuple[int, int] | None = None
    picture: str | None = None
    """The picture's name in the store of screenshots, if it is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, what it cost, and how long it took."""

    text: str
    usage: Usage
    milliseconds: int
    reasoning: str = ""
    """What the endpoint gave apart from the answer, as reasoning models do."""


class Model(Protocol):
    """A vision model that answers a conversation."""

    async def answer(self, messages: Sequence[Message]) -> Answer:
        """The next message. Raises `ModelError`, `CredentialsRejected` or `Stopped`."""
        ...


class Sandbox(Protocol):
    """A desktop that can be looked at and acted on."""

    async def observe(self) -> Observation:
        """The screen as it is. Raises `SandboxError`, `CredentialsRejected` or `Stopped`."""
        ...

    def keep(self, observation: Observation) -> Observation:
        """Has the picture kept, where that is wanted, and tells by which name."""
        ...

    async def fingerprint(self, observation: Observation) -> str | None:
        """What the picture looks like: the same for pictures that look the same. None if it can't be had."""
        ...

    async def act(self, actions: Sequence[Action], *, look: bool) -> Observation | None:
        """Carries out the actions in order; `look` asks for the screen right after the last one.

        Raises `SandboxError` (the failing action had no effect), `OutcomeUnknown` or `Stopped`; the actions
        before the failing one were carried out, those after it were not.
        """
        ...


class Recorder(Protocol):
    """The durable record of a run. Every call raises `LeaseLost` once another run may own the job."""

    @property
    def step_count(self) -> int:
        """How many steps the job has had, over all runs."""
        ...

    @property
    def usage(self) -> Usage:
        """What the model has been asked and what it cost, over all runs."""
        ...

    def failures(self) -> int:
        """How many steps in a row failed or have an unknown outcome, up to the last one."""
        ...

    def unusable(self) -> int:
        """How many answers in a row could not be read, up to the last one."""
        ...

    def conversation(self, observation: Observation) -> Sequence[Message]:
        """What the model is asked, windowed: everything so far, then the screen."""
        ...

    async def observed(self, observation: Observation) -> None:
        """Records what the screen shows before the next step."""
        ...

    async def intend(self, observation: Observation, answer: Answer, decision: Decision) -> None:
        """Records a decision before it is acted on."""
        ...

    async def misread(self, observation: Observation, answer: Answer, problem: str) -> None:
        """Records an answer that holds no decision, and what the model is told of it."""
        ...

    async def acted(
        self, status: StepStatus, *, feedback: str | None, milliseconds: int, seen: Observation | None
    ) -> None:
        """Records the outcome of the last step, and the screen after it where that is known already."""
        ...
