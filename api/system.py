"""The routes that tell how the service itself is."""

from flask import Blueprint, Response, jsonify
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.services import Services, services
from shared.errors import StorageUnavailable

routes = Blueprint("system", __name__, url_prefix="/api")

PING_SECONDS = 1.0


@routes.get("/health")
def health() -> Response:
    """The process is alive; nothing else is asked."""
    return jsonify(status="ok")


@routes.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether a task submitted now would be carried out, with one entry for each part."""
    here = services()
    checks = {"database": _database(here), "redis": _redis(here), "workers": _workers(here)}
    good = all(check["ok"] for check in checks.values())
    return jsonify(status="ok" if good else "unavailable", checks=checks), 200 if good else 503


def _database(here: Services) -> dict[str, object]:
    try:
        here.db.ping()
    except StorageUnavailable as error:
        return {"ok": False, "message": error.message}
    return {"ok": True}


def _redis(here: Services) -> dict[str, object]:
    try:
        here.redis.ping()
    except RedisError as error:
        return {"ok": False, "message": f"Redis does not answer ({type(error).__name__})"}
    return {"ok": True}


def _workers(here: Services) -> dict[str, object]:
    """Asks the workers over the broker; one answer is enough."""
    try:
        answers = here.celery.control.ping(timeout=PING_SECONDS, limit=1)
    except (OperationalError, RedisError, OSError) as error:
        return {"ok": False, "message": f"the broker does not answer ({type(error).__name__})"}
    if not answers:
        return {"ok": False, "message": "no worker answers"}
    return {"ok": True}
