"""The hub: what the streams of one process share, so that thousands cost little more than one.

One Redis pub/sub connection wakes them. The rows of a job are read once for all streams that wait for them.
And one statement every few seconds looks for wakes that were lost, in an outage of Redis or of PostgreSQL.

A confirmed subscription counts as a wake. So whoever subscribes, reads the rows, and reads them again after
each wake misses nothing that is committed after the first read. When a new connection has subscribed to all
channels at once, such a look takes the place of thousands of wakes.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Event, Lock, Thread
from uuid import UUID

from redis.client import PubSub
from redis.exceptions import RedisError

from shared.errors import StorageUnavailable
from shared.settings import RedisSettings
from shared.wakes import PREFIX, channel, connect

log = logging.getLogger(__name__)

CONTROL = f"{PREFIX}hub"  # a pub/sub connection without a channel can't be read
READ_SECONDS = 1.0
SILENT_SECONDS = 3.0
"""A Redis that has not answered a ping for so long is as good as gone, though its socket is open."""
LONGEST_PAUSE_SECONDS = 5.0

LOOK_SECONDS = 5.0
LOOK_IN_TROUBLE_SECONDS = 1.0
READS_AT_ONCE = 4
"""Far fewer than the pool has connections: when all streams wake at once, requests still find one."""
TOLD_AT_ONCE = 50
"""Requests that came meanwhile are next, and not after thousands of streams."""
PAGE_FRAMES = 32
PAGE_BYTES = 256 * 1024
"""What is read in one go, and what is kept for the streams that come for it later. Most events have less than
1 kB; of those that have 100, since a model was verbose, a whole page would be too much for each stream."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it goes over the wire, made once for all streams."""

    number: int
    data: bytes
    ends: bool
    """It is the last one."""
    pauses: bool
    """After it the job waits for a human."""


@dataclass(frozen=True, slots=True)
class Page:
    """Frames that were read in one go."""

    frames: Sequence[Frame]
    whole: bool
    """There was nothing more to read; a wake will tell when there is."""


class Feed:
    """One job that streams of this process follow, and its newest events, read by one of them for all.

    Events are numbered without gaps and never change: what one stream has read is good for the others.
    """

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        self.waiting: set[Event] = set()
        self.subscribed_alone = True  # and not with all others when the connection was made
        self._lock = Lock()
        self._frames: list[Frame] = []
        self._end: int | None = None  # the number of the newest frame
        self._count: int | None = None  # of events, at the last look
        self._stale = True
        self._reading = False

    def wake(self) -> None:
        """There may be something new."""
        self._stale = True  # before telling: whoever is told must find it so
        self.tell()

    def tell(self) -> None:
        """Sends every stream to see what there is."""
        for number, woken in enumerate(list(self.waiting), 1):
            woken.set()
            if number % TOLD_AT_ONCE == 0:
                time.sleep(0)  # lets others run

    def missed(self, count: int | None) -> bool:
        """Whether some of the so many events that the job has by now may not have been read."""
        changed, self._count = count != self._count, count
        return self._stale or (changed and count != self._end)

    def read(self, after: int, load: Callable[[int], Page]) -> Sequence[Frame]:
        """Frames that come after a number, not necessarily all.

        None of them if there are none, or if another stream is reading them: that one will tell. When `load`
        raises, so does this, and the next look tells all streams to try again.
        """
        with self._lock:
            known = self._known(after)
            if known:
                return known
            leads = known is not None  # or else it is at a place of its own, and reads for itself
            if leads and (self._reading or not self._stale):
                return ()
            if leads:
                self._reading, self._stale = True, False  # before reading: a wake meanwhile must count
        page = None
        try:
            page = load(after)
        finally:
            with self._lock:
                self._finish(after, page, leads=leads)
        if leads and (page.frames or self._stale):
            self.tell()
        return page.frames

    def _finish(self, after: int, page: Page | None, *, leads: bool) -> None:
        if leads:
            self._reading = False
        if page is None or (leads and not page.whole):
            self._stale = True
        if page is not None and page.frames:
            self._keep(after, page.frames)

    def _known(self, after: int) -> Sequence[Frame] | None:
        """The frames after a number; None where this knows nothing of what comes next."""
        if self._end is None:
            self._end = after
        behind = self._end - after
        return self._frames[len(self._frames) - behind :] if 0 <= behind <= len(self._frames) else None

    def _keep(self, after: int, frames: Sequence[Frame]) -> None:
        """Keeps the newest frames, as many as are cheap to keep."""
        if self._frames and self._end is not None and after < self._end:
            return  # somebody catches up
        kept = [*self._frames, *frames] if after == self._end else [*frames]
        while len(kept) > 1 and (len(kept) > PAGE_FRAMES or _size(kept) > PAGE_BYTES):
            del kept[0]
        self._frames, self._end = kept, kept[-1].number


class WakeHub:
    """Hears the wakes of all jobs that this process's clients follow, and keeps what their streams share."""

    def __init__(self, settings: RedisSettings) -> None:
        # Longer than a read waits, or every quiet second would look like an outage.
        self._redis = connect(settings, timeout=READ_SECONDS * 3)
        self._lock = Lock()
        self._feeds: dict[str, Feed] = {}
        self._pubsub: PubSub | None = None
        self._connected = 0.0
        self._heard: float | None = None
        self._closed = False
        self._thread: Thread | None = None
        self._reads = BoundedSemaphore(READS_AT_ONCE)
        self._trouble = False  # with PostgreSQL
        self._looked = float("-inf")
        self._looking = False

    @property
    def connected(self) -> bool:
        """Whether wakes arrive; if not, one looks for rows more often."""
        return self._heard is not None

    @property
    def tick(self) -> float:
        """After how many seconds it is time for another look."""
        return LOOK_SECONDS if self.connected and not self._trouble else LOOK_IN_TROUBLE_SECONDS

    @contextmanager
    def follow(self, job_id: UUID) -> Iterator[Event]:
        """An event that is set after each wake of the job, and when wakes may have been missed."""
        name, woken = channel(job_id), Event()
        with self._lock:
            self._start()
            feed = self._feeds.get(name)
            if feed is None:
                feed = self._feeds[name] = Feed(job_id)
                self._send("subscribe", name)
            feed.waiting.add(woken)
        try:
            yield woken
        finally:
            with self._lock:
                feed.waiting.discard(woken)
                if not feed.waiting:
                    del self._feeds[name]
                    self._send("unsubscribe", name)

    def feed(self, job_id: UUID) -> Feed:
        """What the streams of a job share, as long as somebody follows it."""
        return self._feeds[channel(job_id)]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """To read rows within. Few do at a time; after a failure nobody does before a look has succeeded."""
        with self._reads:
            if self._trouble:
                raise StorageUnavailable("the database did not answer")
            try:
                yield
            except StorageUnavailable:
                self._trouble = True
                raise

    def look(self, count: Callable[[Collection[UUID]], Mapping[UUID, int]]) -> None:
        """Wakes the streams that missed something, by the number of events that each job has.

        Each stream calls this now and then, and one of them looks for all when it is time.
        """
        with self._lock:
            now = time.monotonic()
            if self._looking or now < self._looked + self.tick:
                return
            self._looking, self._looked = True, now
            feeds = list(self._feeds.values())
        try:
            counts = count([feed.job_id for feed in feeds])
        except StorageUnavailable:
            self._trouble = True
            return
        finally:
            self._looking = False
        self._trouble = False
        for feed in feeds:
            if feed.missed(counts.get(feed.job_id)):
                feed.wake()

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
        pubsub.subscribe(CONTROL)  # connects, which may take long: without the lock
        with self._lock:
            for feed in self._feeds.values():
                feed.subscribed_alone = False
            pubsub.subscribe(*self._feeds, CONTROL)  # that one last: it tells when all are in force
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
        if message["channel"] == CONTROL:
            self._look_soon()
            return
        feed = self._feeds.get(message["channel"])
        kind = message["type"]
        if feed is not None and (kind == "message" or (kind == "subscribe" and feed.subscribed_alone)):
            feed.wake()

    def _look_soon(self) -> None:
        """Sends the streams of one job to look for all."""
        self._looked = float("-inf")
        with self._lock:
            feed = next(iter(self._feeds.values()), None)
        if feed is not None:
            feed.tell()

    def _disconnect(self) -> None:
        with self._lock:
            pubsub, self._pubsub, self._heard = self._pubsub, None, None
            feeds = list(self._feeds.values())
        if pubsub is not None:
            pubsub.close()
        for feed in feeds:
            feed.tell()  # to look more often from now on


def _size(frames: Sequence[Frame]) -> int:
    return sum(len(frame.data) for frame in frames)
