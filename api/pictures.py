"""The route of kept screenshots."""

import asyncio
import time

from flask import Response
from flask_openapi import APIBlueprint

from api.answers import error_answers
from api.auth import caller
from api.requests import job_id
from api.schemas import ScreenshotPath
from api.services import services
from shared import jobs
from shared.errors import PictureNotFound
from shared.pictures import MAGIC, NAME, PictureStore, kind_of

PICTURE = {
    "description": "The picture.",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MAGIC},
}

routes = APIBlueprint(
    "pictures",
    __name__,
    url_prefix="/api/agent",
    abp_tags=[{"name": "Tasks"}],
    abp_responses=error_answers(400, 401, 403, 404, 429, 500, 503),
)

HEADERS = {
    "Cache-Control": "private, max-age=86400, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
}
NEW_SECONDS = 30.0
WAIT_SECONDS = 5.0
POLL_SECONDS = 0.1


@routes.get("/task/<task_id>/screenshots/<name>", responses={200: PICTURE})
def screenshot(path: ScreenshotPath) -> Response:
    """Give a screenshot that a task left behind, as long as it is kept."""
    here = services()
    with here.db.transaction() as session:
        job = jobs.get(session, job_id(path.task_id), owner=caller().key_id)
    if not NAME.fullmatch(path.name):
        raise PictureNotFound(f"task {job.id} has no screenshot of such a name")
    store, key = here.pictures, f"{job.id}/{path.name}"
    if store is None:
        raise PictureNotFound("this server keeps no screenshots (SCREENSHOT_STORE)")
    try:
        data = here.portal.call(store.get, key)
    except PictureNotFound:
        with here.db.transaction() as session:
            new = jobs.is_new_picture(session, job.id, key, seconds=NEW_SECONDS)
        if not new:
            raise
        data = here.portal.call(_awaited, store, key)
    kind = kind_of(data)
    if kind is None:  # not of our making
        raise PictureNotFound(f"there is no screenshot {key}")
    return Response(data, mimetype=kind, headers=HEADERS)


async def _awaited(store: PictureStore, key: str) -> bytes:
    """A picture that is told of before it has reached the store."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await store.get(key)
        except PictureNotFound:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(POLL_SECONDS)
