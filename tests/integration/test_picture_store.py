"""The store of screenshots, and the janitor that empties it."""

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from shared import jobs, pictures, writes
from shared.db import Database
from shared.errors import ConfigurationError, PictureNotFound, PicturesUnavailable
from shared.models import Job
from shared.pictures import PictureStore, kind_of
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import PictureSettings, Settings
from tests.integration.conftest import claim, finish, keep_pictures, read, submit, take_steps
from worker.janitor import Janitor

PNG = b"\x89PNG\r\n\x1a\n and the rest"
ODD_NAMES = [
    "",
    ".",
    "..",
    "../secret",
    "%2e%2e",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\n",
    "a#1",
    "é",
    "a" * 101,
    "a.png",
]


def opened(place: object) -> PictureStore:
    store = PictureStore.connect(PictureSettings(store=str(place)))
    assert store is not None
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "screenshots" / "here"


@pytest.fixture
def store(folder: Path) -> PictureStore:
    return opened(folder)


# --- the store ------------------------------------------------------------------------------------------


def test_a_picture_comes_back_and_goes(portal: Portal, store: PictureStore, folder: Path) -> None:
    job_id, other = uuid4(), uuid4()
    for name in (f"{job_id}/one", f"{job_id}/two", f"{other}/one"):
        portal.call(store.put, name, PNG + name.encode())
    assert portal.call(store.get, f"{job_id}/two") == PNG + f"{job_id}/two".encode()
    portal.call(opened(folder).remove, job_id)
    for name in (f"{job_id}/one", f"{job_id}/two"):
        with pytest.raises(PictureNotFound):
            portal.call(store.get, name)
    assert portal.call(store.get, f"{other}/one").startswith(PNG)
    assert [one.name for one in folder.iterdir()] == [str(other)]  # nor is an empty folder left


def test_what_is_not_there_is_removed_without_a_word(portal: Portal, store: PictureStore) -> None:
    portal.call(store.remove, uuid4())


def test_two_may_remove_the_same(portal: Portal, store: PictureStore, folder: Path) -> None:
    job_id = uuid4()

    async def all_at_once() -> None:
        await asyncio.gather(*(store.put(f"{job_id}/{number}", PNG) for number in range(200)))
        await asyncio.gather(store.remove(job_id), opened(folder).remove(job_id))

    portal.call(all_at_once)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(portal: Portal, store: PictureStore, folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(PNG)
    for whole in (f"{uuid4()}/{name}", f"{name}/one"):
        with pytest.raises(PictureNotFound):
            portal.call(store.get, whole)
        with pytest.raises(PictureNotFound):
            portal.call(store.put, whole, PNG)
    assert list(folder.iterdir()) == []


def test_a_folder_that_can_t_be_made_or_read(portal: Portal, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="SCREENSHOT_STORE"):
        opened(tmp_path / "file" / "store")
    store = opened(tmp_path / "store")
    (tmp_path / "store" / "job").write_bytes(b"")  # where a folder should be
    with pytest.raises(PicturesUnavailable):
        portal.call(store.put, "job/one", PNG)


@pytest.mark.parametrize("url", ["nonsense://bucket/x", "s3://", "://", "file:///no/such/folder"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SCREENSHOT_STORE"):
        opened(url)


def test_no_store(portal: Portal) -> None:
    assert PictureStore.connect(PictureSettings(store=None)) is None


def test_a_store_that_does_not_answer(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("GET_SECONDS", "PUT_SECONDS", "REMOVE_SECONDS"):
        monkeypatch.setattr(pictures, name, 0.1)
    store = opened("s3://bucket/prefix")
    for call in (
        lambda: portal.call(store.get, "job/one"),
        lambda: portal.call(store.put, "job/one", PNG),
        lambda: portal.call(store.remove, uuid4()),
    ):
        with pytest.raises(PicturesUnavailable):
            call()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\n\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"<svg/>", None),
        (b"", None),
        (b" " + PNG, None),
    ],
)
def test_kinds(data: bytes, kind: str | None) -> None:
    assert kind_of(data) == kind


# --- the janitor ----------------------------------------------------------------------------------------


@pytest.fixture
def janitor(settings: Settings, db: Database, vault: Vault, portal: Portal, store: PictureStore) -> Janitor:
    return Janitor(settings, db=db, vault=vault, portal=portal, store=store)


def ended_ago(db: Database, task_id: str, ago: timedelta) -> None:
    with db.transaction() as session:
        session.execute(update(Job).where(Job.id == UUID(task_id)).values(finished_at=Job.finished_at - ago))


@pytest.fixture
def three(client: FlaskClient, db: Database, portal: Portal, store: PictureStore) -> tuple[str, str, str]:
    """Tasks with pictures: one that ended eight days ago, one that ended yesterday, and an active one."""
    old, young, active = (submit(client, sandbox_id=f"box-{number}") for number in range(3))
    for task_id in (old, young, active):
        lease = claim(db, task_id)
        take_steps(db, lease, 2)
        for name in keep_pictures(db, lease, 2):
            portal.call(store.put, name, PNG)
        if task_id != active:
            with db.transaction() as session:
                writes.carry_out(session, writes.finished(lease, "done"))
    ended_ago(db, old, timedelta(days=8))
    ended_ago(db, young, timedelta(days=1))
    return old, young, active


def test_old_pictures_are_removed(
    janitor: Janitor, db: Database, folder: Path, three: tuple[str, str, str]
) -> None:
    old, young, active = three
    janitor.clean()
    assert {one.name for one in folder.iterdir()} == {young, active}
    assert [read(db, task_id).has_pictures for task_id in three] == [False, True, True]
    with db.transaction() as session:
        assert [step.picture for step in jobs.steps(session, UUID(old))] == [None, None]
        assert all(step.picture for step in jobs.steps(session, UUID(young)))
    janitor.clean()
    assert {one.name for one in folder.iterdir()} == {young, active}


def test_what_can_t_be_removed_now_is_removed_later(
    settings: Settings,
    db: Database,
    vault: Vault,
    portal: Portal,
    janitor: Janitor,
    three: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, *_ = three
    with monkeypatch.context() as away:
        away.setattr(pictures, "REMOVE_SECONDS", 0)
        janitor.clean()
    assert read(db, old).has_pictures
    janitor.clean()
    assert not read(db, old).has_pictures


def test_without_a_store_nothing_is_forgotten(
    settings: Settings, db: Database, vault: Vault, portal: Portal, three: tuple[str, str, str]
) -> None:
    Janitor(settings, db=db, vault=vault, portal=portal, store=None).clean()
    assert read(db, three[0]).has_pictures


def test_many_old_ones_take_several_rounds(client: FlaskClient, db: Database, janitor: Janitor) -> None:
    tasks = [submit(client, sandbox_id=f"box-{number}") for number in range(10)]
    for task_id in tasks:
        finish(db, task_id)
        ended_ago(db, task_id, timedelta(days=30))
    with db.transaction() as session:
        session.execute(update(Job).values(has_pictures=True))
    rounds = 0
    while any(read(db, task_id).has_pictures for task_id in tasks):
        janitor.clean()
        rounds += 1
    assert rounds == 2
