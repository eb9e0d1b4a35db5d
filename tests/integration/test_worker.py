"""The worker's process as Celery starts it."""

import os
import sys
from pathlib import Path

import pytest

from local.demo import isolated
from local.processes import Child, Program
from shared.settings import Settings

WORKER = ["-m", "celery", "--app", "worker.app", "worker", "--pool", "threads", "--concurrency", "1"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"CREDENTIALS_KEYS": "not a key"}, "CREDENTIALS_KEYS"),
        pytest.param(  # an error of none of ours
            {"SSL_CERT_FILE": "/no/such/file"}, "the worker can't start", marks=pytest.mark.long
        ),
    ],
)
def test_one_that_can_t_start_says_so_and_ends(
    settings: Settings, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    assert settings.storage.url
    (key,) = settings.storage.credentials_keys
    right = {
        "POSTGRES_CONNECTION_STRING": settings.storage.url.get_secret_value(),
        "REDIS_URL": settings.redis.url.get_secret_value(),
        "CREDENTIALS_KEYS": key.get_secret_value(),
    }
    program = Program(
        name="worker",
        argv=[sys.executable, *WORKER],
        log=tmp_path / "log",
        environment={**isolated(os.environ), **right, **wrong},
        cwd=tmp_path,
    )
    worker = Child(program)
    try:
        assert worker.wait_gone(30)
    finally:
        worker.kill()
    assert worker.exit_code
    assert said in program.log.read_text()
