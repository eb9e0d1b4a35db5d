"""The edge to Lybic: every call through its SDK, every error in our words.

The SDK repeats each POST up to three times by itself, clicks that timed out among them; here it never does.
It builds URLs without escaping, so ids are escaped before it sees them.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import httpx
from lybic import LybicAPIError, LybicAuth, LybicClient, LybicError
from lybic.action import Action
from lybic.dto import (
    CreateSandboxDto,
    ExecuteSandboxActionDto,
    Sandbox,
    SandboxActionResponseDto,
    SandboxListItem,
)
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from shared.errors import (
    CredentialsRejected,
    OutcomeUnknown,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
)
from shared.metrics import SANDBOX_SECONDS, timed
from shared.schemas import ListedSandbox, LybicCredentials, SandboxInfo
from shared.secrets import clean, redact
from shared.tracing import span

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
HELD = {"wait", "keyboard:hotkey", "touch:longPress"}
"""Actions whose `duration`, in milliseconds, the sandbox lets pass before it answers."""
LONGEST_MESSAGE = 500
LONGEST_NAME = 200
NEVER = datetime.min.replace(tzinfo=UTC)


def name_for(job_id: UUID) -> str:
    """The name of a sandbox that is made for a job."""
    return f"task-{job_id}"


def job_of(name: str) -> UUID | None:
    """The job that a sandbox of this name says that it was made for."""
    said = re.fullmatch(r"task-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", name)
    return UUID(said[1]) if said else None


class SandboxService:
    """Lybic's sandboxes, as one organisation sees them. Its calls run on the portal's thread."""

    def __init__(self, http: httpx.AsyncClient, credentials: LybicCredentials, timeout: float) -> None:
        self._secret = credentials.api_key
        self._timeout = timeout
        self._sdk = LybicClient(
            LybicAuth(
                org_id=quote(credentials.org_id, safe=""),
                api_key=credentials.api_key.get_secret_value(),
                endpoint=credentials.endpoint,
            ),
            max_retries=0,
        )
        self._sdk.client = http

    async def create(
        self, *, name: str, shape: str, life_seconds: int, project_id: str | None = None
    ) -> SandboxInfo:
        """A new sandbox. Raises `SandboxError` and its kin; after `OutcomeUnknown` there may be one."""
        request = CreateSandboxDto(name=name, shape=shape, maxLifeSeconds=life_seconds, projectId=project_id)
        try:
            async with self._calling("create", effect=True):
                return self._info(await self._sdk.sandbox.create(request))
        except SandboxLost as error:  # a 404 here is the project's or the shape's
            raise SandboxError(error.message, **error.details) from None

    async def describe(self, sandbox_id: str) -> SandboxInfo:
        """What Lybic knows of the sandbox."""
        async with self._calling("describe"):
            found = await self._sdk.sandbox.get(_escaped(sandbox_id))
        return self._info(found.sandbox)

    async def name(self, sandbox_id: str) -> str:
        """How the sandbox is called."""
        async with self._calling("describe"):
            found = await self._sdk.sandbox.get(_escaped(sandbox_id))
        return self._kept(found.sandbox.name, LONGEST_NAME)

    async def status(self, sandbox_id: str) -> str:
        """`PENDING`, `RUNNING`, `STOPPED` or `ERROR`."""
        async with self._calling("status"):
            return str(await self._sdk.sandbox.get_status(_escaped(sandbox_id)))

    async def newest(self, most: int) -> list[ListedSandbox]:
        """The organisation's sandboxes, newest first."""
        async with self._calling("list"):
            found = await self._sdk.sandbox.list()
        listed = [self._listed(one) for one in found]
        return sorted(listed, key=lambda one: one.created_at or NEVER, reverse=True)[:most]

    async def named(self, name: str) -> list[str]:
        """The ids of the sandboxes of this name: how one is found whose creation was cut off."""
        async with self._calling("list"):
            found = await self._sdk.sandbox.list()
        return [one.id for one in found if one.name == name]

    async def extend_life(self, sandbox_id: str, seconds: int) -> None:
        """Gives the sandbox so many seconds to live from now on."""
        async with self._calling("extend_life"):
            await self._sdk.sandbox.extend_life(_escaped(sandbox_id), seconds)

    async def delete(self, sandbox_id: str) -> bool:
        """Ends the sandbox; False: there is none, which is as good."""
        try:
            async with self._calling("delete"):
                await self._sdk.sandbox.delete(_escaped(sandbox_id))
        except SandboxLost:
            return False
        return True

    async def preview(self, sandbox_id: str) -> SandboxActionResponseDto:
        """The screen and the cursor as they are."""
        async with self._calling("screenshot"):
            return await self._sdk.sandbox.preview(_escaped(sandbox_id))

    async def execute(
        self, sandbox_id: str, action: dict[str, Any], *, screenshot: bool
    ) -> SandboxActionResponseDto:
        """Carries out one action, and shows the screen after it if asked to.

        Raises `SandboxError` where it had no effect, `OutcomeUnknown` where nobody knows.
        """
        request = ExecuteSandboxActionDto(
            action=build_action(action), includeScreenShot=screenshot, includeCursorPosition=screenshot
        )
        pause = action.get("duration", 0) / 1000 if action.get("type") in HELD else 0
        async with self._calling("execute", effect=True, longer=pause):
            return await self._sdk.sandbox.execute_sandbox_action(_escaped(sandbox_id), request)

    @asynccontextmanager
    async def _calling(self, call: str, *, effect: bool = False, longer: float = 0) -> AsyncIterator[None]:
        """Measures a call of this kind, beside what `_translated` does."""
        with span(f"sandbox {call}"), timed(SANDBOX_SECONDS, call):
            async with self._translated(effect=effect, longer=longer):
                yield

    @asynccontextmanager
    async def _translated(self, *, effect: bool, longer: float) -> AsyncIterator[None]:
        """Bounds a call in time and turns the SDK's errors into ours.

        `effect`: the call changes something outside. `longer`: seconds that it takes by its nature.
        """
        try:
            async with asyncio.timeout(self._timeout + longer):
                yield
        except NOT_SENT as error:
            raise SandboxUnavailable(f"Lybic is out of reach ({type(error).__name__})") from None
        except (httpx.RequestError, TimeoutError, ValueError, LookupError, TypeError) as error:
            raise _lost_answer(f"Lybic's answer was lost ({type(error).__name__})", effect=effect) from None
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response.status_code, "", None, effect=effect) from None
        except LybicError as error:
            code = error.code if isinstance(error, LybicAPIError) else None
            raise self._refusal(error.status_code or 500, error.message, code, effect=effect) from None

    def _info(self, sandbox: Sandbox) -> SandboxInfo:
        shape = sandbox.shape
        named = sandbox.shapeName or (shape.name if shape else None)
        return SandboxInfo(
            sandbox_id=self._kept(sandbox.id, LONGEST_NAME),
            shape=named and self._kept(named, LONGEST_NAME),
            os=shape.os if shape else None,
            virtualization=shape.virtualization if shape else None,
            architecture=shape.architecture if shape else None,
            hardware_accelerated_encoding=shape.hardwareAcceleratedEncoding if shape else None,
            expires_at=_moment(sandbox.expiresAt),
        )

    def _listed(self, sandbox: SandboxListItem) -> ListedSandbox:
        shape, status = sandbox.shapeName, sandbox.status
        return ListedSandbox(
            sandbox_id=self._kept(sandbox.id, LONGEST_NAME),
            name=self._kept(sandbox.name, LONGEST_NAME),
            shape=shape and self._kept(shape, LONGEST_NAME),
            status=status and status.value,
            created_at=_moment(sandbox.createdAt),
            expires_at=_moment(sandbox.expiresAt),
        )

    def _kept(self, said: object, longest: int) -> str:
        """What may be kept of Lybic's words: it was told the key, and might repeat it."""
        return clean(redact(str(said), [self._secret]), longest)

    def _refusal(self, status: int, message: str, code: str | None, *, effect: bool) -> Exception:
        said = self._kept(message, LONGEST_MESSAGE)
        details = {"sandbox_code": code and self._kept(code, LONGEST_NAME), "sandbox_status": status}
        if status in {401, 403}:
            return CredentialsRejected("Lybic refused the API key", **details)
        if status in {404, 410}:
            return SandboxLost(f"the sandbox does not exist: {said}", **details)
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return SandboxUnavailable("Lybic asks for fewer requests", **details)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return _lost_answer(f"Lybic answered {status}: {said}", effect=effect, **details)
        return SandboxError(f"Lybic refused ({status}): {said}", **details)


def _lost_answer(message: str, *, effect: bool, **details: object) -> SandboxError:
    return OutcomeUnknown(message, **details) if effect else SandboxUnavailable(message, **details)


def _moment(said: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(said)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter at the ends of time
        return None


def _escaped(sandbox_id: str) -> str:
    # A dot segment survives quoting, and httpx would resolve it.
    return quote(sandbox_id, safe="").replace(".", "%2E")


@cache
def _actions() -> TypeAdapter[BaseModel]:
    return TypeAdapter(Annotated[Action, Field(discriminator="type")])


def build_action(action: dict[str, Any]) -> BaseModel:
    """The SDK's own model of an action: `ExecuteSandboxActionDto` alone would pass any dict.

    Raises `SandboxError` for what is no action of Lybic's.
    """
    try:
        return _actions().validate_python(action)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SandboxError(f"not an action of Lybic: {where}: {first['msg']}") from None
