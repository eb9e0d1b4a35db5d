"""Server-sent events: rows as frames, replayed and then followed.

A stream reads on when its client has taken what there was: it holds one page of events at most. A client
that takes nothing is cut by the server (`api.gunicorn_conf`); as each frame carries its number, it may come
back and go on.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from socket import MSG_PEEK, socket
from uuid import UUID

from flask import Response, request

from api import views
from api.hub import PAGE_BYTES, PAGE_FRAMES, Feed, Frame, Page, WakeHub
from api.metrics import EVENTS_SENT, SSE_CLIENTS
from shared import events, jobs
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.events import EventRow
from shared.settings import ApiSettings
from shared.states import JobStatus

PIECE_BYTES = 16 * 1024
"""A slow client need not take a whole event before the server loses patience, but so much."""

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"


def frame(row: EventRow) -> Frame:
    """One event as it goes over the wire."""
    text = json.dumps(views.event(row), ensure_ascii=False)
    return Frame(
        number=row.seq,
        data=f"id: {row.seq}\ndata: {text}\n\n".encode(),
        ends=row.type in events.TERMINAL,
        pauses=row.type == JobStatus.HUMAN_INTERVENTION,
    )


class EventStream:
    """The events of one job, from a number on: those that are there, then those that come."""

    def __init__(
        self,
        db: Database,
        hub: WakeHub,
        settings: ApiSettings,
        job_id: UUID,
        after: int,
        *,
        ends_at_pause: bool,
    ) -> None:
        self._db = db
        self._hub = hub
        self._keep_alive = settings.keep_alive_seconds
        self._job_id = job_id
        self._last = after
        self._ends_at_pause = ends_at_pause
        self._ended = False
        self._client: socket | None = None

    def response(self) -> Response:
        """The stream as the answer to the current request."""
        self._client = request.environ.get("gunicorn.socket")
        return Response(self.pieces(), mimetype="text/event-stream", headers=HEADERS)

    def pieces(self) -> Iterator[bytes]:
        """What is sent: frames until the terminal event, and signs of life in between.

        Rows are read once before the subscription is confirmed, for speed, and once after, for certainty.
        """
        with SSE_CLIENTS.track_inprogress(), self._hub.follow(self._job_id) as woken:
            feed = self._hub.feed(self._job_id)
            woken.set()
            spoken = float("-inf")  # if there is no event yet, a sign of life brings the headers out
            while not self._client_left():
                if woken.is_set():
                    woken.clear()  # before reading: a wake during the read must cause another one
                    for piece in self._news(feed):
                        yield piece
                        spoken = time.monotonic()
                if self._ended:
                    return
                if time.monotonic() - spoken >= self._keep_alive:
                    yield KEEP_ALIVE
                    spoken = time.monotonic()
                self._hub.look(self._counts)
                quiet = time.monotonic() - spoken
                woken.wait(max(0, min(self._hub.tick, self._keep_alive - quiet)))

    def _client_left(self) -> bool:
        """Whether the client closed its end: that shows at once, a failed send only some sends later."""
        if self._client is None:
            return False
        patience = self._client.gettimeout()
        try:
            self._client.settimeout(0)
            return self._client.recv(1, MSG_PEEK) == b""
        except (BlockingIOError, ValueError):  # nothing to read, as it should be; no peeking, with TLS
            return False
        except OSError:
            return True
        finally:
            self._client.settimeout(patience)

    def _news(self, feed: Feed) -> Iterator[bytes]:
        """Frames that are there and were not sent, in pieces; none while PostgreSQL is away."""
        while not self._ended:
            try:
                frames = feed.read(self._last, self._load)
            except StorageUnavailable:
                return
            if not frames:
                return
            for one in frames:
                for start in range(0, len(one.data), PIECE_BYTES):
                    yield one.data[start : start + PIECE_BYTES]
                EVENTS_SENT.inc()
                self._last = one.number
                self._ended = one.ends or (self._ends_at_pause and one.pauses and self._paused())
                if self._ended:
                    return

    def _load(self, after: int) -> Page:
        """A page of frames from the database."""
        with self._hub.reading(), self._db.statement() as connection:
            rows = events.read(connection, self._job_id, after, PAGE_FRAMES)
            self._ended = not rows and jobs.is_over(connection, self._job_id, after)
        frames = _first([frame(row) for row in rows])
        return Page(frames, whole=not self._ended and len(frames) == len(rows) < PAGE_FRAMES)

    def _paused(self) -> bool:
        """Whether the pause that was told of is not over, as in the replay of a job that was resumed."""
        try:
            with self._hub.reading(), self._db.transaction() as session:
                return jobs.get(session, self._job_id).status == JobStatus.HUMAN_INTERVENTION
        except StorageUnavailable:
            return True  # the client may come back

    def _counts(self, job_ids: Collection[UUID]) -> Mapping[UUID, int]:
        """How many events each job has."""
        with self._db.statement() as connection:
            return jobs.event_counts(connection, job_ids)


def _first(frames: Sequence[Frame]) -> Sequence[Frame]:
    """As many of the frames as a stream may hold; at least one, if there is any."""
    size = 0
    for place, one in enumerate(frames):
        size += len(one.data)
        if place and size > PAGE_BYTES:
            return frames[:place]
    return frames
