"""The routes that tell how the service itself is."""

from importlib.metadata import version

from flask import Response
from flask_openapi import APIBlueprint
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.answers import Check, HealthAnswer, InfoAnswer, Limits, ModelInfo, ReadyAnswer, error_answers, reply
from api.auth import caller
from api.schemas import LARGEST_PAGE, LONGEST_INSTRUCTION, MOST_STEPS, MOST_TASKS
from api.services import DISTRIBUTION, LARGEST_BODY_BYTES, Services, services
from shared.errors import StorageUnavailable
from shared.profiles import profile_of
from shared.secrets import without_user

routes = APIBlueprint(
    "system",
    __name__,
    url_prefix="/api",
    abp_tags=[{"name": "Service"}],
    abp_responses=error_answers(400, 401, 403, 429, 500, 503),
)

PING_SECONDS = 1.0


@routes.get("/health", responses={200: HealthAnswer})
def health() -> Response:
    """Tell that the process is alive; nothing else is asked."""
    return reply(HealthAnswer())


@routes.get("/ready", responses={200: ReadyAnswer, 503: ReadyAnswer})
def ready() -> Response:
    """Tell whether a task submitted now would be carried out, with one entry for each part."""
    here = services()
    checks = {"database": _database(here), "redis": _redis(here), "workers": _workers(here)}
    good = all(check.ok for check in checks.values())
    answer = ReadyAnswer(status="ok" if good else "unavailable", checks=checks)
    return reply(answer, status=200 if good else 503)


@routes.get("/agent/info", responses={200: InfoAnswer})
def info() -> Response:
    """Tell what this server is, and what it takes at most."""
    settings, who = services().settings, caller()
    return reply(
        InfoAnswer(
            version=version(DISTRIBUTION),
            model=ModelInfo(
                name=settings.model.name,
                endpoint=without_user(settings.model.endpoint),
                dialect=profile_of(settings.model.name).dialect,
            ),
            limits=Limits(
                instruction_characters=LONGEST_INSTRUCTION,
                max_steps=MOST_STEPS,
                batch_tasks=MOST_TASKS,
                page=LARGEST_PAGE,
                body_bytes=LARGEST_BODY_BYTES,
                rate=who.rate_limit,
                active_tasks=who.max_active_tasks,
            ),
            sandbox_shape=settings.lybic.shape,
            api_keys="required" if settings.api.keys_required else "off",
            log_level=settings.log.level,
        )
    )


def _database(here: Services) -> Check:
    try:
        here.db.ping()
    except StorageUnavailable as error:
        return Check(ok=False, message=error.message)
    return Check(ok=True)


def _redis(here: Services) -> Check:
    try:
        here.redis.ping()
    except RedisError as error:
        return Check(ok=False, message=f"Redis does not answer ({type(error).__name__})")
    return Check(ok=True)


def _workers(here: Services) -> Check:
    """Asks the workers over the broker; one answer is enough."""
    try:
        answers = here.celery.control.ping(timeout=PING_SECONDS, limit=1)
    except (OperationalError, RedisError, OSError) as error:
        return Check(ok=False, message=f"the broker does not answer ({type(error).__name__})")
    if not answers:
        return Check(ok=False, message="no worker answers")
    return Check(ok=True)
