"""The durable record of one run: each step an intent before it is acted on, and an outcome after."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from shared import events, notes, writes
from shared.conversation import Message, Turn, trailing, window
from shared.events import NewEvent
from shared.models import Step
from shared.schemas import Usage
from shared.settings import AgentSettings
from shared.states import Request, StepStatus
from shared.writes import AlreadyWritten, Lease, Progress, Write
from worker.actions import Decision
from worker.metrics import StepWatch
from worker.protocols import Answer, Observation
from worker.stop import ASKED, Stop
from worker.storage import Storage, persist
from worker.wakes import WakeBatch

GO_ON = "Noted. Go on."
FAILURES = frozenset({StepStatus.FAILED, StepStatus.UNKNOWN})
UNUSABLE = frozenset({StepStatus.UNUSABLE})


class JobRecorder:
    """Writes one run's steps under its lease, and knows what was written before."""

    def __init__(
        self,
        storage: Storage,
        wakes: WakeBatch,
        lease: Lease,
        stop: Stop,
        *,
        events: int,
        prompts: Sequence[str],
        history: Sequence[Turn],
        current: Turn,
        usage: Usage,
        owner: UUID | None,
        settings: AgentSettings,
        watch: StepWatch,
    ) -> None:
        self._storage = storage
        self._wakes = wakes
        self._lease = lease
        self._stop = stop
        self._progress = Progress(events, len(current.steps))
        self._prompts = prompts
        self._history = history
        self._steps = list(current.steps)
        self._current = replace(current, steps=self._steps)
        self._usage = usage
        self._owner = owner
        self._settings = settings
        self._watch = watch

    @property
    def step_count(self) -> int:
        """How many steps the job has had, over all runs."""
        return len(self._steps)

    @property
    def usage(self) -> Usage:
        """What the model has been asked and what it cost, over all runs."""
        return self._usage

    def failures(self) -> int:
        """How many steps in a row failed or have an unknown outcome, up to the last one."""
        return trailing(self._steps, FAILURES)

    def unusable(self) -> int:
        """How many answers in a row could not be read, up to the last one."""
        return trailing(self._steps, UNUSABLE)

    def conversation(self, observation: Observation) -> Sequence[Message]:
        """What the model is asked: everything so far within the window, then the screen. So a step begins."""
        self._watch.begin(self.step_count + 1)
        return window(
            self._prompts,
            [*self._history, self._current],
            Message("user", screenshot=observation.screenshot, picture=observation.picture),
            max_screenshots=self._settings.max_screenshots,
            max_messages=self._settings.max_messages,
        )

    async def observed(self, observation: Observation) -> None:
        """Records what the screen shows before the next step."""
        told = [_seen(observation, self.step_count + 1)]
        await self._write(writes.change(self._lease, told, self._progress, **_kept(observation)))

    async def intend(self, observation: Observation, answer: Answer, decision: Decision) -> None:
        """Records a decision before it is acted on."""
        thought = decision.thought or answer.reasoning
        status = StepStatus.INTENDED if decision.actions else StepStatus.DONE
        feedback = GO_ON if not decision.actions and not decision.control else None
        step = self._step(
            observation,
            answer,
            thought=thought,
            actions=list(decision.actions),
            status=status,
            feedback=feedback,
        )
        await self._add(step, answer, _told(decision, thought, step.number), _to_remember(decision))
        if status is not StepStatus.INTENDED:
            self._watch.over(status)

    async def misread(self, observation: Observation, answer: Answer, problem: str) -> None:
        """Records an answer that holds no decision, and what the model is told of it."""
        step = self._step(
            observation, answer, thought="", actions=[], status=StepStatus.UNUSABLE, feedback=problem
        )
        await self._add(step, answer, [])
        self._watch.over(StepStatus.UNUSABLE)

    async def acted(
        self, status: StepStatus, *, feedback: str | None, milliseconds: int, seen: Observation | None
    ) -> None:
        """Records the outcome of the last step, and the screen after it where that is known already."""
        step = self._steps[-1]
        told = [_seen(seen, step.number + 1)] if seen else []
        closed = writes.outcome(
            self._lease,
            status,
            told,
            self._progress,
            feedback=feedback,
            action_ms=milliseconds,
            **_kept(seen),
        )
        await self._write(closed)
        step.status, step.feedback, step.action_ms = status, feedback, milliseconds
        self._watch.over(status)

    def _step(self, observation: Observation, answer: Answer, **values: Any) -> Step:
        return Step(
            number=self.step_count + 1,
            screenshot=observation.screenshot,
            picture=observation.picture,
            raw=answer.text,
            input_tokens=answer.usage.input_tokens,
            output_tokens=answer.usage.output_tokens,
            model_ms=answer.milliseconds,
            **values,
        )

    async def _add(
        self, step: Step, answer: Answer, told: Sequence[NewEvent], to_remember: Sequence[str] = ()
    ) -> None:
        write = writes.new_step(self._lease, step, answer.usage, told, self._progress)

        def record_all(session: Session) -> Request | None:
            notes.remember(session, self._owner, self._lease.job_id, step.number, to_remember)
            return writes.carry_out(session, write)

        request = await self._write(
            write, partial(self._storage.transaction, record_all) if to_remember else None
        )
        self._steps.append(step)
        self._usage += answer.usage
        if request is not None:
            self._stop.set(ASKED[request])  # before anything is done about this decision

    async def _write(
        self, write: Write, how: Callable[[], Awaitable[Request | None]] | None = None
    ) -> Request | None:
        """Commits the write once, and wakes whoever follows the job."""
        try:
            result = await persist(how or partial(self._storage.carry_out, write), self._stop)
        except AlreadyWritten as written:
            result = written.request
        assert write.after  # noqa: S101 - its counts are known
        self._progress = write.after
        if write.tells:
            self._wakes.wake(self._lease.job_id)
        return result


def _seen(observation: Observation, step: int) -> NewEvent:
    return events.observation(observation.screenshot, step, observation.picture)


def _kept(seen: Observation | None) -> dict[str, Any]:
    """The column that says so where a picture is kept."""
    return {"has_pictures": True} if seen and seen.picture else {}


def _to_remember(decision: Decision) -> list[str]:
    return [note.content for note in decision.notes if note.name == "save_memory" and note.content.strip()]


def _told(decision: Decision, thought: str, step: int) -> list[NewEvent]:
    """The events of a decision. How it ends the job is told when it has ended."""
    told = [events.thinking(thought, step)] if thought else []
    told += [events.result(note.content, step) for note in decision.notes if note.name == "output"]
    if decision.actions:
        told.append(events.action(decision.call, decision.actions, step))
    return told
