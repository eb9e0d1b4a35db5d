"""The step loop: observe, decide, record the intent, act, record the outcome, again."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shared.errors import CredentialsRejected, OutcomeUnknown, SandboxError, SandboxLost, UnusableOutput
from shared.schemas import Usage
from shared.states import StepStatus
from worker.actions import Action, Control, Decision
from worker.protocols import Answer, Model, Observation, Recorder, Sandbox
from worker.repetition import Repetition
from worker.stop import Stop

ATTEMPTS = 3
"""So many answers in a row may be unusable, and so many steps in a row may fail, before the job ends."""
LOOK_SECONDS = 0.25
"""From one look at a changing screen to the next."""
NUDGE = "You have done the same {times} times, and the screen does not change. Try something else."


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
class Bounds:
    """Where a job ends though the model would go on."""

    max_steps: int
    max_model_calls: int | None = None
    max_tokens: int | None = None
    loop_nudge: int = 3
    loop_limit: int = 6

    def passed(self, steps: int, usage: Usage) -> Failed | None:
        """How the job ends before its next step, if it does."""
        if steps >= self.max_steps:
            return Failed("max_steps", f"not finished after {self.max_steps} steps")
        if self.max_model_calls is not None and usage.model_calls >= self.max_model_calls:
            return Failed("budget_exceeded", f"not finished after {self.max_model_calls} calls of the model")
        if self.max_tokens is not None and usage.tokens >= self.max_tokens:
            return Failed("budget_exceeded", f"not finished with {self.max_tokens} tokens")
        return None


@dataclass(slots=True)
class StepLoop:
    """One run's way through its job. All it knows of the world is behind three protocols."""

    model: Model
    sandbox: Sandbox
    recorder: Recorder
    parse: Callable[[str, Observation], Awaitable[Decision]]
    stop: Stop
    bounds: Bounds
    settle_seconds: float

    async def run(self) -> Outcome:
        """Steps until the job ends. Raises `Stopped`, `LeaseLost`, or what model and sandbox raise."""
        repetition = Repetition(self.sandbox.fingerprint)
        observation = await self._observe()
        while True:
            self.stop.check()
            if end := self.bounds.passed(self.recorder.step_count, self.recorder.usage):
                return end
            decision = await self._decide(observation)
            if decision is None:
                if self.recorder.unusable() >= ATTEMPTS:
                    return self._failed("model_output_invalid", f"no usable answer in {ATTEMPTS} attempts")
                continue
            times = await repetition.count(_deeds(decision), observation)
            seen = await self._carry_out(decision, times)
            if self.recorder.failures() >= ATTEMPTS:
                return self._failed("sandbox_error", f"{ATTEMPTS} steps in a row failed in the sandbox")
            if decision.control and not self.recorder.failures():
                return ended(decision.control)
            if times >= self.bounds.loop_limit:
                said = f"the same {times} times, on a screen that does not change"
                return self._failed("loop_detected", said)
            if decision.actions:
                observation = await self._settled(observation, seen, decision)

    def _failed(self, code: str, message: str) -> Failed:
        """The end of a job that is stuck; unless a person asked for it meanwhile, and that may be why."""
        self.stop.check_asked()
        return Failed(code, message)

    async def _observe(self) -> Observation:
        return await self._recorded(await self.sandbox.observe())

    async def _recorded(self, seen: Observation) -> Observation:
        """The observation that the next decision is made on."""
        kept = self.sandbox.keep(seen)
        await self.recorder.observed(kept)
        return kept

    def _settles(self, decision: Decision) -> bool:
        """Whether the screen is given time after the actions. After a wait it is taken as it is."""
        return self.settle_seconds > 0 and decision.actions[-1]["type"] != "wait"

    async def _settled(
        self, before: Observation, seen: Observation | None, decision: Decision
    ) -> Observation:
        """The screen after the actions, when it has settled; recorded."""
        if self._settles(decision):
            seen = await self._watched(before, seen)
            return await self._observe() if seen is None else await self._recorded(seen)
        return seen or await self._observe()  # the first was recorded with the outcome

    async def _watched(self, before: Observation, seen: Observation | None) -> Observation | None:
        """Looks until two looks are alike, for `settle_seconds` at most; None if there was no such look.

        A screen that has not changed at all may be about to: it is given the whole time.
        """
        end = time.monotonic() + self.settle_seconds
        while (left := end - time.monotonic()) > 0:
            look = await self._alike(before, seen)
            if look is not False:
                await self.stop.sleep(left)
                return None
            await self.stop.sleep(min(LOOK_SECONDS, left))
            last, seen = seen, await self.sandbox.observe()
            if await self._alike(last, seen):
                break
        return seen

    async def _alike(self, one: Observation | None, other: Observation | None) -> bool | None:
        """Whether two looks show the same; None if that can't be known."""
        if one is None or other is None:
            return None
        looks = await self.sandbox.fingerprint(one), await self.sandbox.fingerprint(other)
        return None if None in looks else looks[0] == looks[1]

    async def _decide(self, observation: Observation) -> Decision | None:
        """The model's decision, recorded; None if its answer could not be read, which is recorded too."""
        answer: Answer = await self.model.answer(self.recorder.conversation(observation))
        try:
            decision = await self.parse(answer.text, observation)
        except UnusableOutput as error:
            await self.recorder.misread(observation, answer, error.message)
            return None
        await self.recorder.intend(observation, answer, decision)
        return decision

    async def _carry_out(self, decision: Decision, times: int) -> Observation | None:
        """Acts on a recorded decision once, whatever comes of it, and records what did.

        `times` is how often the model decided so in a row, to no effect.
        """
        if not decision.actions:
            return None
        self.stop.check()
        began = time.monotonic()
        status, seen, fatal = StepStatus.DONE, None, None
        feedback = NUDGE.format(times=times) if times >= self.bounds.loop_nudge else None
        try:
            seen = await self.sandbox.act(decision.actions, look=True)
        except OutcomeUnknown as error:
            status = StepStatus.UNKNOWN
            feedback = f"{error.message}. The action may or may not have happened."
        except (SandboxError, CredentialsRejected) as error:
            status, feedback = StepStatus.FAILED, f"The action was not carried out: {error.message}"
            fatal = error if isinstance(error, SandboxLost | CredentialsRejected) else None
        elapsed = round((time.monotonic() - began) * 1000)
        final = seen is not None and not self._settles(decision)
        seen = self.sandbox.keep(seen) if seen and final else seen
        await self.recorder.acted(
            status, feedback=feedback, milliseconds=elapsed, seen=seen if final else None
        )
        if fatal:
            raise fatal
        return seen


def _deeds(decision: Decision) -> Sequence[Action]:
    """What can be repeated: actions, or else words that lead nowhere."""
    return decision.actions or ({"type": "words", "content": decision.call},)


def ended(control: Control) -> Outcome:
    """What a control action makes of the job."""
    match control.name:
        case "finished":
            return Finished(control.content)
        case "call_user":
            return NeedsHuman(control.content)
        case _:
            return Failed("agent_failed", control.content or "the model said that it failed")
