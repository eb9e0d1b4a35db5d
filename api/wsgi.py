"""The door of the API: `gunicorn --config python:api.gunicorn_conf api.wsgi:app`."""

from api.app import create_app
from shared import tracing
from shared.logging import configure_logging
from shared.settings import Settings

settings = Settings()
configure_logging(settings.log)
tracing.configure(settings.tracing, service="guiagent-api")
app = create_app(settings)
