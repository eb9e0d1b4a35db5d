"""The screens of sandboxes as they are now: looked at by one for all who watch, over all processes.

Who gets a task's turn looks; what was seen lies in Redis for some seconds, encrypted, and the others take it
there. So however many watch, Lybic is asked about once a second, and never twice at a time.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

import httpx
from lybic.dto import CursorPosition
from redis import Redis
from redis.exceptions import RedisError

from shared.breaker import Breaker
from shared.errors import (
    CredentialsRejected,
    GuiAgentError,
    PreviewUnavailable,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
)
from shared.portal import Portal
from shared.sandboxes import SandboxService
from shared.schemas import LybicCredentials
from shared.screenshots import AllowedHosts, Picture, ScreenshotFetcher, keyless
from shared.secrets import Vault

PREFIX = "guiagent:preview:"
EVERY_MS = 1000
TURN_MS = 10_000
"""Ends the turn of a process that died; longer than to wait for a place and to look may take together."""
LOOK_SECONDS = 6.0
WAIT_SECONDS = 3.0
POLL_SECONDS = 0.1
KEPT_MS = 5000
FAILURE_KEPT_MS = 2000
MOST_LOOKS = 16
"""At a time, in one process: each may hold a picture of 10 MiB."""
MOST_OPENED = 8
FAILURES = (CredentialsRejected, PreviewUnavailable, SandboxError, SandboxLost, SandboxUnavailable)


@dataclass(frozen=True, slots=True)
class Screen:
    """What a screen shows, and where the cursor is: fractions of its width and height, if Lybic tells."""

    picture: Picture
    cursor: tuple[float, float] | None

    @property
    def tag(self) -> str:
        """The same for screens that are the same."""
        return sha256(repr((self.picture.kind, self.cursor)).encode() + self.picture.data).hexdigest()[:32]


Outcome = Screen | GuiAgentError


class Screens:
    """Looks at screens, and shares what is seen."""

    def __init__(
        self, redis: Redis, vault: Vault, portal: Callable[[], Portal], allowed: AllowedHosts
    ) -> None:
        self._redis = redis
        self._vault = vault
        self._portal = portal
        self._allowed = allowed
        self._places = BoundedSemaphore(MOST_LOOKS)
        self._breaker = Breaker()
        self._opened: OrderedDict[UUID, tuple[str, Outcome]] = OrderedDict()

    def now(self, job_id: UUID, sandbox_id: str, credentials: LybicCredentials) -> Screen:
        """The screen of a job's sandbox, at most some seconds old.

        Raises `SandboxError`, `CredentialsRejected`, and `PreviewUnavailable`.
        """
        key = f"{PREFIX}{job_id}"
        with self._sharing():
            if not self._redis.set(f"{key}:turn", "", nx=True, px=TURN_MS):
                return _seen(self._opened_once(job_id, self._awaited(key)))
            began = time.monotonic()
            outcome = self._look(sandbox_id, credentials)
            self._share(key, outcome, began)
        return _seen(outcome)

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        if self._breaker.is_open:
            raise PreviewUnavailable("there are no previews while Redis does not answer")
        try:
            yield
        except RedisError as error:
            self._breaker.trip()
            raise PreviewUnavailable(
                f"there are no previews while Redis does not answer ({type(error).__name__})"
            ) from None

    def _awaited(self, key: str) -> str:
        """What another saw last, or sees now, encrypted. Raises `PreviewUnavailable`."""
        end = time.monotonic() + WAIT_SECONDS
        while (sealed := self._redis.get(key)) is None:
            if time.monotonic() > end:
                raise PreviewUnavailable("the preview takes too long")
            time.sleep(POLL_SECONDS)
        return str(sealed)

    def _opened_once(self, job_id: UUID, sealed: str) -> Outcome:
        """However many watch through this process: to decrypt a large picture takes a tenth of a second."""
        known, outcome = self._opened.get(job_id, ("", None))
        if outcome is None or known != sealed:
            outcome = _unpacked(self._vault.decrypt(sealed.encode()))
            self._opened[job_id] = sealed, outcome
            if len(self._opened) > MOST_OPENED:
                self._opened.popitem(last=False)
        return outcome

    def _look(self, sandbox_id: str, credentials: LybicCredentials) -> Outcome:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            return PreviewUnavailable("too many previews are under way")
        try:
            portal = self._portal()
            return portal.call(self._taken, portal.http, sandbox_id, credentials)
        except GuiAgentError as error:
            return error
        finally:
            self._places.release()

    async def _taken(self, http: httpx.AsyncClient, sandbox_id: str, credentials: LybicCredentials) -> Screen:
        service = SandboxService(http, credentials, LOOK_SECONDS)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                told = await service.preview(sandbox_id)
                if not told.screenShot:
                    raise SandboxUnavailable("Lybic sent no screenshot")
                address = keyless(told.screenShot, credentials.api_key)
                picture = await ScreenshotFetcher(http, self._allowed).fetch(address)
                return Screen(picture, _place(told.cursorPosition))
        except TimeoutError:
            raise SandboxUnavailable(f"no screenshot came within {LOOK_SECONDS:g} s") from None

    def _share(self, key: str, outcome: Outcome, began: float) -> None:
        """Tells the others, and ends the turn when the next look is due."""
        failed = isinstance(outcome, GuiAgentError)
        sealed = self._vault.encrypt(_packed(outcome))
        left = EVERY_MS - int(1000 * (time.monotonic() - began))
        with self._redis.pipeline(transaction=False) as pipeline:
            # A failure leaves what was seen before: it is told when that is too old.
            pipeline.set(key, sealed, px=FAILURE_KEPT_MS if failed else KEPT_MS, nx=failed)
            pipeline.pexpire(f"{key}:turn", max(left, 1))
            pipeline.execute()


def _seen(outcome: Outcome) -> Screen:
    if isinstance(outcome, GuiAgentError):
        raise outcome
    return outcome


def _packed(outcome: Outcome) -> bytes:
    """A line of JSON, and the picture."""
    if isinstance(outcome, GuiAgentError):
        failure = {"failure": type(outcome).__name__, "message": outcome.message, "details": outcome.details}
        return json.dumps(failure).encode() + b"\n"
    told = {"kind": outcome.picture.kind, "cursor": outcome.cursor}
    return json.dumps(told).encode() + b"\n" + outcome.picture.data


def _unpacked(packed: bytes) -> Outcome:
    line, _, data = packed.partition(b"\n")
    told: dict[str, Any] = json.loads(line)
    if "failure" in told:
        kinds = {kind.__name__: kind for kind in FAILURES}
        return kinds.get(told["failure"], SandboxError)(told["message"], **told["details"])
    return Screen(Picture(told["kind"], data), told["cursor"] and tuple(told["cursor"]))


def _place(cursor: CursorPosition | None) -> tuple[float, float] | None:
    if cursor is None or min(cursor.screenWidth, cursor.screenHeight) <= 0:
        return None
    return _fraction(cursor.x, cursor.screenWidth), _fraction(cursor.y, cursor.screenHeight)


def _fraction(part: int, whole: int) -> float:
    return round(min(max(part, 0), whole) / whole, 4)
