"""The step loop with a model that reads from a list and a sandbox that remembers."""

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
from worker.loop import Failed, Finished, NeedsHuman, Outcome, StepLoop
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

    def answer(self, messages: Sequence[Message]) -> Answer:
        self.asked += 1
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Answer(text, Usage(model_calls=1), 1)


@dataclass
class MemorySandbox:
    """Remembers what was done; fails with `errors` first."""

    errors: list[Exception] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    previews: int = 0

    def observe(self) -> Observation:
        self.previews += 1
        return Observation(f"preview {self.previews}", (1280, 720))

    def act(self, actions: Sequence[Action], *, look: bool) -> Observation | None:
        if self.errors:
            raise self.errors.pop(0)
        self.done += actions
        return Observation(f"after {len(self.done)}", (1280, 720)) if look else None


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

    def failures(self) -> int:
        return trailing(self.steps, FAILURES)

    def unusable(self) -> int:
        return trailing(self.steps, UNUSABLE)

    def conversation(self, observation: Observation) -> Sequence[Message]:
        return [Message("user", screenshot=observation.screenshot)]

    def observed(self, observation: Observation) -> None:
        self.seen.append(observation.screenshot)

    def intend(self, observation: Observation, answer: Answer, decision: Decision) -> None:
        self.deeds_at_intent.append(len(self.sandbox.done))
        self.steps.append(Step(status=StepStatus.INTENDED if decision.actions else StepStatus.DONE))

    def misread(self, observation: Observation, answer: Answer, problem: str) -> None:
        self.steps.append(Step(status=StepStatus.UNUSABLE, feedback=problem))

    def acted(
        self, status: StepStatus, *, feedback: str | None, milliseconds: int, seen: Observation | None
    ) -> None:
        self.steps[-1].status, self.steps[-1].feedback = status, feedback
        if seen:
            self.observed(seen)


@dataclass
class Scene:
    """One run, ready to go."""

    answers: list[str]
    errors: list[Exception] = field(default_factory=list)
    max_steps: int = 20
    settle_seconds: float = 0

    def __post_init__(self) -> None:
        self.stop = Stop(math.inf)
        self.model = ListModel(self.answers)
        self.sandbox = MemorySandbox(self.errors)
        self.recorder = MemoryRecorder(self.sandbox)

    def run(self) -> Outcome:
        return StepLoop(
            model=self.model,
            sandbox=self.sandbox,
            recorder=self.recorder,
            parse=lambda text, seen: uitars.parse(text, screen=seen.screen),
            stop=self.stop,
            max_steps=self.max_steps,
            settle_seconds=self.settle_seconds,
        ).run()

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


def test_the_screen_is_looked_at_anew_after_it_settled() -> None:
    scene = Scene([CLICK, DONE], settle_seconds=0.001)
    scene.run()
    assert scene.recorder.seen == ["preview 1", "preview 2"]


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
    scene.recorder.intend = lambda *_: scene.stop.set(Reason.CANCELLED)  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        scene.run()
    assert scene.sandbox.done == []
