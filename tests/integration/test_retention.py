"""Old jobs are removed, with all that was theirs; none that something still needs."""

import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update

from local.servers import Valkey
from shared import writes
from shared.db import Database
from shared.models import Delivery, Event, Job, Note, Sandbox, Step
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import PictureSettings, Settings
from tests.conftest import settings_for, wait_until
from tests.integration.conftest import (
    SUBMIT,
    UNKNOWN,
    claim,
    error,
    finish,
    keep_pictures,
    submit,
    take_steps,
)
from worker.janitor import Janitor

DAYS = 10
AGE = text("interval '11 days'")


@pytest.fixture
def settings(
    emptied_database: str, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    monkeypatch.chdir(tmp_path)
    usual = settings_for(emptied_database, valkey)
    return usual.model_copy(
        update={
            "storage": usual.storage.model_copy(update={"task_days": DAYS}),
            "pictures": PictureSettings(store=str(tmp_path / "pictures"), days=90),
        }
    )


@pytest.fixture
def clean(settings: Settings, db: Database, vault: Vault, portal: Portal) -> Callable[[], None]:
    """A round of the janitor."""
    store = PictureStore.connect(settings.pictures)
    return Janitor(settings, db=db, vault=vault, portal=portal, store=store).clean


def ended(client: FlaskClient, db: Database, **more: object) -> str:
    """A task that ended long ago."""
    task_id = submit(client, **more)
    finish(db, task_id)
    age(db, task_id)
    return task_id


def age(db: Database, task_id: str) -> None:
    with db.transaction() as session:
        session.execute(update(Job).where(Job.id == UUID(task_id)).values(finished_at=func.now() - AGE))


def left(db: Database) -> set[str]:
    with db.transaction() as session:
        return set(map(str, session.scalars(select(Job.id))))


def test_old_ones_go_with_all_that_was_theirs(
    client: FlaskClient, db: Database, clean: Callable[[], None]
) -> None:
    old = submit(client)
    lease = claim(db, old)
    take_steps(db, lease, 2)
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
        session.add(Note(id=UUID(UNKNOWN), job_id=lease.job_id, step=1, content="a fact", words=""))
    age(db, old)
    recent, active = submit(client), submit(client)
    finish(db, recent)
    clean()
    assert left(db) == {recent, active}
    assert error(client.get(f"/api/agent/task/status/{old}"))[:2] == (404, "task_not_found")
    with db.transaction() as session:
        for table in (Step, Event):
            assert session.scalars(select(table).where(table.job_id == UUID(old))).all() == []
        note = session.get_one(Note, UUID(UNKNOWN))  # it was remembered for others
        assert note.job_id is None


def test_what_others_continue_stays_until_they_go(
    client: FlaskClient, db: Database, clean: Callable[[], None]
) -> None:
    first = ended(client, db)
    second = submit(client, continue_context=True, task_id=first)
    clean()
    assert left(db) == {first, second}
    finish(db, second)
    age(db, second)
    clean()
    assert left(db) == {first}
    clean()
    assert left(db) == set()


def test_what_is_not_cleared_away_stays(client: FlaskClient, db: Database, clean: Callable[[], None]) -> None:
    made, told = (
        ended(client, db),
        ended(client, db, webhook_url="https://example.com/", webhook_secret="s" * 20),
    )
    with db.transaction() as session:
        session.add(Sandbox(job_id=UUID(made), credentials=b"sealed", linger=func.make_interval(0)))
    clean()
    assert left(db) == {made, told}
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1


def test_screenshots_go_first(
    client: FlaskClient, db: Database, clean: Callable[[], None], tmp_path: Path, portal: Portal
) -> None:
    task_id = submit(client)
    lease = claim(db, task_id)
    take_steps(db, lease, 1)
    (name,) = keep_pictures(db, lease, 1)
    store = PictureStore.connect(PictureSettings(store=str(tmp_path / "pictures")))
    assert store is not None
    portal.call(store.put, name, b"\x89PNG\r\n\x1a\n")
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "done"))
    age(db, task_id)
    clean()
    assert left(db) == set()
    assert not [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]


def test_nobody_continues_what_is_being_removed(
    client: FlaskClient, db: Database, settings: Settings
) -> None:
    parent = ended(client, db)
    answers = []
    follow_up = {"instruction": "Go on", "continue_context": True, "task_id": parent}
    with db.transaction() as session:
        session.execute(text("DELETE FROM jobs"))
        asking = threading.Thread(target=lambda: answers.append(client.post(SUBMIT, json=follow_up)))
        asking.start()
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        wait_until(lambda: session.scalar(waiting))
    asking.join()
    assert error(answers[0])[:2] == (404, "task_not_found")


def test_they_stay_for_ever_unless_asked(
    client: FlaskClient, db: Database, settings: Settings, vault: Vault, portal: Portal
) -> None:
    task_id = ended(client, db)
    for_ever = settings.model_copy(
        update={"storage": settings.storage.model_copy(update={"task_days": None})}
    )
    Janitor(for_ever, db=db, vault=vault, portal=portal, store=None).clean()
    assert left(db) == {task_id}
