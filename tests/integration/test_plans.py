"""How PostgreSQL carries out what is asked often: by indexes, however many jobs there have been."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.orm import Session

from benchmarks.table_rows import FILL
from local.servers import Postgres, Valkey
from shared import census, disposal, events, jobs, listing, retention, webhooks, writes
from shared.db import Database
from shared.listing import Position, Wanted
from shared.models import Job
from shared.states import JobStatus
from shared.writes import Lease
from tests.conftest import new_database, settings_for

JOBS = 20_000
OWNER = UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")
"""Of a fifth of the jobs (`benchmarks.table_rows`)."""
# So many that to read all of them would be dearer than to look one up.
OF_LITTLE_TABLES = f"""
INSERT INTO api_keys (id, name, hint, digest)
SELECT md5(n::text)::uuid, 'key ' || n, '', sha256(n::text::bytea) FROM generate_series(1, 2000) AS n;
INSERT INTO sandboxes (job_id, sandbox_id, key, credentials, linger, delete_at)
SELECT id, sandbox_id, sandbox_key, '', '5 minutes', CASE WHEN random() < 0.02 THEN now() END FROM jobs
WHERE sandbox_id IS NOT NULL LIMIT {JOBS // 4};
INSERT INTO webhooks (job_id, host, receiver)
SELECT id, 'receiver.example', '' FROM jobs WHERE status = 'finished' LIMIT {JOBS // 4};
INSERT INTO deliveries (job_id, seq, state, due_at) SELECT job_id, 1, 'delivered', NULL FROM webhooks;
"""
BIG = frozenset({"jobs", "events", "steps", "sandboxes", "webhooks", "deliveries", "api_keys"})

# Keys are never deleted.
REFERENCES_WITHOUT_INDEX = """
SELECT conname FROM pg_constraint WHERE contype = 'f' AND confrelid <> 'api_keys'::regclass AND NOT EXISTS (
    SELECT 1 FROM pg_index WHERE indrelid = conrelid AND (indkey::int2[])[0:cardinality(conkey) - 1] = conkey
)
"""

Plans = list[dict[str, Any]]
Ask = Callable[[Session], object]


@pytest.fixture(scope="module")
def filled(postgres: Postgres, valkey: Valkey) -> Iterator[Database]:
    """Tables with many jobs that have ended, and a few that have not."""
    with new_database(postgres) as url:
        with psycopg.connect(url, autocommit=True) as sql:
            sql.execute("SET session_replication_role = replica")
            sql.execute(FILL, {"first": 0, "last": JOBS, "jobs": JOBS, "events": 5, "steps": 1})
            sql.execute(OF_LITTLE_TABLES)
            sql.execute("VACUUM ANALYZE")
        db = Database.connect(settings_for(url, valkey).storage, name="tests")
        yield db
        db.close()


@pytest.fixture(scope="module")
def everything(filled: Database) -> Sequence[Any]:
    """What lists look at, newest first."""
    columns = select(Job.id, Job.created_at, Job.owner_id, Job.status, Job.meta, Job.instruction)
    with filled.transaction() as session:
        return session.execute(columns.order_by(Job.created_at.desc(), Job.id.desc())).all()


@contextmanager
def explained(
    db: Database, how: str = "FORMAT JSON", *, generic: bool = False
) -> Iterator[tuple[Session, Plans]]:
    """A transaction that comes to nothing, and the plans of its statements; `generic`: for any parameters."""
    plans: Plans = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith(("INSERT", "SET")):
            if generic:
                cursor.execute(f"EXPLAIN (GENERIC_PLAN, {how}) {numbered(statement, parameters)}")
            else:
                cursor.execute(f"EXPLAIN ({how}) {statement}", parameters)
            ((found,),) = cursor.fetchall()
            plans.append(found[0]["Plan"])

    event.listen(db.engine, "before_cursor_execute", explain)
    try:
        with Session(db.engine) as session:
            yield session, plans
    finally:
        event.remove(db.engine, "before_cursor_execute", explain)


def numbered(statement: str, parameters: dict[str, Any]) -> str:
    """The statement with its parameters as PostgreSQL names them."""
    names = list(parameters)

    def place(found: re.Match[str]) -> str:
        kind = "::interval" if isinstance(parameters[found[1]], timedelta) else ""
        return f"${names.index(found[1]) + 1}{kind}"

    return re.sub(r"%\((\w+)\)s", place, statement).replace("%%", "%")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def one(session: Session, status: JobStatus) -> Job:
    found = session.query(Job).filter_by(status=status).order_by(Job.created_at).first()
    assert found
    return found


def lease(session: Session) -> Lease:
    job = one(session, JobStatus.RUNNING)
    return Lease(job.id, job.run, job.lease_owner or "")


def filters() -> Iterator[tuple[str, Wanted]]:
    for owner in (None, OWNER):
        for statuses in ((), (S.ERROR,), (S.PENDING, S.RUNNING)):
            for labels in ((), [("batch", ["b-3", 3])], [("team", ["team-3"])]):
                said = " ".join([str(bool(owner)), *statuses, *(name for name, _ in labels)])
                yield said, Wanted(owner, statuses, labels)


def pages() -> Iterator[tuple[str, Ask]]:
    after = Position(datetime.now(UTC) - timedelta(days=45), UUID(int=0))
    for said, wanted in filters():
        yield f"page {said}", partial(listing.page, wanted=wanted, limit=51)
        yield f"page after {said}", partial(listing.page, wanted=wanted, limit=51, after=after)
        yield f"count {said}", partial(listing.count, wanted=wanted)


def searches() -> Iterator[tuple[str, Wanted]]:
    """For what a tenth of the newest have: in instructions there are the numbers of their jobs."""
    for said, wanted in filters():
        yield f"search {said}", replace(wanted, text="INVOICE 15")


def searched() -> Iterator[tuple[str, Ask]]:
    for said, wanted in searches():
        yield said, partial(listing.page, wanted=wanted, limit=51)
        yield f"count {said}", partial(listing.count, wanted=wanted)


S = JobStatus
ASKED: dict[str, Ask] = {
    **dict(pages()),
    **dict(searched()),
    "a page far down": lambda session: listing.page(session, Wanted(), limit=51, offset=5000),
    "active": lambda session: listing.active(session, None, limit=500),
    "an owner's active": lambda session: listing.active(session, OWNER, limit=500),
    "how many are active": lambda session: listing.active_count(session, OWNER),
    "the place in the queue": lambda session: listing.queue_position(session, one(session, S.PENDING)),
    "whose sandboxes": lambda session: listing.own_sandboxes(
        session, OWNER, [f"{n:064}" for n in range(5000)]
    ),
    "who drives them": lambda session: listing.drivers(
        session, None, [f"{n:064}" for n in range(500)], {f"{n:064}": uuid4() for n in range(500)}
    ),
    "whether one is needed": lambda session: listing.is_needed(session, f"{7:064}", uuid4()),
    "a job": lambda session: session.get(Job, uuid4()),
    "its steps": lambda session: jobs.steps(session, uuid4()),
    "its events": lambda session: events.read(session, uuid4(), 3),
    "whether it is over": lambda session: jobs.is_over(session, uuid4(), 3),
    "whether there is news": lambda session: jobs.event_counts(session, [uuid4() for _ in range(200)]),
    "what it waits for": lambda session: jobs.waits_for(session, one(session, S.PENDING)),
    "census": census.take,
    "claim": lambda session: jobs.claim(session, uuid4(), owner="a", lease_seconds=6),
    "claim forgotten": lambda session: jobs.claim_forgotten(
        session, owner="a", lease_seconds=6, grace_seconds=2, limit=16
    ),
    "renew": lambda session: jobs.renew(
        session, [Lease(uuid4(), number, "a") for number in range(500)], lease_seconds=6
    ),
    "requests to stop": lambda session: jobs.requests(session, "a"),
    "write": lambda session: writes.carry_out(
        session, writes.change(lease(session), [events.thinking("well", 1)])
    ),
    "finish": lambda session: writes.carry_out(session, writes.finished(lease(session), "done")),
    "cancel": lambda session: jobs.request_cancel(session, one(session, S.PENDING).id),
    "cancel all": lambda session: jobs.request_cancel_all(session, owner=OWNER),
    "take over": lambda session: jobs.request_takeover(session, one(session, S.RUNNING).id),
    "sandboxes to delete": lambda session: disposal.due(session, limit=8),
    "webhooks that are due": lambda session: webhooks.claim(session, lease_seconds=6, limit=4, avoiding=[]),
    "old pictures": lambda session: retention.with_old_pictures(session, days=30, limit=8),
    "old jobs": lambda session: retention.remove_jobs(session, days=89.9, limit=20, pictures=True),
}


def read_through(plans: Plans) -> set[str]:
    """The big tables that are."""
    assert plans
    scans = [node for plan in plans for node in nodes(plan) if "Seq Scan" in node["Node Type"]]
    return {node["Relation Name"] for node in scans} & BIG


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_often_reads_no_table_through(filled: Database, name: str) -> None:
    with explained(filled) as (session, plans):
        ASKED[name](session)
    assert read_through(plans) == set()


BY_WORKERS = (
    "its steps",
    "claim",
    "claim forgotten",
    "renew",
    "requests to stop",
    "write",
    "finish",
    "sandboxes to delete",
    "webhooks that are due",
    "old pictures",
)


@pytest.mark.parametrize("name", BY_WORKERS)
def test_workers_plan_once_and_read_no_table_through(filled: Database, name: str) -> None:
    """A plan that knows no parameter uses no partial index, unless its condition is a constant."""
    with explained(filled, generic=True) as (session, plans):
        ASKED[name](session)
    assert read_through(plans) == set()


@pytest.mark.parametrize("name", [name for name, _ in pages() if name.startswith("page")])
def test_a_page_is_read_from_where_it_begins(filled: Database, name: str) -> None:
    with explained(filled, "ANALYZE, FORMAT JSON") as (session, plans):
        ASKED[name](session)
    rows = [node["Actual Rows"] for plan in plans for node in nodes(plan) if "Scan" in node["Node Type"]]
    assert max(rows) < JOBS / 2


@pytest.mark.parametrize("name", [name for name, _ in searched()])
def test_a_search_ends_somewhere(filled: Database, name: str) -> None:
    with explained(filled, "ANALYZE, FORMAT JSON") as (session, plans):
        ASKED[name](session)
    rows = [node["Actual Rows"] for plan in plans for node in nodes(plan) if "Scan" in node["Node Type"]]
    assert max(rows) <= listing.SEARCHED + 1


@pytest.mark.parametrize(("said", "wanted"), list(searches()))
def test_a_search_finds_what_is_among_the_newest(
    filled: Database, everything: Sequence[Any], said: str, wanted: Wanted
) -> None:
    left = [job for job in everything if is_wanted(job, replace(wanted, labels=()))]
    plainly = [job for job in left[: listing.SEARCHED] if is_wanted(job, wanted) and says(job, "invoice 15")]
    with filled.transaction() as session:
        assert ids(listing.page(session, wanted, limit=51, offset=20)) == ids(plainly)[20:][:51]
        middle = Position(left[5000 % len(left)].created_at, left[5000 % len(left)].id)
        later = [job.id for job in plainly if (job.created_at, job.id) < (middle.created_at, middle.job_id)]
        assert ids(listing.page(session, wanted, limit=51, after=middle)) == later[:51]
        counted = listing.count(session, wanted)
    assert (counted.number, counted.is_exact) == (len(plainly), len(left) <= listing.SEARCHED)


def says(job: Any, text: str) -> bool:
    return text in job.instruction.lower()


@pytest.mark.parametrize(("said", "wanted"), list(filters()))
def test_lists_have_what_is_wanted(
    filled: Database, everything: Sequence[Any], said: str, wanted: Wanted
) -> None:
    after = Position(datetime.now(UTC) - timedelta(days=45), UUID(int=0))
    plainly = [job for job in everything if is_wanted(job, wanted)]
    older = [job.id for job in plainly if job.created_at < after.created_at]
    with filled.transaction() as session:
        for offset in (0, 60):
            assert ids(listing.page(session, wanted, limit=51, offset=offset)) == ids(plainly)[offset:][:51]
        assert ids(listing.page(session, wanted, limit=51, after=after)) == older[:51]
        most = 1_000 if wanted.labels else 10_000
        counted = listing.count(session, wanted)
    assert (counted.number, counted.is_exact) == (min(len(plainly), most), len(plainly) <= most)


def is_wanted(job: Any, wanted: Wanted) -> bool:
    return (
        wanted.owner in (None, job.owner_id)
        and (not wanted.statuses or job.status in wanted.statuses)
        and all(job.meta.get(name, "none") in values for name, values in wanted.labels)
    )


def ids(found: Iterable[Any]) -> list[UUID]:
    return [job.id for job in found]


def test_who_goes_is_missed_by_an_index(filled: Database) -> None:
    """A row that others refer to can only go when those are found: by an index, or by reading their table."""
    with filled.transaction() as session:
        missing = session.execute(text(REFERENCES_WITHOUT_INDEX)).scalars().all()
    assert missing == []
