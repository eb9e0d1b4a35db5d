"""One run of a job: claim, lease, loop, end. The only place where an error becomes a failed job."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import events, jobs, notes, writes
from shared.conversation import Turn
from shared.db import Database
from shared.errors import JOB_CODES, GuiAgentError, LeaseLost, StorageUnavailable
from shared.logging import log_context
from shared.models import Job
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.prompts import resolve_language, system_prompts
from shared.sandboxes import SandboxService
from shared.schemas import (
    Credentials,
    JobOptions,
    LybicCredentials,
    SandboxInfo,
    Usage,
    Vocabulary,
    sandbox_key,
    vocabulary_of,
)
from shared.screenshots import AllowedHosts, ScreenshotFetcher
from shared.secrets import Vault
from shared.settings import Settings
from shared.tracing import Attributes, annotate, span
from shared.writes import Lease, Write
from worker import uitars
from worker.actions import Decision
from worker.completions import Completions, endpoints
from worker.lease import LeaseKeeper
from worker.loop import Bounds, Failed, Finished, NeedsHuman, Outcome, StepLoop
from worker.metrics import LEASES_LOST, RUNNING, StepWatch, count_claims, count_end
from worker.model import OpenAIModel
from worker.pictures import Pictures
from worker.protocols import Model, Observation
from worker.recorder import JobRecorder
from worker.sandbox import Life, LybicSandbox, find, make
from worker.stop import ASKED, Reason, Stop, Stopped
from worker.storage import Storage, persist
from worker.wakes import WakeBatch

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""How long a job that was just submitted is left to its message."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is ours now. `at` is the monotonic time from just before the claim was sent."""

    job: Job
    at: float


class Runner:
    """Claims jobs, in any thread, and runs them, on the event loop. Raises `ConfigurationError` when made."""

    def __init__(
        self,
        settings: Settings,
        *,
        db: Database,
        vault: Vault,
        wakes: WakeBatch,
        portal: Portal,
        storage: Storage,
        store: PictureStore | None,
        keeper: LeaseKeeper,
        name: str,
    ) -> None:
        self._settings = settings
        self._db = db
        self._vault = vault
        self._wakes = wakes
        self._portal = portal
        self._completions = Completions(portal.http, settings.model.timeout_seconds)
        self._storage = storage
        self._store = store
        self._keeper = keeper
        self._name = name
        self._screenshot_hosts = AllowedHosts(settings.lybic_endpoints, settings.lybic.screenshot_hosts)

    def claim(self, job_id: UUID) -> Claimed | None:
        """Takes the job for a new run, if it is free. Raises `StorageUnavailable`."""
        now = time.monotonic()
        try:
            with self._db.transaction() as session:
                job = jobs.claim(
                    session, job_id, owner=self._name, lease_seconds=self._settings.worker.lease_seconds
                )
        except IntegrityError:  # a job at the same sandbox was taken at the same moment
            return None
        if job is None:
            return None
        count_claims([job], "message")
        return Claimed(job, now)

    def claim_forgotten(self, limit: int) -> list[Claimed]:
        """Takes jobs that nobody holds though they are free. Raises `StorageUnavailable`."""
        now = time.monotonic()
        try:
            with self._db.transaction() as session:
                forgotten = jobs.claim_forgotten(
                    session,
                    owner=self._name,
                    lease_seconds=self._settings.worker.lease_seconds,
                    grace_seconds=GRACE_SECONDS,
                    limit=limit,
                )
        except IntegrityError:  # as above; the next sweep sees who was first
            return []
        count_claims(forgotten, "sweep")
        return [Claimed(job, now) for job in forgotten]

    async def run(self, claimed: Claimed) -> None:
        """Works at a claimed job until it ends or is lost. Raises `StorageUnavailable` before it began."""
        job = claimed.job
        self._wakes.wake(job.id)
        lease = Lease(job.id, job.run, self._name)
        with (
            RUNNING.track_inprogress(),
            log_context(job_id=job.id, run=job.run),
            span("run", _named(job), parent=job.options.get("traceparent")),
            self._keeper.hold(lease, claimed=claimed.at, seconds_left=_seconds_left(job)) as stop,
        ):
            log.info("claimed")
            if job.request is not None:  # of a run that ended before it could obey
                stop.set(ASKED[job.request])
            try:
                await self._end(lease, stop, await self._outcome(job, lease, stop))
            except LeaseLost as error:
                LEASES_LOST.inc()
                log.warning("%s", error.message)

    async def _outcome(self, job: Job, lease: Lease, stop: Stop) -> Outcome | Reason:
        """How the run ends. Raises `LeaseLost`, and `StorageUnavailable`: then it can't be written."""
        try:
            return await self._worked(job, lease, stop)
        except (LeaseLost, StorageUnavailable):
            raise
        except Stopped as stopped:
            return stopped.reason
        except GuiAgentError as error:
            log.info("failed: %s: %s", error.code, error.message)
            return Failed(error.code if error.code in JOB_CODES else "internal", error.message)
        except Exception:
            log.exception("unexpected error")
            return Failed("internal", "an unexpected error; the server's log tells more")

    async def _worked(self, job: Job, lease: Lease, stop: Stop) -> Outcome | Reason:
        """How far it came. Before a human has the sandbox its life is extended: nobody else does it then."""
        outcome: Outcome | Reason
        try:
            outcome = await self._work(job, lease, stop)
        except Stopped as stopped:
            outcome = stopped.reason
        if isinstance(outcome, NeedsHuman) or outcome is Reason.TAKEN_OVER:
            # As an effect: a read is abandoned at once by a run that was told to stop.
            await stop.wait_for(self._extend_life(job), effect=True)
        return outcome

    async def _extend_life(self, job: Job) -> None:
        if job.sandbox is not None:
            service = self._service(self._vault.open(job.credentials or b"", Credentials).lybic)
            info = SandboxInfo.model_validate(job.sandbox)
            await Life(service, info, self._settings.lybic.life_seconds).extend()

    def _service(self, lybic: LybicCredentials) -> SandboxService:
        return SandboxService(self._portal.http, lybic, self._settings.lybic.timeout_seconds)

    async def _work(self, job: Job, lease: Lease, stop: Stop) -> Outcome:
        stop.check()
        if job.crashes >= self._settings.worker.max_runs:
            return await self._given_up(job)
        options = JobOptions.model_validate(job.options)
        credentials = self._vault.open(job.credentials or b"", Credentials)
        service = self._service(credentials.lybic)
        info = await self._provide(job, options, lease, credentials.lybic, service, stop)
        vocabulary = vocabulary_of(info.os)
        fetcher = ScreenshotFetcher(self._portal.http, self._screenshot_hosts)
        pictures = Pictures(fetcher, job.id, self._store)
        sandbox = LybicSandbox(
            service,
            info,
            self._settings.lybic,
            stop=stop,
            pictures=pictures,
            secret=credentials.lybic.api_key,
        )

        async def parse(text: str, seen: Observation) -> Decision:
            screen = seen.screen
            if screen is None and options.dialect == "ui-tars-1.5":  # Lybic does not tell it of a phone
                screen = await stop.wait_for(pictures.size(seen.screenshot))
            return uitars.parse(text, dialect=options.dialect, vocabulary=vocabulary, screen=screen)

        watch = StepWatch()
        loop = StepLoop(
            model=self._model(options, credentials.model_key, pictures, stop),
            sandbox=sandbox,
            recorder=await self._recorder(job, options, vocabulary, lease, stop, watch),
            parse=parse,
            stop=stop,
            bounds=self._bounds(options),
            settle_seconds=self._settings.agent.settle_seconds,
        )
        try:
            with watch:
                return await loop.run()
        finally:
            await pictures.close()

    def _bounds(self, options: JobOptions) -> Bounds:
        agent = self._settings.agent
        return Bounds(
            max_steps=options.max_steps,
            max_model_calls=options.max_model_calls,
            max_tokens=options.max_tokens,
            loop_nudge=agent.loop_nudge,
            loop_limit=agent.loop_limit,
        )

    def _model(self, options: JobOptions, key: SecretStr, pictures: Pictures, stop: Stop) -> Model:
        """The job's model; where there is a fallback, that is asked when it does not answer."""
        settings, model = self._settings.model, None
        for endpoint in reversed(endpoints(options, key, settings)):
            model = OpenAIModel(
                endpoint,
                settings,
                completions=self._completions,
                stop=stop,
                pictures=pictures,
                fallback=model,
            )
        assert model is not None  # noqa: S101 - there is one at least
        return model

    async def _provide(
        self,
        job: Job,
        options: JobOptions,
        lease: Lease,
        lybic: LybicCredentials,
        service: SandboxService,
        stop: Stop,
    ) -> SandboxInfo:
        """The job's sandbox, recorded: an earlier run's, the named one, or a new one."""
        if job.sandbox is not None:
            return SandboxInfo.model_validate(job.sandbox)
        settings = self._settings.lybic
        if job.sandbox_id is not None:
            info = await stop.wait_for(find(service, job.sandbox_id))
        else:
            if not options.keep_sandbox:  # remembered before it is there: it is deleted, whatever happens
                sealed, linger = self._vault.seal(lybic), settings.linger_seconds
                announced = writes.sandbox_announced(lease, sealed, linger_seconds=linger)
                await self._persist(announced, stop)
            making = make(service, job.id, settings, stop, perhaps_made=job.run > 1)
            info = await stop.wait_for(making)
        key = sandbox_key(lybic, info.sandbox_id)
        await self._persist(writes.sandbox_known(lease, info, key), stop)
        job.sandbox = info.model_dump(mode="json")
        return info

    async def _persist(self, write: Write, stop: Stop) -> None:
        await persist(partial(self._storage.carry_out, write), stop)

    async def _given_up(self, job: Job) -> Outcome:
        runs = await self._storage.transaction(lambda session: jobs.runs(session, job.id))
        history = runs[:-1]  # the last one is this
        return Failed("internal", f"the worker died in {job.crashes} runs: {'; '.join(history)}")

    async def _recorder(
        self,
        job: Job,
        options: JobOptions,
        vocabulary: Vocabulary,
        lease: Lease,
        stop: Stop,
        watch: StepWatch,
    ) -> JobRecorder:
        if options.use_memory and job.notes is None:
            recall = partial(self._recall, job=job, lease=lease)
            await persist(partial(self._storage.transaction, recall), stop)
        *history, current = await self._turns(job)
        language = resolve_language(options.language, job.instruction)
        return JobRecorder(
            self._storage,
            self._wakes,
            lease,
            stop,
            events=job.event_count,
            prompts=system_prompts(
                language,
                vocabulary=vocabulary,
                dialect=options.dialect,
                user_system_prompt=options.user_system_prompt,
                notes=job.notes or (),
            ),
            history=history,
            current=current,
            usage=Usage(
                model_calls=job.model_calls, input_tokens=job.input_tokens, output_tokens=job.output_tokens
            ),
            owner=job.owner_id,
            settings=self._settings.agent,
            watch=watch,
        )

    async def _turns(self, job: Job) -> list[Turn]:
        """The jobs that this one continues, and itself, with their steps."""
        if job.run == 1 and job.parent_id is None:
            return [Turn(job.instruction)]
        return await self._storage.transaction(partial(jobs.turns, job=job))

    def _recall(self, session: Session, job: Job, lease: Lease) -> None:
        """Chooses the notes that the job is given, once: every run of it must ask the same."""
        job.notes = list(
            notes.recall(session, job.owner_id, job.instruction, limit=self._settings.agent.notes)
        )
        writes.carry_out(session, writes.change(lease, notes=job.notes))

    async def _end(self, lease: Lease, stop: Stop, outcome: Outcome | Reason) -> None:
        """Writes the end of the run: status and last event in one transaction."""
        if outcome is Reason.LEASE_LOST:
            raise LeaseLost("the lease was lost")
        called = True
        if isinstance(outcome, NeedsHuman):
            called = await self._call_human(lease, stop, outcome.content)
        elif outcome is Reason.TAKEN_OVER:
            called = await self._call_human(lease, stop, events.TAKEN_OVER, taken_over=True)
        else:
            await self._persist(_end(lease, outcome), stop)
        if not called:
            outcome = Reason.CANCELLED
        self._wakes.wake(lease.job_id)
        count_end(outcome)
        end = outcome.name if isinstance(outcome, Reason) else type(outcome).__name__
        annotate({"guiagent.end": end})
        log.info("ended: %s", end)

    async def _call_human(self, lease: Lease, stop: Stop, content: str, **more: Any) -> bool:
        call = partial(jobs.call_human, lease=lease, content=content, **more)
        return await persist(partial(self._storage.transaction, call), stop)


def _end(lease: Lease, outcome: Finished | Failed | Reason) -> Write:
    match outcome:
        case Finished(output):
            return writes.finished(lease, output)
        case Failed(code, message):
            return writes.failed(lease, code, message)
        case Reason.CANCELLED:
            return writes.cancelled(lease)
        case Reason.TIMEOUT:
            return writes.failed(lease, "timeout", "the task's time is over")
        case _:  # the worker is going down
            return writes.given_back(lease)


def _named(job: Job) -> Attributes:
    """The run in a trace."""
    return {"guiagent.job_id": str(job.id), "guiagent.run": job.run}


def _seconds_left(job: Job) -> float | None:
    """How much of the job's own time is left, by the database's clock at the claim; humans take their own."""
    limit = job.options.get("timeout_seconds")
    if limit is None or job.started_at is None:
        return None
    return float(limit) - (job.updated_at - job.started_at - job.paused).total_seconds()
