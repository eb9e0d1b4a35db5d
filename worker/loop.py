"""The step loop: observe, decide, record the intent, act, record the outcome, again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import CredentialsRejected, OutcomeUnknown, SandboxError, SandboxLost, UnusableOutput
from shared.states import StepStatus
from worker.actions import Control, Decision
from worker.protocols import Answer, Model, Observation, Recorder, Sandbox
from worker.stop import Stop

ATTEMPTS = 3
"""So many answers in a row may be unusable, and so many steps in a row may fail, before the job ends."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The model said that the job is done."""

    output: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ends without success."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class NeedsHuman:
    """The model asks for a human."""

    content: str


Outcome = Finished | Failed | NeedsHuman


@dataclass(frozen=True, slots=True)
class StepLoop:
    """One run's way through its job. All it knows of the world is behind three protocols."""

    model: Model
    sandbox: Sandbox
    recorder: Recorder
    parse: Callable[[str, Observation], Decision]
    stop: Stop
    max_steps: int
    settle_seconds: float

    def run(self) -> Outcome:
        """Steps until the job ends. Raises `Stopped`, `LeaseLost`, or what model and sandbox raise."""
        observation = self._observe()
        while True:
            self.stop.check()
            if self.recorder.step_count >= self.max_steps:
                return Failed("max_steps", f"not finished after {self.max_steps} steps")
            decision = self._decide(observation)
            if decision is None:
                if self.recorder.unusable() >= ATTEMPTS:
                    return Failed("model_output_invalid", f"no usable answer in {ATTEMPTS} attempts")
                continue
            seen = self._carry_out(decision)
            if self.recorder.failures() >= ATTEMPTS:
                return Failed("sandbox_error", f"{ATTEMPTS} steps in a row failed in the sandbox")
            if decision.control and not self.recorder.failures():
                return ended(decision.control)
            if decision.actions:
                observation = seen or self._observe(self.settle_seconds)

    def _observe(self, settle_seconds: float = 0) -> Observation:
        if settle_seconds:
            self.stop.sleep(settle_seconds)
        observation = self.sandbox.observe()
        self.recorder.observed(observation)
        return observation

    def _decide(self, observation: Observation) -> Decision | None:
        """The model's decision, recorded; None if its answer could not be read, which is recorded too."""
        answer: Answer = self.model.answer(self.recorder.conversation(observation))
        try:
            decision = self.parse(answer.text, observation)
        except UnusableOutput as error:
            self.recorder.misread(observation, answer, error.message)
            return None
        self.recorder.intend(observation, answer, decision)
        return decision

    def _carry_out(self, decision: Decision) -> Observation | None:
        """Acts on a recorded decision once, whatever comes of it, and records what did."""
        if not decision.actions:
            return None
        self.stop.check()
        began = time.monotonic()
        status, feedback, seen, fatal = StepStatus.DONE, None, None, None
        try:
            seen = self.sandbox.act(decision.actions, look=not self.settle_seconds)
        except OutcomeUnknown as error:
            status, feedback = (
                StepStatus.UNKNOWN,
                f"{error.message}. The action may or may not have happened.",
            )
        except (SandboxError, CredentialsRejected) as error:
            status, feedback = StepStatus.FAILED, f"The action was not carried out: {error.message}"
            fatal = error if isinstance(error, SandboxLost | CredentialsRejected) else None
        elapsed = round((time.monotonic() - began) * 1000)
        self.recorder.acted(status, feedback=feedback, milliseconds=elapsed, seen=seen)
        if fatal:
            raise fatal
        return seen


def ended(control: Control) -> Outcome:
    """What a control action makes of the job."""
    match control.name:
        case "finished":
            return Finished(control.content)
        case "call_user":
            return NeedsHuman(control.content)
        case _:
            return Failed("agent_failed", control.content or "the model said that it failed")
