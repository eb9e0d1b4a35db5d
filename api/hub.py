"""The hub: one Redis pub/sub connection per process, fanned out to every stream that waits.

A confirmed subscription counts as a wake. So whoever subscribes, reads the rows, and reads them again after
each wake misses nothing that is committed after the first read; and whoever also reads them now and then
misses nothing in an outage of Redis either.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from uuid import UUID

from redis.client import PubSub
from redis.exceptions import RedisError

from shared.settings import RedisSettings
from shared.wakes import PREFIX, channel, connect

log = logging.getLogger(__name__)

CONTROL = f"{PREFIX}hub"  # a pub/sub connection without a channel can't be read
READ_SECONDS = 1.0
SILENT_SECONDS = 3.0
"""A Redis that has not answered a ping for so long is as good as gone, though its socket is open."""
LONGEST_PAUSE_SECONDS = 5.0


class WakeHub:
    """Hears the wakes of all jobs that this process's clients follow."""

    def __init__(self, settings: RedisSettings) -> None:
        # Longer than a read waits, or every quiet second would look like an outage.
        self._redis = connect(settings, timeout=READ_SECONDS * 3)
        self._lock = Lock()
        self._waiting: defaultdict[str, set[Event]] = defaultdict(set)
        self._pubsub: PubSub | None = None
        self._connected = 0.0
        self._heard: float | None = None
        self._closed = False
        self._thread: Thread | None = None

    @property
    def connected(self) -> bool:
        """Whether wakes arrive; if not, streams look for rows more often."""
        return self._heard is not None

    @contextmanager
    def follow(self, job_id: UUID) -> Iterator[Event]:
        """An event that is set after each wake of the job, and when wakes may have been missed."""
        name, woken = channel(job_id), Event()
        with self._lock:
            self._start()
            self._waiting[name].add(woken)
            self._send("subscribe", name)
        try:
            yield woken
        finally:
            with self._lock:
                self._waiting[name].discard(woken)
                if not self._waiting[name]:
                    del self._waiting[name]
                    self._send("unsubscribe", name)

    def close(self) -> None:
        """Ends the thread within a second."""
        self._closed = True

    def _start(self) -> None:
        # In the process that serves, not in the one that it was forked from.
        if self._thread is None:
            self._thread = Thread(target=self._listen, name="wake-hub", daemon=True)
            self._thread.start()

    def _send(self, command: str, name: str) -> None:
        """A command on the shared connection; if that is down, the listener subscribes anew by itself."""
        if self._pubsub is None:
            return
        try:
            getattr(self._pubsub, command)(name)
        except (RedisError, OSError) as error:
            log.info("wake hub: %s failed: %s", command, type(error).__name__)

    def _listen(self) -> None:
        pause = 0.1
        while not self._closed:
            try:
                pubsub = self._connect()
                pause = 0.1
                while not self._closed:
                    self._read(pubsub)
            except (RedisError, OSError) as error:
                log.warning("wake hub: connection lost: %s", type(error).__name__)
            self._disconnect()
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _connect(self) -> PubSub:
        pubsub: PubSub = self._redis.pubsub()
        pubsub.subscribe(CONTROL)
        with self._lock:
            if self._waiting:
                pubsub.subscribe(*self._waiting)
            self._pubsub = pubsub
            self._connected = time.monotonic()
        return pubsub

    def _read(self, pubsub: PubSub) -> None:
        began = time.monotonic()
        message = pubsub.get_message(timeout=READ_SECONDS)
        if message is None:
            if began - (self._heard or self._connected) > SILENT_SECONDS:
                raise TimeoutError
            pubsub.ping()
            return
        self._heard = time.monotonic()
        if message["type"] in {"message", "subscribe"}:
            with self._lock:
                waiting = list(self._waiting.get(message["channel"], ()))
            for woken in waiting:
                woken.set()

    def _disconnect(self) -> None:
        with self._lock:
            pubsub, self._pubsub, self._heard = self._pubsub, None, None
            waiting = [woken for all_of_job in self._waiting.values() for woken in all_of_job]
        if pubsub is not None:
            pubsub.close()
        for woken in waiting:
            woken.set()
