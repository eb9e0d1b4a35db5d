"""How long and how often anything outside is asked, in one place.

The two time-outs that depend on the deployment are settings (`LYBIC_TIMEOUT_SECONDS`,
`MODEL_TIMEOUT_SECONDS`); the others, and the retry policy for every call, are here.

Only what is marked `retryable` is tried again: reads, and calls that certainly had no effect. An action
whose answer was lost is `OutcomeUnknown` and never comes here twice.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from shared.errors import GuiAgentError, ModelUnavailable
from worker.metrics import RETRIES

log = logging.getLogger(__name__)
T = TypeVar("T")

FETCH_SECONDS = 15.0  # a screenshot
BOOT_SECONDS = 180.0  # a new sandbox
BOOT_POLL_SECONDS = 0.5

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 30.0

_backoff = wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS)


def _pause(state: RetryCallState) -> float:
    """Exponential with full jitter, or what the server asked for within reason."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ModelUnavailable) else None
    return min(asked, LONGEST_RETRY_AFTER_SECONDS) if asked is not None else _backoff(state)


def _may_retry(error: BaseException) -> bool:
    return isinstance(error, GuiAgentError) and error.retryable


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    RETRIES.labels(type(error).__name__).inc()
    log.info("attempt %d failed: %s", state.attempt_number, error)


async def retrying(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call, again if it failed in a retryable way; raises its last error."""
    attempts = AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=_pause,
        retry=retry_if_exception(_may_retry),
        before_sleep=_note,
        reraise=True,
    )
    async for attempt in attempts:
        with attempt:
            result = await call()
    return result
