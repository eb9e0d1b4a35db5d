"""The route of reports: a task with all its steps and pictures as one page of HTML, made while it is sent.

All that models and clients wrote is hostile text: the template escapes it, and the page's policy forbids
scripts and whatever would have to be fetched.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Response, current_app
from flask_openapi import APIBlueprint

from api.answers import error_answers
from api.auth import caller
from api.marks import Mark, call, marks, words
from api.requests import job_id
from api.schemas import MOST_STEPS, TaskPath
from api.services import Services, services
from api.streams import PIECE_BYTES
from shared import jobs
from shared.errors import PictureNotFound, PicturesUnavailable, StorageUnavailable
from shared.models import Step
from shared.pictures import PictureStore, kind_of
from shared.states import JobStatus
from shared.summary import summary

PAGE = {
    "description": "A page of HTML that needs nothing else.",
    "content": {"text/html": {"schema": {"type": "string"}}},
}

routes = APIBlueprint(
    "reports",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 429, 500, 503),
)

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STEPS_AT_A_TIME = 20
MOST_PICTURE_CHARACTERS = 50 * 1024 * 1024
"""Of all pictures as they stand in the page."""
GONE = "The screenshot is not kept, or not any more."


@routes.get("/task/<task_id>/report", responses={200: PAGE})
def report(path: TaskPath) -> Response:
    """Tell of a task on a page for people: its steps, each with what was seen, decided and done."""
    here = services()
    with here.db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
    steps = Steps(here, job.id)
    page = current_app.jinja_env.get_template("report.html").generate(
        policy=POLICY, job=summary(job), model=job.options.get("model_name"), steps=steps, **SPELLINGS
    )
    return Response(
        _pieces(page),
        content_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
            "Content-Disposition": f'inline; filename="task-{job.id}.html"',
        },
    )


def _pieces(texts: Iterable[str]) -> Iterator[bytes]:
    """The page in pieces of which a slow client takes one at a time, as of an event stream."""
    waiting = bytearray()
    for text in texts:
        waiting += text.encode()
        while len(waiting) >= PIECE_BYTES:
            yield bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]
    yield bytes(waiting)


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step as the page shows it."""

    row: Step
    call: str
    words: list[str]
    actions: str
    picture: str | None
    missing: str
    marks: list[Mark]


@dataclass
class Steps:
    """The steps of a job, read a few at a time while the page is sent: one picture is held, not all."""

    here: Services
    job_id: UUID
    end: str = field(default="", init=False)
    """Why there are no more, if there should be."""
    _characters: int = field(default=0, init=False)
    _no_pictures: str = field(default="", init=False)
    """Why none are asked for any more."""

    def __iter__(self) -> Iterator[StepReport]:
        last = 0
        while rows := self._read(last):
            for row in rows:
                yield self._report(row)
            last = rows[-1].number
            if last >= MOST_STEPS:
                self.end = "Further steps are left out."
                return

    def _read(self, after: int) -> list[Step]:
        try:
            with self.here.db.transaction() as session:
                return list(jobs.steps(session, self.job_id, after=after, limit=STEPS_AT_A_TIME))
        except StorageUnavailable:  # too late for another status
            self.end = "The report breaks off here: the database did not answer."
            return []

    def _report(self, row: Step) -> StepReport:
        picture, missing = self._picture(row)
        actions = [one for one in row.actions if isinstance(one, dict)]
        return StepReport(
            row=row,
            call=call(row.raw),
            words=[words(one) for one in actions],
            actions="\n".join(json.dumps(one, ensure_ascii=False) for one in actions),
            picture=picture,
            missing=missing,
            marks=marks(actions),
        )

    def _picture(self, row: Step) -> tuple[str | None, str]:
        """A step's picture as a data URL, or why there is none."""
        if row.picture is None:
            return None, GONE
        if self._no_pictures:
            return None, self._no_pictures
        try:
            store = self.here.pictures
            data = self._get(store, row.picture) if store else None
        except PicturesUnavailable:  # to ask for each would take too long
            self._no_pictures = "The screenshot can't be had: the store did not answer."
            return None, self._no_pictures
        kind = kind_of(data) if data else None
        if not data or not kind:
            return None, GONE
        self._characters += len(data) * 4 // 3
        if self._characters > MOST_PICTURE_CHARACTERS:
            self._no_pictures = "The screenshot is left out: the page would become too large."
            return None, self._no_pictures
        return f"data:{kind};base64,{b64encode(data).decode()}", ""

    def _get(self, store: PictureStore, name: str) -> bytes | None:
        try:
            return self.here.portal.call(store.get, name)
        except PictureNotFound:
            return None


def _moment(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else "–"


def _duration(milliseconds: float | None) -> str:
    """`1234` → `1.2 s`."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _between(start: datetime | None, end: datetime | None) -> str:
    return _duration((end - start).total_seconds() * 1000) if start and end else "–"


SPELLINGS: dict[str, Any] = {
    "moment": _moment,
    "duration": _duration,
    "between": _between,
    "terminal": frozenset(status.value for status in JobStatus if status.terminal),
}
