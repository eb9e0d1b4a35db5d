"""One run's sandbox: found or created, looked at, acted on."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from lybic.dto import SandboxActionResponseDto
from pydantic import SecretStr

from shared.errors import CredentialsRejected, SandboxError, SandboxLost, SandboxUnavailable
from shared.sandboxes import SandboxService, name_for
from shared.schemas import SandboxInfo
from shared.screenshots import keyless
from shared.settings import LybicSettings
from shared.transport import checked_before_sending
from worker.actions import Action
from worker.pictures import Pictures
from worker.protocols import Observation
from worker.retries import BOOT_POLL_SECONDS, BOOT_SECONDS, retrying
from worker.stop import Stop

log = logging.getLogger(__name__)

MARGIN_SECONDS = 600.0
"""No step takes longer."""
AGAIN_SECONDS = 30.0
"""After a life could not be extended."""
KNOWN = frozenset({"STOPPED", "ERROR"})
"""States in which a sandbox does not start any more."""


async def find(service: SandboxService, sandbox_id: str) -> SandboxInfo:
    """The sandbox that a job names, if it is there."""
    return await retrying(lambda: service.describe(sandbox_id))


async def make(
    service: SandboxService, job_id: UUID, settings: LybicSettings, stop: Stop, *, perhaps_made: bool
) -> SandboxInfo:
    """A running sandbox for the job: a new one, or the one that an earlier run has `perhaps_made`."""
    name = name_for(job_id)

    async def create() -> SandboxInfo:
        with checked_before_sending(stop.check):
            return await service.create(name=name, shape=settings.shape, life_seconds=settings.life_seconds)

    made = await retrying(lambda: service.named(name)) if perhaps_made else []
    info = SandboxInfo(sandbox_id=made[0]) if made else await retrying(create)
    await _booted(service, info.sandbox_id)
    if info.os is None:  # not every answer tells it
        info = await find(service, info.sandbox_id)
    return info.model_copy(update={"created_by_task": True})


async def _booted(service: SandboxService, sandbox_id: str) -> None:
    """Waits until the sandbox runs."""
    try:
        async with asyncio.timeout(BOOT_SECONDS):
            while (status := await retrying(lambda: service.status(sandbox_id))) == "PENDING":
                await asyncio.sleep(BOOT_POLL_SECONDS)
    except TimeoutError:
        raise SandboxError(f"sandbox {sandbox_id} did not start within {BOOT_SECONDS:g} s") from None
    if status != "RUNNING":
        said = status if status in KNOWN else "in no known state"
        raise SandboxError(f"sandbox {sandbox_id} did not start: it is {said}")


class Life:
    """How long a sandbox has to live, and what is done about it.

    One that was made for a job is always given its whole span again when half of it is over. One that was
    named by its caller is theirs; it is kept only from ending in the midst of the job.
    """

    def __init__(self, service: SandboxService, info: SandboxInfo, seconds: int) -> None:
        self._service = service
        self._id = info.sandbox_id
        self._seconds = seconds
        self._margin = seconds / 2 if info.created_by_task else min(seconds / 2, MARGIN_SECONDS)
        self._ends = info.expires_at.timestamp() if info.expires_at else time.time() + seconds
        self._later = 0.0

    @property
    def is_short(self) -> bool:
        """Whether it should be extended."""
        return time.time() > max(self._ends - self._margin, self._later)

    async def extend(self) -> None:
        """Gives the sandbox its whole span again, unless it has a longer one; failing to is logged.

        Raises `SandboxLost`.
        """
        if self._ends > time.time() + self._seconds:
            return
        try:
            await self._service.extend_life(self._id, self._seconds)
            self._ends = time.time() + self._seconds
        except SandboxLost:
            raise
        except (SandboxError, CredentialsRejected) as error:  # it lives on for a while
            self._later = time.time() + AGAIN_SECONDS  # not each step is to wait for another failure
            log.warning("the life of sandbox %s could not be extended: %s", self._id, error.message)


class LybicSandbox:
    """A Lybic sandbox as the step loop sees it."""

    def __init__(
        self,
        service: SandboxService,
        info: SandboxInfo,
        settings: LybicSettings,
        *,
        stop: Stop,
        pictures: Pictures,
        secret: SecretStr,
    ) -> None:
        self._service = service
        self._id = info.sandbox_id
        self._life = Life(service, info, settings.life_seconds)
        self._stop = stop
        self._pictures = pictures
        self._secret = secret

    async def observe(self) -> Observation:
        """The screen as it is."""
        if self._life.is_short:
            await self._stop.wait_for(self._life.extend())
        return await self._stop.wait_for(retrying(self._observe))

    async def act(self, actions: Sequence[Action], *, look: bool) -> Observation | None:
        """Carries out the actions in order."""
        if self._life.is_short:
            await self._stop.wait_for(self._life.extend())
        seen = None
        for number, action in enumerate(actions, 1):
            self._stop.check()
            last_look = look and number == len(actions)
            seen = await self._stop.wait_for(self._act(action, look=last_look), effect=True)
        return seen

    async def fingerprint(self, observation: Observation) -> str | None:
        """What the picture looks like."""
        return await self._stop.wait_for(self._pictures.fingerprint(observation.screenshot))

    def keep(self, observation: Observation) -> Observation:
        """Puts the picture into the store, if there is one, without waiting for it."""
        return replace(observation, picture=self._pictures.keep(observation.screenshot))

    async def _observe(self) -> Observation:
        seen = self._observation(await self._service.preview(self._id))
        if seen is None:
            raise SandboxUnavailable("Lybic sent no screenshot")
        return seen

    async def _act(self, action: Action, *, look: bool) -> Observation | None:
        response = await retrying(lambda: self._execute(action, look=look))
        try:
            return self._observation(response) if look else None
        except SandboxError:  # the action was carried out all the same; looking anew tells what is wrong
            return None

    async def _execute(self, action: Action, *, look: bool) -> SandboxActionResponseDto:
        with checked_before_sending(self._stop.check):
            return await self._service.execute(self._id, action, screenshot=look)

    def _observation(self, response: SandboxActionResponseDto) -> Observation | None:
        """What a response shows. Raises `SandboxError` for an address that is not fit to be kept."""
        if not response.screenShot:
            return None
        keyless(response.screenShot, self._secret)
        cursor = response.cursorPosition
        screen = (cursor.screenWidth, cursor.screenHeight) if cursor else None
        return Observation(response.screenShot, screen)
