"""The janitor: deletes sandboxes that were made for jobs, screenshots and jobs, once nobody needs them."""

import logging
import math
from concurrent.futures import Future

from shared import disposal, retention
from shared.db import Database
from shared.errors import GuiAgentError, PicturesUnavailable
from shared.models import Sandbox
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.sandboxes import SandboxService, name_for
from shared.schemas import LybicCredentials
from shared.secrets import Vault
from shared.settings import Settings

log = logging.getLogger(__name__)

AT_A_TIME = 8
JOBS_AT_A_TIME = 200


class Janitor:
    """Cleans up now and then, in every worker process; they share the work by the locks on its rows."""

    def __init__(
        self, settings: Settings, *, db: Database, vault: Vault, portal: Portal, store: PictureStore | None
    ) -> None:
        self._settings = settings
        self._db = db
        self._vault = vault
        self._portal = portal
        self._store = store

    def clean(self) -> None:
        """One round. Raises `StorageUnavailable`."""
        self._delete_sandboxes()
        if self._store is not None:
            self._remove_pictures(self._store)
        if self._settings.storage.task_days is not None:
            self._remove_jobs(self._settings.storage.task_days)

    def _delete_sandboxes(self) -> None:
        with self._db.transaction() as session:
            due = disposal.due(session, limit=AT_A_TIME)
        # All at a time: one at an endpoint that hangs holds up none of the others.
        deleting = [(sandbox, self._portal.start(self._delete, sandbox)) for sandbox in due]
        for sandbox, call in deleting:
            if self._is_gone(sandbox, call) or sandbox.attempts >= disposal.MOST_ATTEMPTS:
                with self._db.transaction() as session:
                    disposal.forget(session, sandbox.job_id)

    def _is_gone(self, sandbox: Sandbox, call: Future[bool]) -> bool:
        try:
            gone = call.result()
        except GuiAgentError as error:
            log.warning("the sandbox of job %s is not deleted yet: %s", sandbox.job_id, error.message)
            return False
        if gone:
            log.info("deleted the sandbox of job %s", sandbox.job_id)
        return gone

    async def _delete(self, sandbox: Sandbox) -> bool:
        """Deletes it, and whatever else has its name: a creation that was cut off may have come through."""
        credentials = self._vault.open(sandbox.credentials, LybicCredentials)
        service = SandboxService(self._portal.http, credentials, self._settings.lybic.timeout_seconds)
        known = [sandbox.sandbox_id] if sandbox.sandbox_id else []
        for sandbox_id in known:
            await service.delete(sandbox_id)
        named = await service.named(name_for(sandbox.job_id))
        for sandbox_id in named:
            await service.delete(sandbox_id)
        # One that nobody has seen may still be in the making: it is looked for once more.
        return bool(known or named) or sandbox.attempts > 1

    def _remove_pictures(self, store: PictureStore) -> None:
        """Those of jobs that ended too long ago. Two processes may do the same: that does no harm."""
        days = min(self._settings.pictures.days, self._settings.storage.task_days or math.inf)
        with self._db.transaction() as session:
            old = retention.with_old_pictures(session, days=days, limit=AT_A_TIME)
        for job_id in old:
            try:
                self._portal.call(store.remove, job_id)
            except PicturesUnavailable as error:
                log.warning("the screenshots of job %s are not removed yet: %s", job_id, error.message)
                return  # the next round tries again: each of them may take long to fail
            with self._db.transaction() as session:
                retention.forget_pictures(session, job_id)

    def _remove_jobs(self, days: float) -> None:
        with self._db.transaction() as session:
            removed = retention.remove_jobs(
                session, days=days, limit=JOBS_AT_A_TIME, pictures=self._store is not None
            )
        if removed:
            log.info("removed %s jobs that ended more than %g days ago", removed, days)
