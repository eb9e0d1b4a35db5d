"""The application factory."""

from flask import Flask

from api import errors, sandbox, system, tasks
from api.services import EXTENSION, Services
from shared.settings import Settings

LARGEST_BODY_BYTES = 1024 * 1024


def create_app(settings: Settings) -> Flask:
    """The API over the configured database and Redis. Raises `ConfigurationError`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = Services(settings)
    errors.install(app)
    for module in (system, tasks, sandbox):
        app.register_blueprint(module.routes)
    return app
