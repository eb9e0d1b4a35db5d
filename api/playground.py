"""The playground: a page to submit tasks and watch them, as `make playground` has built it into `api/static`.

The paths of its views all lead to the one page, so that they can be bookmarked; its assets have hashes in
their names, and never change.
"""

from flask import Blueprint, Response, render_template, send_from_directory

from api import BUILT
from api.services import services

YEAR_SECONDS = 365 * 86400
DAY_SECONDS = 86400
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src {pictures}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

routes = Blueprint("playground", __name__)


@routes.get("/")
@routes.get("/new")
@routes.get("/sandboxes")
@routes.get("/tasks/<task_id>")
def page(**_: str) -> Response:
    """The page, or a sentence on how to build it."""
    index = BUILT / "index.html"
    if not index.is_file():
        return Response(render_template("not_built.html"), 404)
    response = send_from_directory(BUILT, index.name)
    # What is fetched with an API key is shown from memory; what is not kept here, where Lybic has it.
    pictures = " ".join(["'self'", "blob:", *services().screenshot_hosts.sources])
    response.headers["Content-Security-Policy"] = POLICY.format(pictures=pictures)
    return response


@routes.get("/assets/<path:name>")
def asset(name: str) -> Response:
    """A script, a style or a font of the page."""
    response = send_from_directory(BUILT / "assets", name, max_age=YEAR_SECONDS)
    response.cache_control.immutable = True
    return response


@routes.get("/favicon.svg")
def icon() -> Response:
    """The page's icon."""
    return send_from_directory(BUILT, "favicon.svg", max_age=DAY_SECONDS)
