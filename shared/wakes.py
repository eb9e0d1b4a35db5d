"""Wakes: lossy hints over Redis pub/sub that a job has new events. Never the events themselves."""

import logging
from uuid import UUID

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.breaker import Breaker
from shared.settings import RedisSettings

log = logging.getLogger(__name__)

PREFIX = "guiagent:wake:"
SOCKET_SECONDS = 2.0


def channel(job_id: UUID) -> str:
    """The pub/sub channel of a job."""
    return f"{PREFIX}{job_id}"


def connect(settings: RedisSettings, *, timeout: float = SOCKET_SECONDS) -> "Redis":
    """A client whose calls fail soon and once: a wake is not worth waiting for."""
    return Redis.from_url(
        settings.url.get_secret_value(),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


class Waker:
    """Publishes wakes. Failing to is logged, never raised: readers look again by themselves."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._breaker = Breaker()

    def wake(self, *job_ids: UUID) -> None:
        """Tells whoever follows the jobs that there is something new; in one round trip, however many."""
        if self._breaker.is_open:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in job_ids:
                    pipeline.publish(channel(job_id), "")
                pipeline.execute()
        except RedisError as error:
            self._breaker.trip()
            log.warning("wake not published: %s", type(error).__name__)
