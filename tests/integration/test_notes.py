"""Notes for later jobs, on a real PostgreSQL: what is found, whose it is, and that no text does harm."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from shared import jobs, notes
from shared.conversation import Turn
from shared.db import AsyncDatabase, Database
from shared.models import ApiKey, Job, Note, Step
from shared.schemas import NewJob, Usage
from shared.settings import AgentSettings, Settings
from shared.states import StepStatus
from shared.wakes import Waker, connect
from shared.writes import Lease
from worker import uitars
from worker.metrics import StepWatch
from worker.protocols import Answer, Observation
from worker.recorder import JobRecorder
from worker.stop import Stop
from worker.storage import Storage
from worker.wakes import WakeBatch

SEEN = Observation("https://example.com/1.webp", (1280, 720))
TOOLS = (
    "The calculator is the second entry of the taskbar.",
    "Downloads end up in the folder Reports of the user's home.",
    "百度网盘的密码保存在记事本里。",
    "打开Chrome浏览器要双击桌面图标。",
    "To compute 15 percent, type 0.15 into the calculator.",
)


def job_of(db: Database, new_job: NewJob, owner: UUID | None = None) -> UUID:
    with db.transaction() as session:
        (submitted,) = jobs.submit(session, [(new_job.model_copy(update={"owner_id": owner}), b"sealed")])
    return submitted.job_id


def owner_named(db: Database, name: str) -> UUID:
    with db.transaction() as session:
        key = ApiKey(id=uuid4(), name=name, hint="sk", digest=name.encode())
        session.add(key)
        return key.id


@pytest.fixture
def job_id(db: Database, new_job: NewJob) -> UUID:
    return job_of(db, new_job)


def remember(db: Database, job_id: UUID, *contents: str, owner: UUID | None = None) -> None:
    for content in contents:  # each at a time of its own
        with db.transaction() as session:
            notes.remember(session, owner, job_id, 1, [content])


def recall(db: Database, text: str, *, owner: UUID | None = None, limit: int = 5) -> Sequence[str]:
    with db.transaction() as session:
        return notes.recall(session, owner, text, limit=limit)


BEST = {
    "Where is the CALCULATOR in the taskbar?": TOOLS[0],
    "save it among the downloads": TOOLS[1],
    "登录百度网盘": TOOLS[2],
    "用浏览器搜索": TOOLS[3],
    "打开chrome": TOOLS[3],
    "在记事本里找密码": TOOLS[2],
    "what is 15 percent of 80, by calculator": TOOLS[4],
}


def test_the_best_match_comes_first(db: Database, job_id: UUID) -> None:
    remember(db, job_id, *TOOLS)
    assert {text: recall(db, text)[0] for text in BEST} == BEST


def test_what_has_nothing_to_do_with_it_is_not_found(db: Database, job_id: UUID) -> None:
    remember(db, job_id, *TOOLS)
    assert recall(db, "weather 天气") == []


def test_the_newest_of_equal_ones_and_no_more_than_asked_for(db: Database, job_id: UUID) -> None:
    remember(db, job_id, *(f"price {number}" for number in range(7)))
    assert recall(db, "price", limit=3) == ["price 6", "price 5", "price 4"]


def test_what_was_noted_several_times_is_one_note(db: Database, job_id: UUID) -> None:
    remember(db, job_id, "the price is 7", "the price is 8", "the price is 7", "the price is 7")
    assert recall(db, "price") == ["the price is 7", "the price is 8"]


def test_notes_are_their_owner_s(db: Database, new_job: NewJob) -> None:
    one, other = owner_named(db, "one"), owner_named(db, "other")
    for owner, text in ((one, "price of one"), (other, "price of the other"), (None, "price of nobody")):
        remember(db, job_of(db, new_job, owner), text, owner=owner)
    assert recall(db, "price", owner=one) == ["price of one"]
    assert recall(db, "price", owner=other) == ["price of the other"]
    assert recall(db, "price") == ["price of nobody"]


HOSTILE = (
    "it's ' '' \\' \" `quoted`",
    "price & ! | ( ) <-> :* 'a':1A,2B",
    "'; DROP TABLE notes; --",
    "!!! ... ??? ——。，",
    "🎉🎉 👩‍👩‍👧 price",
    "x" * 10_000,
    "价" * 10_000,
    " ".join(f"word{number}" for number in range(5_000)),
    "e\u0301 İstanbul ǅ ß ² Ⅷ ٣ 한국어 カタカナ 𠮷野家",
    "1e400 0x1f -5 1.5 a@b.example https://example.com/x?y=z",
    "\u200b\ufeff\u202e",
    "_ __ a_b",
)


def test_no_text_does_harm(db: Database, job_id: UUID) -> None:
    remember(db, job_id, *HOSTILE)
    for text in HOSTILE:
        kept = text[: notes.LONGEST_NOTE]
        assert (kept in recall(db, text, limit=len(HOSTILE))) == bool(notes.words(kept)), text[:80]
    for word in ("quoted", "1e400", "한국어", "カタカナ", "word7", "价价", "野家"):
        assert len(recall(db, word)) == 1, word


# --- as a run does it -----------------------------------------------------------------------------------


def recorder_of(storage: Storage, job: Job, wakes: WakeBatch) -> JobRecorder:
    return JobRecorder(
        storage,
        wakes,
        Lease(job.id, job.run, "test"),
        Stop(float("inf")),
        events=job.event_count,
        prompts=["prompt"],
        history=[],
        current=Turn(job.instruction),
        usage=Usage(),
        owner=job.owner_id,
        settings=AgentSettings(),
        watch=StepWatch(),
    )


def test_an_answer_stores_its_notes_with_the_step_once(
    db: Database, new_job: NewJob, settings: Settings
) -> None:
    owner = owner_named(db, "one")
    job_id = job_of(db, new_job, owner)
    with db.transaction() as session:
        job = jobs.claim(session, job_id, owner="test", lease_seconds=60)
    assert job is not None
    storage = Storage(db, AsyncDatabase(settings.storage, name="tests"))
    wakes = WakeBatch(Waker(connect(settings.redis)))
    recorder = recorder_of(storage, job, wakes)
    text = (
        "Thought: worth it.\nAction: save_memory(content='the price is\\u0000 7')\n\n"
        "save_memory(content='  ')\n\nclick(point='<point>5 5</point>')"
    )
    decision = uitars.parse(text, screen=SEEN.screen)
    asyncio.run(recorder.intend(SEEN, Answer(text, Usage(model_calls=1), 1), decision))
    storage.close()
    wakes.close()
    with db.transaction() as session:
        (note,) = session.scalars(select(Note)).all()
        (step,) = session.scalars(select(Step)).all()
    assert (note.content, note.owner_id, note.job_id, note.step) == ("the price is 7", owner, job_id, 1)
    assert step.status == StepStatus.INTENDED
