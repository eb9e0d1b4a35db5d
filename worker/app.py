"""The door of a worker process: `celery --app worker.app worker --pool threads`.

Celery carries job ids and shows the workers in Flower; the rest of what a queue usually does (retries,
time limits, results, revoking) is done by leases in PostgreSQL.
"""

import gc
import logging
import os
import warnings
from typing import Any
from uuid import UUID

from celery import signals
from celery.bootsteps import StartStopStep
from celery.exceptions import SecurityWarning, WorkerShutdown
from celery.worker.consumer import Events
from celery.worker.request import Request

from shared import tracing
from shared.errors import GuiAgentError
from shared.logging import configure_logging
from shared.queue import RUN_JOB, make_celery
from shared.settings import Settings
from worker import metrics
from worker.process import Process

log = logging.getLogger(__name__)

EVENT_SECONDS = 0.5
COLLECT_AFTER = 20_000
"""So many objects more than before that might be in cycles; Python's default is 700."""

# Celery's fear of root is about pickled messages; ours are JSON.
warnings.filterwarnings("ignore", category=SecurityWarning)

settings = Settings()
app = make_celery(settings.redis)


_process: Process | None = None


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logging(settings.log)


@signals.worker_init.connect
def _start(sender: Any, **_: Any) -> None:
    global _process  # noqa: PLW0603 - Celery calls entrypoints without any object of ours
    name = f"{sender.hostname}/{os.getpid()}"
    tracing.configure(settings.tracing, service="guiagent-worker")
    try:
        metrics.serve(settings.metrics)
        _process = Process(settings, name=name, concurrency=sender.concurrency)
    except GuiAgentError as error:
        log.error("%s", error.message)  # noqa: TRY400 - the message says what to do
        raise WorkerShutdown(1) from None
    except Exception:  # Celery would pass over it, and take messages for nobody
        log.exception("the worker can't start")
        raise WorkerShutdown(1) from None
    metrics.SLOTS.set(sender.concurrency)
    spare_collections()


def spare_collections() -> None:
    """Has the garbage collector look less often, and not at what was loaded until now, which stays for ever.

    As it comes, it took 30 % of the CPU of a hundred runs (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    metrics.SLOTS.set(0)
    if _process is not None:
        _process.drain()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    if _process is not None:
        _process.close()


class GatheredEvents(StartStopStep):
    """Tells Flower of tasks twice a second.

    Celery's own loop does so at each of its turns; that took a twelfth of a worker's CPU.
    """

    requires = (Events,)  # type: ignore[assignment]  # the stubs know of no step that requires one
    _timer: Any = None

    def start(self, parent: Any) -> None:
        """Begins with the dispatcher of a new connection to the broker."""
        parent.event_dispatcher.on_send_buffered = None
        self._timer = parent.timer.call_repeatedly(EVENT_SECONDS, parent.event_dispatcher.flush)

    def stop(self, parent: Any) -> None:
        """Tells the last, and ends with the connection."""
        if self._timer is not None:
            self._timer.cancel()
            parent.event_dispatcher.flush()


app.steps["consumer"].add(GatheredEvents)


class Message(Request):
    """A message that has left the queue for good: the sweepers find what is lost."""

    def acknowledge(self) -> None:
        """Has nobody to tell; Celery would try, as kombu's channels on Redis do not know of `no_ack`."""
        self.acknowledged = True


@app.task(name=RUN_JOB, Request=Message)
def run_job(job_id: str) -> None:
    """Runs a job if it is free. Whatever goes wrong is in the job's row, not in Celery's result."""
    if _process is None:
        raise WorkerShutdown(1)
    _process.run(UUID(job_id))
