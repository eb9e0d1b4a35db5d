"""The courier: in every worker process, it sends the webhooks that are due, many at a time.

It asks PostgreSQL about once a second, and soon after each end of a run. A host that hangs has a few
deliveries under way at most, so that there is always room for the others.
"""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from importlib.metadata import version

from shared import webhooks
from shared.addresses import plain_url
from shared.db import Database
from shared.errors import EndpointNotAllowed, GuiAgentError, StorageUnavailable
from shared.portal import Portal
from shared.receivers import AllowedReceivers
from shared.schemas import Receiver
from shared.secrets import Vault
from shared.settings import Settings
from shared.signing import signed_headers
from shared.states import DeliveryState
from shared.webhooks import Due, message, message_id
from worker.post import Post, Reply
from worker.sweeper import Sweeper

log = logging.getLogger(__name__)

AT_A_TIME = 64
AT_ONE_HOST = 4
GRACE_SECONDS = 5.0
"""An attempt that is not recorded so long after its time is over is taken for lost."""
CLOSING_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 86_400.0
JITTER = 0.2
HEADERS = {"Content-Type": "application/json", "User-Agent": f"lybic-guiagent/{version('lybic-guiagent')}"}


class Courier:
    """Sends webhooks until it is closed. Raises `ConfigurationError` when made."""

    def __init__(self, settings: Settings, *, db: Database, vault: Vault, portal: Portal) -> None:
        self._settings = settings.webhooks
        self._db = db
        self._vault = vault
        self._portal = portal
        self._post = Post(AllowedReceivers(self._settings.allowed_hosts), self._settings.timeout_seconds)
        self._under_way: dict[Future[Reply], Due] = {}  # of the sweeper's thread alone
        self._sweeper = Sweeper(self._round, settings.worker.sweep_seconds)

    def poke(self) -> None:
        """There may be something to send."""
        self._sweeper.poke()

    def close(self) -> None:
        """Lets what is under way end, for a moment; what doesn't is sent again by another process."""
        self._sweeper.close()
        wait(self._under_way, CLOSING_SECONDS)
        for call in self._under_way:
            call.cancel()
        with suppress(StorageUnavailable):
            self._record_ended()

    def _round(self) -> None:
        self._record_ended()
        while len(self._under_way) < AT_A_TIME and (due := self._claim()):
            for one in due:
                call = self._portal.start(self._deliver, one)
                self._under_way[call] = one
                call.add_done_callback(lambda _: self._sweeper.poke())

    def _claim(self) -> Sequence[Due]:
        """A few of those that are due: no more than one host may have under way, for all may be for one."""
        busy = Counter(due.webhook.host for due in self._under_way.values())
        with self._db.transaction() as session:
            return webhooks.claim(
                session,
                lease_seconds=self._settings.timeout_seconds + GRACE_SECONDS,
                limit=AT_ONE_HOST,
                avoiding=[host for host, count in busy.items() if count >= AT_ONE_HOST],
            )

    async def _deliver(self, due: Due) -> Reply:
        receiver = self._vault.open(due.webhook.receiver, Receiver)
        body = message(due.event, due.job)
        assert due.delivery.attempted_at is not None  # noqa: S101 - it was just claimed
        seconds = int(due.delivery.attempted_at.timestamp())  # of the database's clock, as all its times are
        headers = signed_headers(receiver.secret, message_id(due.delivery), seconds, body)
        return await self._post.send(plain_url(receiver.url), HEADERS | headers, body)

    def _record_ended(self) -> None:
        """Writes down what has ended. While PostgreSQL is away, it stays for the next round."""
        for call, due in list(self._under_way.items()):
            if call.done():
                if not call.cancelled():
                    self._record(due, _reply(call))
                del self._under_way[call]

    def _record(self, due: Due, reply: Reply) -> None:
        delivery, name = due.delivery, message_id(due.delivery)
        told = (reply.status, reply.error)
        with self._db.transaction() as session:
            if reply.error is None:
                webhooks.end(session, delivery, *told, state=DeliveryState.DELIVERED)
                log.info("webhook %s is delivered", name)
            elif reply.is_final or delivery.attempts >= self._settings.max_attempts:
                webhooks.end(session, delivery, *told, state=DeliveryState.FAILED)
                log.warning("webhook %s is given up: %s", name, reply)
            else:
                pause = max(self._pause(delivery.attempts), reply.retry_after)
                webhooks.postpone(session, delivery, *told, seconds=pause)
                log.info("webhook %s is sent again in %.0f s: %s", name, pause, reply)

    def _pause(self, attempts: int) -> float:
        pause = min(self._settings.retry_seconds * 2.0 ** (attempts - 1), LONGEST_PAUSE_SECONDS)
        return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret


def _reply(call: Future[Reply]) -> Reply:
    try:
        return call.result()
    except GuiAgentError as error:
        return Reply(error=error.code, is_final=isinstance(error, EndpointNotAllowed))
    except Exception:
        log.exception("a webhook could not be sent")
        return Reply(error="internal")
