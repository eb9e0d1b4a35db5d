"""Who calls: an API key where keys are required, anybody where they are not; and how often they may."""

import hmac
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import cast
from uuid import UUID

from flask import Flask, g, request
from limits import parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import ProgrammingError
from werkzeug.exceptions import SecurityError

from api.services import Services
from shared import keys
from shared.breaker import Breaker
from shared.db import Database
from shared.errors import ConfigurationError, Forbidden, StorageUnavailable, TooManyRequests, Unauthenticated
from shared.settings import ApiSettings, Settings, is_loopback

log = logging.getLogger(__name__)

OPEN = frozenset(
    {
        *("system.health", "system.ready"),
        *("docs.document", "docs.page", "docs.static"),
        *("playground.page", "playground.asset", "playground.icon"),
    }
)
"""What tells nothing of anybody, and is asked by load balancers and browsers without a key."""
METRICS = "metrics.page"
parsed = lru_cache(parse)
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def refuse_open_door(settings: Settings, hosts: Iterable[str]) -> None:
    """Checks, before the API listens at the hosts, that callers from elsewhere need keys, and some exist.

    Raises `ConfigurationError`, which says what to do.
    """
    api, public = settings.api, [host for host in hosts if not is_loopback(host)]
    if public and api.keys == "auto" and api.on_loopback:
        raise ConfigurationError(
            f"The API is bound to {public[0]}, but API_HOST says {api.host}, where no API keys are needed: "
            f"set API_HOST={public[0]} rather than gunicorn's own option."
        )
    if not (public and api.keys_required):
        return
    db = Database.connect(settings.storage, name="guiagent api")
    try:
        with db.transaction() as session:
            keys.require_any(session)
    except StorageUnavailable as error:  # nobody is let in before it is back
        log.warning("it can't be seen whether there are API keys: %s", error.message)
    except ProgrammingError:
        raise ConfigurationError("the database is not migrated: run `python -m migrations upgrade`") from None
    finally:
        db.close()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose tasks a request may see and touch: those of a key, or, without one, everybody's."""

    key_id: UUID | None = None
    rate_limit: str | None = None
    max_active_tasks: int | None = None


def caller() -> Caller:
    """Who sent the current request."""
    return cast(Caller, g.caller)


class RateLimiter:
    """Counts requests in Redis. While that is away, nobody is held up."""

    def __init__(self, redis: Redis) -> None:
        storage = RedisStorage("redis://", redis.connection_pool, key_prefix="guiagent:rate")
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._breaker = Breaker()

    def check(self, who: Caller) -> None:
        """Counts a request. Raises `TooManyRequests`."""
        if who.rate_limit is None or self._breaker.is_open:
            return
        limit, name = parsed(who.rate_limit), str(who.key_id)
        try:
            if self._limiter.hit(limit, name):
                return
            reset = self._limiter.get_window_stats(limit, name).reset_time
        except RedisError as error:
            self._breaker.trip()
            log.warning("requests are not counted: Redis does not answer (%s)", type(error).__name__)
            return
        pause = max(1, ceil(reset - time.time()))
        raise TooManyRequests(f"this API key may send {who.rate_limit} requests", retry_after=pause)


def install(app: Flask, here: Services) -> None:
    """Lets no request of a stranger reach a route."""
    settings, limiter = here.settings.api, RateLimiter(here.redis)
    metrics_token = here.settings.metrics.token
    trusted = _trusted_hosts(settings)

    @app.before_request
    def _identify() -> None:
        if request.endpoint == METRICS and (metrics_token or settings.keys_required):
            _refuse_other_scrapers(metrics_token)
            return
        if trusted:
            _refuse_foreign_names(trusted)
        if request.endpoint is None or request.endpoint in OPEN or request.method == "OPTIONS":
            return
        if not settings.keys_required:
            _refuse_foreign_pages(settings)
            g.caller = Caller()
            return
        key = _sent_key()
        if not key:
            raise Unauthenticated(
                "an API key is required: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            )
        with here.db.statement() as connection:
            found = keys.authenticate(connection, key)
        g.caller = Caller(
            found.id,
            found.rate_limit or settings.rate_limit,
            found.max_active_tasks or settings.max_active_tasks,
        )
        limiter.check(g.caller)


def _sent_key() -> str | None:
    authorization = request.authorization
    if authorization is not None and authorization.type == "bearer":
        return authorization.token
    return request.headers.get("X-API-Key")


def _refuse_other_scrapers(token: SecretStr | None) -> None:
    """The names of hosts do not matter here: Prometheus asks each process at its own address."""
    if token is None:
        raise Forbidden("nobody may read the metrics unless METRICS_TOKEN is set")
    sent = request.authorization.token if request.authorization else None
    if not hmac.compare_digest((sent or "").encode(), token.get_secret_value().encode()):
        raise Unauthenticated(
            "the metrics' token is required: send METRICS_TOKEN as `Authorization: Bearer TOKEN`"
        )


def _trusted_hosts(settings: ApiSettings) -> Sequence[str]:
    """Without keys, a web page whose name was made to lead here must not pass for a page of ours."""
    if settings.trusted_hosts or settings.keys_required or not settings.on_loopback:
        return [host.lower() for host in settings.trusted_hosts]
    return LOCAL_NAMES


def _refuse_foreign_names(trusted: Sequence[str]) -> None:
    # Not Flask's TRUSTED_HOSTS, which knows no [::1] and takes LOCALHOST for another name.
    name = re.sub(r":[0-9]+$", "", request.host.lower())
    if not any(f".{name}".endswith(one) if one.startswith(".") else name == one for one in trusted):
        raise SecurityError(f"Host {request.host!r} is not trusted.")


def _refuse_foreign_pages(settings: ApiSettings) -> None:
    """Without keys, any web page that a user of this machine looks at could post tasks."""
    origin = request.headers.get("Origin")
    if origin is None or request.method in {"GET", "HEAD"}:
        return
    ours = {f"http://{request.host}", f"https://{request.host}"}
    if not ours.union(settings.cors_origins) & {origin, "*"}:
        raise Forbidden("web pages of other origins may not call (API_CORS_ORIGINS)")
