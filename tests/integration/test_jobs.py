"""A job's durable life on real PostgreSQL: one run at a time, numbers without gaps, ends that hold."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from local.processes import free_port
from shared import events, jobs, writes
from shared.db import AsyncDatabase, Database, Statement
from shared.errors import JobNotFound, LeaseLost, StorageUnavailable
from shared.models import Job, Step
from shared.portal import Portal
from shared.schemas import Credentials, NewJob, Usage
from shared.secrets import Vault
from shared.settings import Settings
from shared.states import JobStatus, Request, StepStatus
from shared.writes import AlreadyWritten, Lease, Progress, Write

Submit = Callable[[], UUID]


@pytest.fixture
def submit(db: Database, vault: Vault, new_job: NewJob) -> Submit:
    def submitted() -> UUID:
        with db.transaction() as session:
            return jobs.submit(session, [(new_job, vault.seal(new_job.credentials))])[0].job_id

    return submitted


def claim(db: Database, job_id: UUID, owner: str = "a", lease_seconds: float = 60) -> Lease | None:
    with db.transaction() as session:
        job = jobs.claim(session, job_id, owner=owner, lease_seconds=lease_seconds)
    return Lease(job.id, job.run, owner) if job else None


def claimed(db: Database, job_id: UUID, owner: str = "a", lease_seconds: float = 60) -> Lease:
    lease = claim(db, job_id, owner, lease_seconds)
    assert lease is not None
    return lease


def read(db: Database, job_id: UUID) -> Job:
    with db.transaction() as session:
        return jobs.get(session, job_id)


def told(db: Database, job_id: UUID) -> list[tuple[int, str]]:
    with db.transaction() as session:
        return [(event.seq, event.type) for event in events.read(session, job_id, 0)]


def waits_for(session: Session, job_id: UUID) -> UUID | None:
    ahead = jobs.waits_for(session, jobs.get(session, job_id))
    return ahead.id if ahead else None


def a_step(number: int) -> Step:
    return Step(number=number, raw="raw", thought="t", actions=[{"type": "wait"}], status=StepStatus.INTENDED)


def test_a_submitted_job_is_pending_and_says_so(db: Database, submit: Submit) -> None:
    job_id = submit()
    assert read(db, job_id).status == JobStatus.PENDING
    assert told(db, job_id) == [(1, "status")]


def test_credentials_are_encrypted(db: Database, submit: Submit, vault: Vault, new_job: NewJob) -> None:
    stored = read(db, submit()).credentials
    assert stored is not None
    assert b"secret" not in stored
    assert vault.open(stored, Credentials) == new_job.credentials


def test_only_one_claim_succeeds(db: Database, submit: Submit) -> None:
    job_id = submit()
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda name: claim(db, job_id, name), "abcdefgh"))
    assert len([lease for lease in leases if lease]) == 1
    assert read(db, job_id).run == 1


def test_an_expired_lease_is_reclaimed_under_a_new_run(db: Database, submit: Submit) -> None:
    job_id = submit()
    old = claimed(db, job_id, "old", lease_seconds=0)
    new = claimed(db, job_id, "new")
    assert (old.run, new.run) == (1, 2)
    with pytest.raises(LeaseLost), db.transaction() as session:
        writes.carry_out(session, writes.finished(old, "stale"))
    with db.transaction() as session:
        writes.carry_out(session, writes.finished(new, "right"))
    assert read(db, job_id).output == "right"


def test_a_superseded_run_writes_nothing(db: Database, submit: Submit) -> None:
    job_id = submit()
    old = claimed(db, job_id, lease_seconds=0)
    claimed(db, job_id, "new")
    before = told(db, job_id)
    with pytest.raises(LeaseLost), db.transaction() as session:
        writes.carry_out(
            session, writes.new_step(old, a_step(1), Usage(), [events.thinking("x", 1)], Progress(2, 0))
        )
    assert told(db, job_id) == before
    with db.transaction() as session:
        assert jobs.steps(session, job_id) == []


def test_a_step_without_outcome_becomes_interrupted(db: Database, submit: Submit) -> None:
    job_id = submit()
    lease = claimed(db, job_id, lease_seconds=0)
    with db.transaction() as session:
        writes.carry_out(session, writes.new_step(lease, a_step(1), Usage(model_calls=1), [], Progress(2, 0)))
    claimed(db, job_id, "new")
    with db.transaction() as session:
        (step,) = jobs.steps(session, job_id)
    assert step.status == StepStatus.INTERRUPTED
    assert "may or may not have happened" in (step.feedback or "")


def test_renewing(db: Database, submit: Submit) -> None:
    kept, lost = claimed(db, submit()), claimed(db, submit(), lease_seconds=0)
    claimed(db, lost.job_id, "thief")
    with db.transaction() as session:
        assert jobs.renew(session, [kept, lost], lease_seconds=60) == {kept.job_id}


def test_a_terminal_status_never_changes(db: Database, submit: Submit) -> None:
    job_id = submit()
    lease = claimed(db, job_id)
    with db.transaction() as session:
        writes.carry_out(session, writes.failed(lease, "timeout", "too late"))
    with db.transaction() as session:
        jobs.request_cancel(session, job_id)
    assert claim(db, job_id) is None
    with pytest.raises(LeaseLost), db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "after all"))
    job = read(db, job_id)
    assert (job.status, job.error_code, job.credentials) == (JobStatus.ERROR, "timeout", None)
    assert [kind for _, kind in told(db, job_id)] == ["status", "status", "error"]


def test_cancelling_a_pending_job_ends_it_at_once(db: Database, submit: Submit) -> None:
    job_id = submit()
    for _ in range(2):
        with db.transaction() as session:
            jobs.request_cancel(session, job_id)
    assert read(db, job_id).status == JobStatus.CANCELLED
    assert told(db, job_id) == [(1, "status"), (2, "cancelled")]


def test_cancelling_a_running_job_asks_its_run(db: Database, submit: Submit) -> None:
    job_id = submit()
    lease = claimed(db, job_id)
    with db.transaction() as session:
        jobs.request_cancel(session, job_id)
    assert read(db, job_id).status == JobStatus.RUNNING
    with db.transaction() as session:
        assert jobs.requests(session, lease.owner) == {job_id: Request.CANCEL}
        assert jobs.requests(session, "another") == {}
        writes.carry_out(session, writes.cancelled(lease))
    assert read(db, job_id).status == JobStatus.CANCELLED


def test_a_job_that_waits_for_a_human_is_nobodys(db: Database, submit: Submit) -> None:
    job_id = submit()
    lease = claimed(db, job_id)
    with db.transaction() as session:
        jobs.call_human(session, lease, "please log in")
    job = read(db, job_id)
    assert (job.status, job.lease_owner, job.finished_at) == (JobStatus.HUMAN_INTERVENTION, None, None)
    assert claim(db, job_id) is None


@pytest.mark.parametrize("ending", [writes.cancelled, writes.given_back])
def test_a_run_that_ends_leaves_no_step_open(
    db: Database, submit: Submit, ending: Callable[[Lease], Write]
) -> None:
    lease = claimed(db, submit())
    with db.transaction() as session:
        writes.carry_out(session, writes.new_step(lease, a_step(1), Usage(), [], Progress(2, 0)))
    with db.transaction() as session:
        writes.carry_out(session, ending(lease))
    with db.transaction() as session:
        assert [step.status for step in jobs.steps(session, lease.job_id)] == [StepStatus.INTERRUPTED]


def test_a_job_given_back_is_free_at_once(db: Database, submit: Submit) -> None:
    lease = claimed(db, submit())
    with db.transaction() as session:
        writes.carry_out(session, writes.given_back(lease))
    assert claimed(db, lease.job_id, "next").run == 2


def test_event_numbers_have_no_gaps_under_concurrency(db: Database, submit: Submit) -> None:
    lease = claimed(db, submit())

    def tell(number: int) -> None:
        with db.transaction() as session:
            writes.carry_out(session, writes.change(lease, [events.result(str(number), 1)] * (number % 3)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(60)))
    assert [seq for seq, _ in told(db, lease.job_id)] == list(range(1, 63))


def test_a_write_whose_answer_was_lost_is_not_done_twice(db: Database, submit: Submit) -> None:
    lease = claimed(db, submit())
    before = Progress(events=2, steps=0)
    told_once = [events.thinking("x", 1)]
    with db.transaction() as session:
        writes.carry_out(session, writes.new_step(lease, a_step(1), Usage(model_calls=1), told_once, before))
    with db.transaction() as session:
        jobs.request_takeover(session, lease.job_id)
    with pytest.raises(AlreadyWritten) as written, db.transaction() as session:
        writes.carry_out(session, writes.new_step(lease, a_step(1), Usage(model_calls=1), told_once, before))
    assert written.value.request is Request.TAKEOVER, "what was asked meanwhile is not missed"
    job = read(db, lease.job_id)
    assert (job.event_count, job.step_count, job.model_calls) == (3, 1, 1)


def test_forgotten_jobs_are_taken_up_the_expired_first(db: Database, submit: Submit) -> None:
    fresh, expired, returned, held = submit(), submit(), submit(), submit()
    claimed(db, expired, lease_seconds=0)
    with db.transaction() as session:
        writes.carry_out(session, writes.given_back(claimed(db, returned)))
    claimed(db, held)

    def sweep(grace_seconds: float) -> list[UUID]:
        with db.transaction() as session:
            taken = jobs.claim_forgotten(
                session, owner="s", lease_seconds=60, grace_seconds=grace_seconds, limit=9
            )
        return [job.id for job in taken]

    assert sweep(grace_seconds=60) == [expired, returned]
    assert sweep(grace_seconds=0) == [fresh]
    assert sweep(grace_seconds=0) == []
    assert read(db, expired).crashes == 1
    assert read(db, returned).crashes == 0


def test_sweepers_share_without_overlap(db: Database, submit: Submit) -> None:
    ids = {submit() for _ in range(40)}

    def sweep(owner: str) -> list[UUID]:
        with db.transaction() as session:
            return [
                job.id
                for job in jobs.claim_forgotten(
                    session, owner=owner, lease_seconds=60, grace_seconds=0, limit=10
                )
            ]

    taken: list[UUID] = []
    while len(taken) < len(ids):
        with ThreadPoolExecutor(4) as pool:
            taken += [one for some in pool.map(sweep, "abcd") for one in some]
    assert sorted(taken) == sorted(ids)


def at_sandbox(db: Database, vault: Vault, new_job: NewJob, sandbox_id: str) -> UUID:
    wanted = new_job.model_copy(update={"sandbox_id": sandbox_id})
    with db.transaction() as session:
        return jobs.submit(session, [(wanted, vault.seal(wanted.credentials))])[0].job_id


def test_one_sandbox_has_one_driver_first_come_first_served(
    db: Database, vault: Vault, new_job: NewJob
) -> None:
    first, second, third = (at_sandbox(db, vault, new_job, "box") for _ in range(3))
    elsewhere = at_sandbox(db, vault, new_job, "other-box")
    assert claim(db, second) is None
    driver = claimed(db, first)
    assert claim(db, second) is None
    claimed(db, elsewhere)
    with db.transaction() as session:
        assert waits_for(session, second) == first
        jobs.call_human(session, driver, "log in")
    assert claim(db, second) is None
    with db.transaction() as session:
        jobs.request_cancel(session, first)
    assert claim(db, third) is None
    claimed(db, second)
    with db.transaction() as session:
        assert waits_for(session, second) is None
        assert waits_for(session, third) == second


def test_two_claims_at_one_sandbox_at_the_same_moment(db: Database, vault: Vault, new_job: NewJob) -> None:
    def attempt(job_id: UUID) -> Lease | None:
        try:
            return claim(db, job_id)
        except IntegrityError:
            return None

    for number in range(10):
        pair = [at_sandbox(db, vault, new_job, f"box-{number}") for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            leases = list(pool.map(attempt, pair))
        assert len([lease for lease in leases if lease]) <= 1


def test_an_id_of_another_organisation_is_another_sandbox(
    db: Database, vault: Vault, new_job: NewJob
) -> None:
    lybic = new_job.credentials.lybic.model_copy(update={"org_id": "theirs"})
    theirs = new_job.model_copy(
        update={"credentials": new_job.credentials.model_copy(update={"lybic": lybic})}
    )
    claimed(db, at_sandbox(db, vault, new_job, "box"))
    claimed(db, at_sandbox(db, vault, theirs, "box"))


def test_the_history_of_runs(db: Database, submit: Submit) -> None:
    job_id = submit()
    for owner in ("w1", "w2"):
        claimed(db, job_id, owner, lease_seconds=0)
    with db.transaction() as session:
        history = jobs.runs(session, job_id)
    assert [line.partition(" from ")[0] for line in history] == ["run 1 on w1", "run 2 on w2"]


@pytest.mark.parametrize(
    "trouble",
    [
        "SET default_transaction_read_only = on",
        "CREATE TRIGGER full_disk BEFORE INSERT ON jobs EXECUTE FUNCTION no_space()",
    ],
)
def test_a_refused_write_is_an_error_of_its_own(
    db: Database, vault: Vault, new_job: NewJob, database_url: str, trouble: str
) -> None:
    name = database_url.rpartition("/")[2]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'"
        )
        connection.execute(f"ALTER DATABASE {name} {trouble}" if trouble.startswith("SET") else trouble)
    with pytest.raises(StorageUnavailable), db.transaction() as session:
        jobs.submit(session, [(new_job, vault.seal(new_job.credentials))])


CLOSE_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("way", ["statement", "transaction"])
def test_connections_that_were_closed_meanwhile_are_not_used(
    db: Database, database_url: str, way: str
) -> None:
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(db.statement()).execute(text("SELECT 1"))
    with psycopg.connect(database_url, autocommit=True) as admin:
        assert admin.execute(CLOSE_OTHERS).fetchall() == [(True,)] * 4
    for _ in range(4):
        with getattr(db, way)() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_of_connections_that_were_closed_meanwhile_an_event_loop_uses_one_at_most(
    portal: Portal, settings: Settings, database_url: str
) -> None:
    """Whose statement is tried again."""
    kept = AsyncDatabase(settings.storage, name="tests")
    ask = partial(kept.fetch_one, Statement.of(select(func.pg_sleep(bindparam("seconds")))))

    async def four() -> None:
        await asyncio.gather(*(ask({"seconds": 0.2}) for _ in range(4)))

    portal.call(four)
    with psycopg.connect(database_url, autocommit=True) as admin:
        assert admin.execute(CLOSE_OTHERS).fetchall() == [(True,)] * 4
    with pytest.raises(StorageUnavailable):
        portal.call(ask, {"seconds": 0})
    portal.call(four)
    portal.call(kept.close)


def test_an_event_loop_is_told_that_the_database_is_away(portal: Portal, settings: Settings) -> None:
    url = SecretStr(f"postgresql://127.0.0.1:{free_port()}/none")
    away = AsyncDatabase(settings.storage.model_copy(update={"url": url}), name="tests")
    with pytest.raises(StorageUnavailable):
        portal.call(away.fetch_one, Statement.of(select(1)), {})


def test_an_unknown_job(db: Database) -> None:
    for ask in (jobs.get, jobs.request_cancel):
        with pytest.raises(JobNotFound), db.transaction() as session:
            ask(session, uuid4())


def test_rows_that_break_the_rules_are_refused_by_the_database(db: Database, submit: Submit) -> None:
    job_id = submit()
    for nonsense in ("status = 'running'", "status = 'lost'", "finished_at = now()"):
        with pytest.raises(Exception, match="violates check"), db.transaction() as session:
            session.execute(text(f"UPDATE jobs SET {nonsense} WHERE id = :id"), {"id": job_id})
