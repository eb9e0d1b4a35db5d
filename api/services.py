"""What the routes share: made once per process, found through the application."""

from functools import cached_property
from threading import Lock
from typing import cast

from celery import Celery
from flask import current_app

from api.census import CensusCollector
from api.hub import WakeHub
from api.screens import Screens
from shared.db import Database
from shared.errors import ConfigurationError, PicturesUnavailable
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.queue import Dispatcher, make_celery
from shared.receivers import AllowedReceivers
from shared.screenshots import AllowedHosts
from shared.secrets import Vault
from shared.settings import Settings
from shared.wakes import Waker, connect

DISTRIBUTION = "lybic-guiagent"
EXTENSION = "guiagent"
LARGEST_BODY_BYTES = 1024 * 1024


class Services:
    """The process's connections to the rest of the system. Raises `ConfigurationError` when made."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.vault = Vault(settings.storage)
        self.receivers = AllowedReceivers(settings.webhooks.allowed_hosts)
        self.screenshot_hosts = AllowedHosts(settings.lybic_endpoints, settings.lybic.screenshot_hosts)
        self.db = Database.connect(settings.storage, name="guiagent api", overflow=False)
        self.census = CensusCollector(settings.storage)
        self.redis = connect(settings.redis)
        self.waker = Waker(self.redis)
        self.hub = WakeHub(settings.redis)
        self.celery: Celery = make_celery(settings.redis)
        self.dispatcher = Dispatcher(self.celery)
        self._portal: Portal | None = None
        self._starting = Lock()
        self.screens = Screens(self.redis, self.vault, lambda: self.portal, self.screenshot_hosts)

    @property
    def portal(self) -> Portal:
        """Started at the first call to Lybic, in the process that makes it."""
        # Not a `cached_property`: greenlets pass its lock, and a second event loop can't run in their thread.
        with self._starting:
            if self._portal is None:
                self._portal = Portal()
            return self._portal

    @cached_property
    def pictures(self) -> PictureStore | None:
        """Opened when it is first asked; None where no screenshots are kept. Raises `PicturesUnavailable`."""
        try:
            return PictureStore.connect(self.settings.pictures)
        except ConfigurationError as error:  # all else works without
            raise PicturesUnavailable(error.message) from None

    def close(self) -> None:
        """Lets go of every connection."""
        if self._portal is not None:
            self._portal.close()
        self.hub.close()
        self.redis.close()
        self.dispatcher.close()
        self.celery.close()
        self.census.close()
        self.db.close()


def services() -> Services:
    """The services of the application that answers the current request."""
    return cast(Services, current_app.extensions[EXTENSION])
