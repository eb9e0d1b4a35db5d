"""How long and how often anything outside is asked, in one place.

The two time-outs that depend on the deployment are settings (`LYBIC_TIMEOUT_SECONDS`,
`MODEL_TIMEOUT_SECONDS`), that of screenshots is in `shared.screenshots`; the others, and the retry policy
for every call, are here.

Only what is marked `retryable` is tried again: reads, and calls that certainly had no effect. An action
whose answer was lost is `OutcomeUnknown` and never comes here twice.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import GuiAgentError, ModelUnavailable
from worker.metrics import RETRIES

log = logging.getLogger(__name__)
T = TypeVar("T")

BOOT_SECONDS = 180.0  # a new sandbox
BOOT_POLL_SECONDS = 0.5

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 30.0


async def retrying(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call, again if it failed in a retryable way; raises its last error."""
    for attempt in range(1, ATTEMPTS):
        try:
            return await call()
        except GuiAgentError as error:
            if not error.retryable:
                raise
            RETRIES.labels(type(error).__name__).inc()
            log.info("attempt %d failed: %s", attempt, error)
            await asyncio.sleep(_pause(error, attempt))
    return await call()


def _pause(error: GuiAgentError, attempt: int) -> float:
    """What the server asked for, within reason; else exponential with full jitter."""
    asked = error.retry_after if isinstance(error, ModelUnavailable) else None
    if asked is not None:
        return min(asked, LONGEST_RETRY_AFTER_SECONDS)
    return random.uniform(0, min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS))  # noqa: S311
