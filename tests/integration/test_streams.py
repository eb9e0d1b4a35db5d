"""Streams: every event once and in order, with wakes and without."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from pydantic import SecretStr

from api.hub import WakeHub
from api.streams import EventStream
from local.servers import Valkey
from shared import events, jobs
from shared.db import Database
from shared.jobs import Lease
from shared.schemas import NewJob
from shared.secrets import Vault
from shared.settings import RedisSettings
from shared.wakes import Waker, connect
from tests.conftest import wait_until


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey", throwaway=True) as server:
        yield server


@pytest.fixture
def redis_settings(own_valkey: Valkey) -> RedisSettings:
    return RedisSettings(url=SecretStr(own_valkey.url))


@pytest.fixture
def hub(redis_settings: RedisSettings) -> Iterator[WakeHub]:
    made = WakeHub(redis_settings)
    yield made
    made.close()


@pytest.fixture
def lease(db: Database, vault: Vault, new_job: NewJob) -> Lease:
    with db.transaction() as session:
        job_id = jobs.submit(session, new_job, vault.seal(new_job.credentials))
        job = jobs.claim(session, job_id, owner="test", lease_seconds=60)
    assert job is not None
    return Lease(job.id, job.run, "test")


class Reader:
    """Reads a stream in a thread of its own."""

    def __init__(self, db: Database, hub: WakeHub, job_id: UUID, after: int = 0) -> None:
        self.seen: list[int] = []
        self._stream = EventStream(db, hub, job_id, after, ends_at_pause=False)
        self.thread = Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for text in self._stream.frames():
            if text.startswith("id: "):
                self.seen.append(json.loads(text.partition("data: ")[2])["seq"])


def tell(db: Database, lease: Lease, *new: events.NewEvent) -> None:
    with db.transaction() as session:
        jobs.write(session, lease, new)


def end(db: Database, lease: Lease) -> None:
    with db.transaction() as session:
        jobs.finish(session, lease, "done")


def test_wakes_bring_events_at_once(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    readers = [Reader(db, hub, lease.job_id) for _ in range(20)]
    wait_until(lambda: all(reader.seen == [1, 2] for reader in readers))
    waker = Waker(connect(redis_settings))
    for number in range(50):
        tell(db, lease, events.result(str(number), 1))
        waker.wake(lease.job_id)
    end(db, lease)
    waker.wake(lease.job_id)
    for reader in readers:
        reader.thread.join(10)
        assert reader.seen == list(range(1, 54))
    # One connection however many streams, and the waker's.
    assert len(connect(redis_settings).client_list(_type="pubsub")) == 1


def test_an_event_while_the_subscription_is_under_way_is_not_missed(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    waker = Waker(connect(redis_settings))
    readers = []
    for number in range(3, 33):
        readers.append(reader := Reader(db, hub, lease.job_id, after=number - 1))
        tell(db, lease, events.result(str(number), 1))
        waker.wake(lease.job_id)
        # Within less than a tick, so it was not found by looking now and then.
        wait_until(lambda reader=reader, number=number: number in reader.seen, seconds=3)  # type: ignore[misc]
    end(db, lease)
    waker.wake(lease.job_id)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in readers))
    assert [reader.seen for reader in readers] == [list(range(first, 34)) for first in range(3, 33)]


def test_streams_go_on_without_redis_and_after_it_came_back(
    db: Database, own_valkey: Valkey, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    reader = Reader(db, hub, lease.job_id)
    wait_until(lambda: hub.connected and reader.seen == [1, 2])
    own_valkey.kill()
    wait_until(lambda: not hub.connected)
    tell(db, lease, events.result("while away", 1))
    wait_until(lambda: reader.seen == [1, 2, 3])
    own_valkey.start()
    wait_until(lambda: hub.connected)
    tell(db, lease, events.result("back again", 1))
    Waker(connect(redis_settings)).wake(lease.job_id)
    wait_until(lambda: reader.seen == [1, 2, 3, 4])
    end(db, lease)
    wait_until(lambda: not reader.thread.is_alive())
    assert reader.seen == [1, 2, 3, 4, 5]


def test_streams_go_on_while_redis_is_frozen(
    db: Database, own_valkey: Valkey, hub: WakeHub, lease: Lease
) -> None:
    reader = Reader(db, hub, lease.job_id)
    wait_until(lambda: hub.connected and reader.seen == [1, 2])
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not hub.connected)
        tell(db, lease, events.result("while frozen", 1))
        wait_until(lambda: reader.seen == [1, 2, 3])
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
    wait_until(lambda: hub.connected)
    end(db, lease)
    wait_until(lambda: not reader.thread.is_alive())


def test_a_stream_that_is_left_lets_go_of_its_channel(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    stream = EventStream(db, hub, lease.job_id, 0, ends_at_pause=False).frames()
    next(stream)
    wait_until(lambda: hub.connected)
    redis = connect(redis_settings)
    wait_until(lambda: len(redis.pubsub_channels()) == 2)
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: len(redis.pubsub_channels()) == 1)
