"""Trying again, polling, and following a stream that breaks, without any I/O: what comes next, and when."""

import random
import time
from http import HTTPStatus

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from client.calls import bad_answer, refusal, task_path
from client.errors import BadAnswer, ClientError, ConnectionFailed, TooManyRequests, Unavailable, WaitTimeout
from client.models import PAUSED, Event, Task

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
JITTER = 0.5
"""The part of a pause that is left to chance, so that many clients do not come back at the same moment."""

FIRST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 2.0
SILENCE_SECONDS = 45.0
"""A stream that says nothing for so long is broken: by default the server speaks every 15 seconds."""

UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def translated(error: httpx.RequestError, url: str) -> ClientError:
    """Our error for one of httpx's."""
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return ConnectionFailed(f"{url} does not answer in time", sent=not isinstance(error, UNSENT))
    if isinstance(error, UNSENT):
        return ConnectionFailed(f"{url} can't be reached: {why}", sent=False)
    if isinstance(error, httpx.TransportError):
        return ConnectionFailed(f"the connection to {url} was lost", sent=True)
    return BadAnswer(f"what {url} answered can't be read: {why}")


class Patience:
    """How long something that failed is tried again, and how often. Counts from the first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """It went well: the next failure is the first one again."""
        self._failures = 0
        self._deadline = 0.0

    def pause(self, error: ClientError, *, repeatable: bool = True) -> float:
        """Seconds until the next attempt. Raises the error if there is to be none."""
        now = time.monotonic()
        if not self._failures:
            self._deadline = now + self._seconds
        pause = _asked(error) or self._backoff()
        if not _may_pass(error, repeatable=repeatable) or now + pause > self._deadline:
            raise error
        self._failures += 1
        return pause

    def _backoff(self) -> float:
        longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS)
        return longest * random.uniform(1 - JITTER, 1)  # noqa: S311


def _asked(error: ClientError) -> float | None:
    """How long the server asked to wait."""
    return error.retry_after if isinstance(error, TooManyRequests | Unavailable) else None


def _may_pass(error: ClientError, *, repeatable: bool) -> bool:
    """Whether another attempt may go well, and does no harm if this one did come through."""
    match error:
        case TooManyRequests():
            return True  # nothing was done
        case ConnectionFailed():
            return repeatable or not error.sent
        case Unavailable():
            return repeatable
        case _:
            return False


class Polling:
    """Looks at a task until it has ended: often at first, then every two seconds."""

    def __init__(self, timeout: float | None, *, until_paused: bool) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._until_paused = until_paused
        self._pause = FIRST_LOOK_SECONDS

    def pause(self, task: Task) -> float | None:
        """Seconds until the next look; None if there is to be none. Raises `WaitTimeout`."""
        if task.ended or (self._until_paused and task.status == PAUSED):
            return None
        self._pause = min(self._pause * 1.5, LONGEST_LOOK_SECONDS)
        if self._deadline is None:
            return self._pause
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeout(f"task {task.task_id} is still {task.status}; it goes on")
        return min(self._pause, left)


class Follower:
    """A task's events in order, each once, over as many streams as it takes."""

    def __init__(self, task_id: str, after: int, patience: Patience) -> None:
        self.path = task_path(task_id, "events")
        self.patience = patience
        self.over = False
        self._last = after

    @property
    def headers(self) -> dict[str, str]:
        """Those of the request for the next stream."""
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(self._last)}

    def attached(self, response: httpx.Response) -> bool:
        """Whether events will come, by the head of a response; the body of an error has been read.

        Raises `ApiError` or `BadAnswer`.
        """
        if not response.is_success:
            raise refusal(response)
        self.over = response.status_code == HTTPStatus.NO_CONTENT
        if not self.over and not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise bad_answer(response)
        self.patience.renew()
        return not self.over

    def take(self, sent: ServerSentEvent) -> Event | None:
        """The event, if it is one and a new one. Raises `BadAnswer`."""
        if not sent.data:  # a comment, which keeps the connection alive
            return None
        try:
            event = Event.model_validate_json(sent.data)
        except ValidationError as error:
            raise BadAnswer(f"what came after event {self._last} is no event") from error
        if event.seq <= self._last:
            return None
        self._last = event.seq
        self.over = event.terminal
        return event
