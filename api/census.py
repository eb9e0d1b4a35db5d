"""The census of the whole system for Prometheus: taken once a second at most, and never waited for long."""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock, Thread

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from shared import census
from shared.census import Census
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.settings import StorageSettings
from shared.states import ACTIVE

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
"""However many scrape, and however often."""
PATIENCE_SECONDS = 2.0
"""Far less than Prometheus has. A PostgreSQL that is frozen would not answer at all."""

GAUGES = {
    "guiagent_queue_jobs": ("Pending jobs that wait for a worker, and not for their sandbox.", "free"),
    "guiagent_queue_age_seconds": (
        "How long the first job in the queue has waited since its submission, resumption or return.",
        "longest_wait",
    ),
    "guiagent_leases_expired": ("Running jobs whose lease has run out: nobody works at them.", "expired"),
    "guiagent_sandboxes_to_delete": ("Sandboxes of jobs that ended, until they are deleted.", "sandboxes"),
    "guiagent_sandboxes_failing": (
        "Sandboxes of jobs that ended which could not be deleted when it was time.",
        "sandboxes_failing",
    ),
    "guiagent_webhooks_pending": ("Webhooks that no receiver has accepted yet.", "webhooks"),
    "guiagent_webhooks_failing": ("Webhooks that were sent in vain, and are sent again.", "webhooks_failing"),
}
"""Name, meaning, and field of the census."""


class CensusCollector:
    """Shows the census as gauges; while PostgreSQL does not answer, only that it does not."""

    def __init__(self, settings: StorageSettings) -> None:
        # A connection of its own: it must tell what goes on when all others are in use.
        alone = settings.model_copy(update={"pool_size": 1})
        self._db = Database.connect(alone, name="guiagent api census")
        self._lock = Lock()
        self._answer: Future[Census] | None = None
        self._asked = 0.0

    def collect(self) -> Iterable[Metric]:
        """The gauges, as `prometheus_client` wants them."""
        try:
            found = self._latest().result(PATIENCE_SECONDS)
        except (StorageUnavailable, SQLAlchemyError, TimeoutError) as error:
            log.warning("no census: %s", type(error).__name__)
            found = None
        up = found is not None
        yield GaugeMetricFamily("guiagent_database_up", "Whether PostgreSQL answers: 1 or 0.", value=up)
        if found is None:
            return
        active = GaugeMetricFamily("guiagent_jobs", "Jobs that have not ended, by status.", labels=["status"])
        for status in ACTIVE:
            active.add_metric([status], getattr(found, status))
        yield active
        for name, (meaning, field) in GAUGES.items():
            yield GaugeMetricFamily(name, meaning, value=getattr(found, field))

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def _latest(self) -> "Future[Census]":
        """The last answer while it is fresh; or else the one that is under way, or a new one."""
        with self._lock:
            now = time.monotonic()
            if self._answer is None or (self._answer.done() and now - self._asked > FRESH_SECONDS):
                self._answer, self._asked = Future(), now
                Thread(target=self._take, args=[self._answer], name="census", daemon=True).start()
            return self._answer

    def _take(self, answer: "Future[Census]") -> None:
        try:
            with self._db.transaction() as session:
                found = census.take(session)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            answer.set_exception(error)
        else:
            answer.set_result(found)
