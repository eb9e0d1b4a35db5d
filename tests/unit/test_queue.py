"""How the queue's connections look for a Redis that is away."""

import pytest
from kombu.exceptions import OperationalError

from local.processes import free_port
from local.servers import LOOPBACK
from shared.queue import make_celery
from shared.settings import RedisSettings


def test_workers_look_for_redis_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    pauses: list[float] = []
    with make_celery(RedisSettings.model_validate({"url": f"redis://{LOOPBACK}:{free_port()}"})) as app:
        connection = app.connection_for_read()
        with pytest.raises(OperationalError):
            connection.ensure_connection(lambda _, pause: pauses.append(pause), max_retries=4)
    assert pauses == [2.0] * 4
