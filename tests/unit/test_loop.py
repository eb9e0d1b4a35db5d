"""The step loop with a model that reads from a list and a sandbox that remembers."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from shared.conversation import Message, trailing
from shared.errors import CredentialsRejected, OutcomeUnknown, SandboxError, SandboxLost
from shared.models import Step
from shared.schemas import Usage
from shared.states import StepStatus
from worker import uitars
from worker.actions import Action, Decision
from worker.loop import Bounds, Failed, Finished, NeedsHuman, Outcome, StepLoop
from worker.protocols import Answer, Observation
from worker.recorder import FAILURES, UNUSABLE
from worker.stop import Reason, Stop, Stopped

CLICK = "Thought: There.\nAction: click(point='<point>500 500</point>')"
DONE = "Thought: All done.\nAction: finished(content='42')"


@dataclass
class ListModel:
    """Gives its answers in order, the last one for ever."""

    answers: list[str]
    asked: int = 0

    async def answer(self, messages: Sequence[Message]) -> Answer:
        self.asked += 1
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Answer(text, Usage(model_calls=1), 1)


@dataclass
class MemorySandbox:
    """Remembers what was done; fails with `errors` first."""

    errors: list[Exception] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    previews: int = 0
    looks: list[str | None] = field(default_factory=list)
    """What the next looks look like, the last one for ever; without any, no two look alike."""
    looked: dict[str, str | None] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def look(self, name: str) -> Observation:
        if self.looks:
            self.looked[name] = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return Observation(name, (1280, 720))

    async def fingerprint(self, observation: Observation) -> str | None:
        return self.looked.get(observation.screenshot, observation.screenshot)

    def keep(self, observation: Observation) -> Observation:
        self.kept.append(observation.screenshot)
        return observation

    async def observe(self) -> Observation:
        self.previews += 1
        return self.look(f"preview {self.previews}")

    async def act(self, actions: Sequence[Action], *, look: bool) -> Observation | None:
        if self.errors:
            raise self.errors.pop(0)
        self.done += actions
        return self.look(f"after {len(self.done)}") if look else None


@dataclass
class MemoryRecorder:
    """Keeps the order of what it is told, with the sandbox's deeds among it."""

    sandbox: MemorySandbox
    steps: list[Step] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    deeds_at_intent: list[int] = field(default_factory=list)

    @property
    def step_count(self) -> int:
        return len(self.steps)

    @property
    def usage(self) -> Usage:
        return Usage(model_calls=self.step_count, input_tokens=100 * self.step_count)

    def failures(self) -> int:
        return trailing(self.steps, FAILURES)

    def unusable(self) -> int:
        return trailing(self.steps, UNUSABLE)

    def conversation(self, observation: Observation) -> Sequence[Message]:
        return [Message("user", screenshot=observation.screenshot)]

    async def observed(self, observation: Observation) -> None:
        self.seen.append(observation.screenshot)

    async def intend(self, observation: Observation, answer: Answer, decision: Decision) -> None:
        self.deeds_at_intent.append(len(self.sandbox.done))
        self.steps.append(Step(status=StepStatus.INTENDED if decision.actions else StepStatus.DONE))

    async def misread(self, observation: Observation, answer: Answer, problem: str) -> None:
        self.steps.append(Step(status=StepStatus.UNUSABLE, feedback=problem))

    async def acted(
        self, status: StepStatus, *, feedback: str | None, milliseconds: int, seen: Observation | None
    ) -> None:
        self.steps[-1].status, self.steps[-1].feedback = status, feedback
        if seen:
            await self.observed(seen)


@dataclass
class Scene:
    """One run, ready to go."""

    answers: list[str]
    errors: list[Exception] = field(default_factory=list)
    max_steps: int = 20
    settle_seconds: float = 0
    looks: list[str | None] = field(default_factory=list)
    bounds: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stop = Stop(math.inf)
        self.model = ListModel(self.answers)
        self.sandbox = MemorySandbox(self.errors, looks=self.looks)
        self.recorder = MemoryRecorder(self.sandbox)

    def run(self) -> Outcome:
        async def parse(text: str, seen: Observation) -> Decision:
            return uitars.parse(text, screen=seen.screen)

        loop = StepLoop(
            model=self.model,
            sandbox=self.sandbox,
            recorder=self.recorder,
            parse=parse,
            stop=self.stop,
            bounds=Bounds(self.max_steps, **self.bounds),
            settle_seconds=self.settle_seconds,
        )
        return asyncio.run(loop.run())

    @property
    def statuses(self) -> list[str]:
        return [step.status for step in self.recorder.steps]


def test_steps_until_the_model_says_so() -> None:
    scene = Scene([CLICK, CLICK, DONE])
    assert scene.run() == Finished("42")
    assert len(scene.sandbox.done) == 2
    assert scene.statuses == [StepStatus.DONE] * 3


def test_each_intent_is_recorded_before_its_action() -> None:
    scene = Scene([CLICK, CLICK, DONE])
    scene.run()
    assert scene.recorder.deeds_at_intent == [0, 1, 2]


def test_one_call_per_step_where_the_screen_need_not_settle() -> None:
    scene = Scene([CLICK, CLICK, DONE])
    scene.run()
    assert scene.sandbox.previews == 1
    assert scene.recorder.seen == ["preview 1", "after 1", "after 2"]


@pytest.mark.parametrize(
    ("looks", "seen"),
    [
        (["before", "after"], "preview 2"),  # changed, and two looks are alike
        (["before", "a", "b", "c", "c"], "preview 4"),  # goes on changing for a while
        (["before"], "preview 2"),  # unchanged: it is given its time, and looked at once more
        (["before", None], "preview 2"),  # pictures that can't be compared
    ],
)
def test_the_screen_is_looked_at_until_it_has_settled(looks: list[str | None], seen: str) -> None:
    scene = Scene([CLICK, DONE], settle_seconds=1, looks=looks)
    scene.stop.sleep = lambda _: asyncio.sleep(0)  # type: ignore[method-assign]
    assert scene.run() == Finished("42")
    assert scene.recorder.seen == ["preview 1", seen]
    assert scene.sandbox.kept == scene.recorder.seen


def test_a_screen_that_never_settles_is_taken_as_it_is_in_the_end() -> None:
    scene = Scene([CLICK, DONE], settle_seconds=0.3)
    assert scene.run() == Finished("42")
    assert scene.recorder.seen[-1] != "preview 1"


def test_after_a_wait_the_screen_is_taken_as_it_is() -> None:
    scene = Scene(["Action: wait()", DONE], settle_seconds=9)
    assert scene.run() == Finished("42")
    assert scene.recorder.seen == ["preview 1", "after 1"]


def test_actions_before_an_ending_control_are_carried_out() -> None:
    scene = Scene([f"{CLICK}\n\nfinished(content='ok')"])
    assert scene.run() == Finished("ok")
    assert len(scene.sandbox.done) == 1


def test_an_ending_is_not_believed_when_its_action_failed() -> None:
    scene = Scene([f"{CLICK}\n\nfinished(content='too early')", DONE], errors=[SandboxError("no")])
    assert scene.run() == Finished("42")


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        ("finished(content='it\\'s done')", Finished("it's done")),
        ("failed(content='no such app')", Failed("agent_failed", "no such app")),
        ("call_user(content='log in')", NeedsHuman("log in")),
    ],
)
def test_controls(call: str, outcome: Outcome) -> None:
    assert Scene([f"Action: {call}"]).run() == outcome


def test_typed_text_that_looks_like_a_control_is_text() -> None:
    scene = Scene(["Action: type(content='finished(content=1)')", DONE])
    assert scene.run() == Finished("42")
    assert scene.sandbox.done[0]["content"] == "finished(content=1)"


def test_output_goes_on_without_acting() -> None:
    scene = Scene(["Action: output(content='a price')", DONE])
    assert scene.run() == Finished("42")
    assert scene.sandbox.done == []


def test_max_steps() -> None:
    scene = Scene([CLICK], max_steps=3)
    assert scene.run() == Failed("max_steps", "not finished after 3 steps")
    assert len(scene.sandbox.done) == 3


def test_nonsense_is_asked_again_twice() -> None:
    scene = Scene(["What a lovely day."])
    outcome = scene.run()
    assert isinstance(outcome, Failed)
    assert outcome.code == "model_output_invalid"
    assert scene.model.asked == 3


def test_nonsense_in_between_is_forgiven() -> None:
    assert Scene(["hm", "hm", CLICK, "hm", "hm", DONE]).run() == Finished("42")


def test_a_refused_action_is_told_and_not_repeated() -> None:
    scene = Scene([CLICK, DONE], errors=[SandboxError("coordinate outside")])
    assert scene.run() == Finished("42")
    assert scene.statuses[0] == StepStatus.FAILED
    assert "coordinate outside" in (scene.recorder.steps[0].feedback or "")
    assert scene.sandbox.done == []


def test_an_unknown_outcome_is_looked_at_and_not_repeated() -> None:
    scene = Scene([CLICK, DONE], errors=[OutcomeUnknown("timed out")])
    assert scene.run() == Finished("42")
    assert scene.statuses[0] == StepStatus.UNKNOWN
    assert "may or may not" in (scene.recorder.steps[0].feedback or "")
    assert scene.sandbox.previews == 2


def test_a_sandbox_that_always_refuses_ends_the_job() -> None:
    outcome = Scene([CLICK], errors=[SandboxError("no")] * 3).run()
    assert isinstance(outcome, Failed)
    assert outcome.code == "sandbox_error"


@pytest.mark.parametrize("error", [SandboxLost("gone"), CredentialsRejected("no")])
def test_some_errors_end_the_job_at_once_with_the_step_closed(error: Exception) -> None:
    scene = Scene([CLICK, DONE], errors=[error])
    with pytest.raises(type(error)):
        scene.run()
    assert scene.statuses == [StepStatus.FAILED]


def test_a_stop_is_obeyed_before_the_next_action() -> None:
    scene = Scene([CLICK])

    async def intend(*_: object) -> None:
        scene.stop.set(Reason.CANCELLED)

    scene.recorder.intend = intend  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        scene.run()
    assert scene.sandbox.done == []


# --- bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.TAKEN_OVER, Reason.CANCELLED])
def test_who_asks_for_a_job_that_is_stuck_has_it_rather_than_an_error(reason: Reason) -> None:
    scene = Scene([CLICK], errors=[OutcomeUnknown("lost")] * 3)
    act = scene.sandbox.act

    async def asked(actions: Sequence[Action], *, look: bool) -> Observation | None:
        if len(scene.sandbox.errors) == 1:
            scene.stop.set(reason)  # while its last chance is under way
        return await act(actions, look=look)

    scene.sandbox.act = asked  # type: ignore[method-assign]
    with pytest.raises(Stopped) as stopped:
        scene.run()
    assert stopped.value.reason is reason
    assert scene.statuses == [StepStatus.UNKNOWN] * 3


def test_the_same_on_a_screen_that_does_not_change_is_told_and_then_ends() -> None:
    scene = Scene([CLICK], looks=["still"])
    outcome = scene.run()
    assert outcome == Failed("loop_detected", "the same 6 times, on a screen that does not change")
    told = [step.feedback for step in scene.recorder.steps]
    assert told[:2] == [None, None]
    assert all("3 times" in (text or "") or "does not change" in (text or "") for text in told[2:])
    assert len(scene.sandbox.done) == 6


def test_a_cursor_that_blinks_is_no_change() -> None:
    scene = Scene([CLICK], looks=["on", "off"] * 20)
    outcome = scene.run()
    assert isinstance(outcome, Failed)
    assert outcome.code == "loop_detected"


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        ([CLICK], [f"counts to {number}" for number in range(30)]),  # the screen answers
        ([CLICK, "Action: hotkey(key='esc')"] * 10, ["still"]),  # it tries something else
        (["Action: wait()"], ["still"]),  # what takes long, takes long
        ([CLICK], [None]),  # nobody knows
    ],
)
def test_what_is_no_loop_goes_on(answers: list[str], looks: list[str | None]) -> None:
    scene = Scene(list(answers), looks=list(looks), max_steps=15)
    assert scene.run() == Failed("max_steps", "not finished after 15 steps")


@pytest.mark.parametrize(
    ("bounds", "said", "steps"),
    [({"max_model_calls": 4}, "4 calls", 4), ({"max_tokens": 250}, "250 tokens", 3)],
)
def test_budgets(bounds: dict[str, int], said: str, steps: int) -> None:
    scene = Scene([CLICK], bounds=bounds)
    outcome = scene.run()
    assert isinstance(outcome, Failed)
    assert (outcome.code, scene.recorder.step_count) == ("budget_exceeded", steps)
    assert said in outcome.message
