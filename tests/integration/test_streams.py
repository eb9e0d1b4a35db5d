"""Streams: every event once and in order, with wakes and without, and rows read once for all."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
from pydantic import SecretStr

from api import hub as hub_module
from api.hub import PAGE_BYTES, PAGE_FRAMES, WakeHub
from api.streams import KEEP_ALIVE, EventStream
from local.servers import Postgres, Valkey
from shared import events, jobs, writes
from shared.db import Database
from shared.errors import StorageUnavailable
from shared.schemas import NewJob
from shared.secrets import Vault
from shared.settings import ApiSettings, RedisSettings
from shared.wakes import Waker, connect
from shared.writes import Lease
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
        (submitted,) = jobs.submit(session, [(new_job, vault.seal(new_job.credentials))])
        job = jobs.claim(session, submitted.job_id, owner="test", lease_seconds=60)
    assert job is not None
    return Lease(job.id, job.run, "test")


@pytest.fixture
def reads(db: Database) -> list[str]:
    """Every statement that has read events so far."""
    seen: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if "FROM events" in statement:
            seen.append(statement)

    sqlalchemy.event.listen(db.engine, "before_cursor_execute", note)
    return seen


class Reader:
    """Reads a stream in a thread of its own."""

    def __init__(self, db: Database, hub: WakeHub, job_id: UUID, after: int = 0) -> None:
        self.seen: list[int] = []
        self._stream = EventStream(db, hub, ApiSettings(), job_id, after, ends_at_pause=False)
        self.thread = Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        rest = b""
        for piece in self._stream.pieces():
            *whole, rest = (rest + piece).split(b"\n\n")
            self.seen += [number_of(frame) for frame in whole if frame.startswith(b"id: ")]


def number_of(frame: bytes) -> int:
    """The number of a frame's event, which it says twice."""
    head, _, data = frame.partition(b"\ndata: ")
    number = int(json.loads(data)["seq"])
    assert head == b"id: %d" % number
    return number


def tell(db: Database, lease: Lease, *new: events.NewEvent) -> None:
    with db.transaction() as session:
        writes.carry_out(session, writes.change(lease, new))


def end(db: Database, lease: Lease) -> None:
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))


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


def test_one_stream_reads_for_all_that_wait(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease, reads: list[str]
) -> None:
    readers = [Reader(db, hub, lease.job_id) for _ in range(50)]
    wait_until(lambda: hub.connected and all(reader.seen == [1, 2] for reader in readers))
    waker = Waker(connect(redis_settings))
    del reads[:]
    for number in range(3, 8):
        tell(db, lease, events.result(str(number), 1))
        waker.wake(lease.job_id)
        wait_until(lambda number=number: all(reader.seen[-1] == number for reader in readers))  # type: ignore[misc]
    assert len(reads) <= 10  # each wake makes one, and a look may make a few more
    del reads[:]
    tell(db, lease, *(events.result("of a burst", 1) for _ in range(PAGE_FRAMES - 1)))
    waker.wake(lease.job_id)
    wait_until(lambda: all(reader.seen[-1] == 6 + PAGE_FRAMES for reader in readers))
    assert len(reads) <= 3
    end(db, lease)
    waker.wake(lease.job_id)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in readers))


def test_streams_at_different_places_get_what_follows(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    last = 2 + 3 * PAGE_FRAMES
    places = [0, 1, last // 2, last - PAGE_FRAMES, last - 1, last, last + 2]
    waker = Waker(connect(redis_settings))
    early = [Reader(db, hub, lease.job_id) for _ in range(3)]
    tell(db, lease, *(events.result(str(number), 1) for number in range(3, last + 1)))
    late = [Reader(db, hub, lease.job_id, after) for after in places]
    for _ in range(5):
        tell(db, lease, events.result("more", 1))
        waker.wake(lease.job_id)
    end(db, lease)
    waker.wake(lease.job_id)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in early + late))
    assert [reader.seen for reader in early] == [list(range(1, last + 7))] * 3
    assert [reader.seen for reader in late] == [list(range(after + 1, last + 7)) for after in places]


def test_a_client_that_has_seen_more_than_there_is_does_not_wait_for_ever(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    readers = [Reader(db, hub, lease.job_id, after=1000) for _ in range(3)]
    wait_until(lambda: hub.connected)
    end(db, lease)
    Waker(connect(redis_settings)).wake(lease.job_id)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in readers))
    assert [reader.seen for reader in readers] == [[]] * 3


def test_large_events_are_read_a_few_at_a_time(db: Database, hub: WakeHub, lease: Lease) -> None:
    tell(db, lease, *(events.result("x" * (PAGE_BYTES // 3), 1) for _ in range(20)))
    tell(db, lease, events.result("x" * (PAGE_BYTES * 2), 1))
    end(db, lease)
    stream = EventStream(db, hub, ApiSettings(), lease.job_id, 0, ends_at_pause=False)
    numbers: list[int] = []
    while len(numbers) < 24:
        frames = stream._load(numbers[-1] if numbers else 0).frames
        numbers += [one.number for one in frames]
        assert len(frames) == 1 or sum(len(one.data) for one in frames) <= PAGE_BYTES
    assert numbers == list(range(1, 25))
    assert b"".join(stream.pieces()).count(b"id: ") == 24


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
    waker = Waker(connect(redis_settings))
    tell(db, lease, events.result("back again", 1))
    waker.wake(lease.job_id)
    wait_until(lambda: reader.seen == [1, 2, 3, 4])
    end(db, lease)
    waker.wake(lease.job_id)
    wait_until(lambda: not reader.thread.is_alive())
    assert reader.seen == [1, 2, 3, 4, 5]


def test_streams_go_on_while_redis_is_frozen(
    db: Database, own_valkey: Valkey, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
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
    Waker(connect(redis_settings)).wake(lease.job_id)
    wait_until(lambda: not reader.thread.is_alive())


def test_a_wake_that_nobody_sent_is_made_up_for(
    db: Database, hub: WakeHub, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LOOK_SECONDS", 0.2)
    readers = [Reader(db, hub, lease.job_id) for _ in range(5)]
    wait_until(lambda: hub.connected and all(reader.seen == [1, 2] for reader in readers))
    end(db, lease)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in readers))
    assert all(reader.seen == [1, 2, 3] for reader in readers)


def test_streams_go_on_after_an_outage_of_postgres(
    db: Database,
    hub: WakeHub,
    redis_settings: RedisSettings,
    lease: Lease,
    close_database: Callable[[bool], None],
) -> None:
    readers = [Reader(db, hub, lease.job_id) for _ in range(5)]
    wait_until(lambda: hub.connected and all(reader.seen == [1, 2] for reader in readers))
    tick = hub.tick
    close_database(True)
    Waker(connect(redis_settings)).wake(lease.job_id)
    wait_until(lambda: hub.tick < tick)  # somebody tried to read, and all wait for a look that succeeds
    with pytest.raises(StorageUnavailable):
        end(db, lease)
    close_database(False)
    end(db, lease)
    wait_until(lambda: not any(reader.thread.is_alive() for reader in readers))
    assert all(reader.seen == [1, 2, 3] for reader in readers)


@pytest.fixture
def close_database(postgres: Postgres, database_url: str) -> Iterator[Callable[[bool], None]]:
    """Throws everybody out of this test's database, and lets nobody in until told."""
    name = urlsplit(database_url).path.removeprefix("/")

    def close(closed: bool) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {str(not closed).lower()}")
            if closed:
                leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                admin.execute(leave, [name])

    yield close
    close(False)


def test_a_stream_without_news_begins_at_once(db: Database, hub: WakeHub, lease: Lease) -> None:
    settings = ApiSettings(keep_alive_seconds=1000)
    stream = EventStream(db, hub, settings, lease.job_id, 2, ends_at_pause=False).pieces()
    assert next(stream) == KEEP_ALIVE
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_left_lets_go_of_its_channel(
    db: Database, hub: WakeHub, redis_settings: RedisSettings, lease: Lease
) -> None:
    stream = EventStream(db, hub, ApiSettings(), lease.job_id, 0, ends_at_pause=False).pieces()
    next(stream)
    wait_until(lambda: hub.connected)
    redis = connect(redis_settings)
    wait_until(lambda: len(redis.pubsub_channels()) == 2)
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: len(redis.pubsub_channels()) == 1)
