"""One run's sandbox: found or created, looked at, acted on."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from lybic.dto import SandboxActionResponseDto
from pydantic import SecretStr

from shared.errors import SandboxError, SandboxUnavailable
from shared.portal import Portal, checked_before_sending
from shared.sandboxes import SandboxService
from shared.schemas import SandboxInfo
from shared.secrets import redact
from shared.settings import LybicSettings
from worker.actions import Action
from worker.protocols import Observation
from worker.retries import BOOT_POLL_SECONDS, BOOT_SECONDS, retrying
from worker.screenshots import checked
from worker.stop import Stop

KNOWN = frozenset({"STOPPED", "ERROR"})
"""States in which a sandbox does not start any more."""


async def provide(
    service: SandboxService, job_id: UUID, sandbox_id: str | None, settings: LybicSettings
) -> SandboxInfo:
    """The sandbox that a job works in, running: the one that it names, or a new one."""
    if sandbox_id is not None:
        return await retrying(lambda: service.describe(sandbox_id))
    made = await retrying(
        lambda: service.create(
            name=f"task-{job_id}", shape=settings.shape, life_seconds=settings.life_seconds
        )
    )
    await _booted(service, made.sandbox_id)
    return made.model_copy(update={"created_by_task": True})


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


class LybicSandbox:
    """A Lybic sandbox as the step loop sees it."""

    def __init__(
        self, service: SandboxService, sandbox_id: str, *, portal: Portal, stop: Stop, secret: SecretStr
    ) -> None:
        self._service = service
        self._id = sandbox_id
        self._portal = portal
        self._stop = stop
        self._secret = secret

    def observe(self) -> Observation:
        """The screen as it is."""
        return self._stop.wait_for(self._portal.start(retrying, self._observe))

    def act(self, actions: Sequence[Action], *, look: bool) -> Observation | None:
        """Carries out the actions in order."""
        seen = None
        for number, action in enumerate(actions, 1):
            self._stop.check()
            last_look = look and number == len(actions)
            seen = self._stop.wait_for(self._portal.start(self._act, action, last_look), effect=True)
        return seen

    async def _observe(self) -> Observation:
        seen = self._observation(await self._service.preview(self._id))
        if seen is None:
            raise SandboxUnavailable("Lybic sent no screenshot")
        return seen

    async def _act(self, action: Action, look: bool) -> Observation | None:  # noqa: FBT001 - called by position
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
        checked(response.screenShot)
        if redact(response.screenShot, [self._secret]) != response.screenShot:
            raise SandboxError("the screenshot's address holds the API key")
        cursor = response.cursorPosition
        screen = (cursor.screenWidth, cursor.screenHeight) if cursor else None
        return Observation(response.screenShot, screen)
