"""The application factory."""

from importlib.metadata import version
from typing import Any

from flask_cors import CORS
from flask_openapi import Info, OpenAPI, SecurityScheme

from api import (
    auth,
    docs,
    errors,
    headers,
    metrics,
    pictures,
    playground,
    previews,
    reports,
    sandbox,
    system,
    takeover,
    tasks,
    tracing,
    webhooks,
)
from api.answers import ErrorAnswer
from api.body import JsonRequest
from api.schemas import refuse
from api.services import DISTRIBUTION, EXTENSION, LARGEST_BODY_BYTES, Services
from shared.settings import Settings

EXPOSED = ("X-Request-Id", "Retry-After", "ETag", previews.CURSOR)
"""Headers that pages of other origins may read."""
KEY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def create_app(settings: Settings) -> OpenAPI:
    """The API over the configured database and Redis. Raises `ConfigurationError`."""
    app = OpenAPI(
        __name__,
        info=Info(title="Lybic GUI Agent", version=version(DISTRIBUTION)),
        security_schemes=KEY_SCHEMES,
        openapi_extensions={"security": [{name: []} for name in KEY_SCHEMES]}
        if settings.api.keys_required
        else {},
        validation_error_status=400,
        validation_error_model=ErrorAnswer,
        validation_error_callback=refuse,
        doc_ui=False,
        static_folder=None,
    )
    app.openapi_version = "3.1.0"
    app.url_map.merge_slashes = False  # or else `//` is redirected, with a page of HTML
    app.request_class = JsonRequest
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES + 1  # see JsonRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    here = app.extensions[EXTENSION] = Services(settings)
    metrics.install(app)  # first, so that it counts what the others refuse, and all the time that they take
    tracing.install(app)
    headers.install(app)
    errors.install(app)
    auth.install(app, here)
    if settings.api.cors_origins:
        CORS(app, origins=list(settings.api.cors_origins), expose_headers=list(EXPOSED))
    app.register_blueprint(docs.routes)
    app.register_blueprint(playground.routes)
    for module in (system, metrics, tasks, takeover, pictures, previews, reports, webhooks, sandbox):
        app.register_api(module.routes)
    return app
