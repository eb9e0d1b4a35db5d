"""The door of a worker process: `celery --app worker.app worker --pool threads`.

Celery carries job ids and shows the workers in Flower; the rest of what a queue usually does (retries,
time limits, results, revoking) is done by leases in PostgreSQL.
"""

import logging
import os
import socket
import warnings
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery import signals
from celery.exceptions import SecurityWarning, WorkerShutdown

from shared.db import Database
from shared.errors import GuiAgentError, StorageUnavailable
from shared.logging import configure_logging
from shared.portal import Portal
from shared.queue import RUN_JOB, make_celery
from shared.secrets import Vault
from shared.settings import Settings
from shared.wakes import Waker, connect
from worker.lease import LeaseKeeper
from worker.runner import Runner

log = logging.getLogger(__name__)

# Celery's fear of root is about pickled messages; ours are JSON.
warnings.filterwarnings("ignore", category=SecurityWarning)

settings = Settings()
app = make_celery(settings.redis)


@dataclass(frozen=True, slots=True)
class Process:
    """What the threads of this process share."""

    db: Database
    portal: Portal
    keeper: LeaseKeeper
    runner: Runner

    @classmethod
    def start(cls, name: str) -> "Process":
        """Connects the process to the world. Raises `ConfigurationError`."""
        vault = Vault(settings.storage)
        db = Database.connect(settings.storage, name=f"guiagent {name}")
        portal = Portal()
        keeper = LeaseKeeper(db, lease_seconds=settings.worker.lease_seconds)
        waker = Waker(connect(settings.redis))
        runner = Runner(settings, db=db, vault=vault, waker=waker, portal=portal, keeper=keeper, name=name)
        return cls(db, portal, keeper, runner)

    def close(self) -> None:
        """Lets go of everything, after the last run."""
        self.keeper.close()
        self.portal.close()
        self.db.close()


_process: Process | None = None


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logging(settings.log)


@signals.worker_init.connect
def _start(sender: Any, **_: Any) -> None:
    global _process  # noqa: PLW0603 - Celery calls entrypoints without any object of ours
    name = f"{getattr(sender, 'hostname', None) or socket.gethostname()}/{os.getpid()}"
    try:
        _process = Process.start(name)
    except GuiAgentError as error:
        log.error("%s", error.message)  # noqa: TRY400 - the message says what to do
        raise WorkerShutdown(1) from None


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    if _process is not None:
        _process.keeper.drain()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    if _process is not None:
        _process.close()


@app.task(name=RUN_JOB)
def run_job(job_id: str) -> None:
    """Runs a job if it is free. Whatever goes wrong is in the job's row, not in Celery's result."""
    if _process is None:
        raise WorkerShutdown(1)
    try:
        _process.runner.run(UUID(job_id))
    except StorageUnavailable as error:
        log.warning("job %s left to the sweepers: %s", job_id, error.message)
