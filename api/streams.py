"""Server-sent events: rows as frames, replayed and then followed."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flask import Response

from api import views
from api.hub import WakeHub
from shared import events, jobs
from shared.db import Database
from shared.errors import StorageUnavailable

KEEP_ALIVE_SECONDS = 15.0
TICK_SECONDS = 5.0
TICK_WITHOUT_WAKES_SECONDS = 1.0
PAGE = 200

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def frame(number: int, payload: dict[str, Any]) -> str:
    """One event on the wire."""
    return f"id: {number}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n"


class EventStream:
    """The events of one job, from a number on: those that are there, then those that come."""

    def __init__(self, db: Database, hub: WakeHub, job_id: UUID, after: int, *, ends_at_pause: bool) -> None:
        self._db = db
        self._hub = hub
        self._job_id = job_id
        self._last = after
        self._ends_at_pause = ends_at_pause
        self._ended = False

    def response(self) -> Response:
        """The stream as an HTTP answer."""
        return Response(self.frames(), mimetype="text/event-stream", headers=HEADERS)

    def frames(self) -> Iterator[str]:
        """Frames until the terminal event.

        Rows are read once before the subscription is confirmed, for speed, and once after, for certainty.
        """
        with self._hub.follow(self._job_id) as woken:
            spoken = time.monotonic()
            while True:
                woken.clear()  # before reading: a wake during the read must cause another one
                for text in self._new():
                    yield text
                    spoken = time.monotonic()
                if self._ended:
                    return
                quiet = time.monotonic() - spoken
                if quiet >= KEEP_ALIVE_SECONDS:
                    yield ": keep-alive\n\n"
                    spoken, quiet = time.monotonic(), 0.0
                tick = TICK_SECONDS if self._hub.connected else TICK_WITHOUT_WAKES_SECONDS
                woken.wait(min(tick, KEEP_ALIVE_SECONDS - quiet))

    def _new(self) -> Iterator[str]:
        """Frames of the rows that are there, page by page; none while PostgreSQL is away."""
        while not self._ended:
            try:
                with self._db.transaction() as session:
                    rows = events.read(session, self._job_id, self._last, PAGE)
                    self._ended = not rows and jobs.is_over(session, self._job_id, self._last)
            except StorageUnavailable:
                return
            for row in rows:
                self._last = row.seq
                self._ended = row.type in events.TERMINAL or (self._ends_at_pause and views.pauses(row))
                yield frame(row.seq, views.event(row))
            if len(rows) < PAGE:
                return
