"""Sandboxes that are made for jobs, from before their creation until after their deletion."""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from local.servers import Valkey
from shared import disposal, jobs, writes
from shared.db import Database
from shared.errors import LeaseLost, OutcomeUnknown, SandboxLost
from shared.models import Sandbox
from shared.pictures import PictureStore
from shared.portal import Portal
from shared.sandboxes import SandboxService, name_for
from shared.schemas import LybicCredentials, NewJob, SandboxInfo, sandbox_key
from shared.screenshots import AllowedHosts, ScreenshotFetcher
from shared.secrets import Vault
from shared.settings import LybicSettings, Settings
from shared.writes import Lease
from tests.conftest import settings_for
from tests.integration.test_standins import process
from worker.janitor import Janitor
from worker.pictures import Pictures
from worker.sandbox import LybicSandbox, make
from worker.stop import Reason, Stop, Stopped

KEY, ORG = "sk-lybic-secret", "org"
HOUR = 3600


@pytest.fixture(scope="module")
def lybic() -> Iterator[str]:
    with process("local.sandbox", "--api-key", KEY, "--boot-seconds", "0") as url:
        yield url


@pytest.fixture
def settings(
    emptied_database: str, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """A database that is emptied is there sooner than a new one."""
    monkeypatch.chdir(tmp_path)
    return settings_for(emptied_database, valkey)


@dataclass
class Yard:
    """Lybic, as it really is there, and our side of it."""

    url: str
    db: Database
    vault: Vault
    portal: Portal
    new_job: NewJob
    settings: Settings

    def __post_init__(self) -> None:
        access = self.new_job.credentials.lybic
        self.credentials = LybicCredentials(api_key=access.api_key, org_id=access.org_id, endpoint=self.url)
        self.service = SandboxService(self.portal.http, self.credentials, 5)
        self.janitor = Janitor(self.settings, db=self.db, vault=self.vault, portal=self.portal, store=None)

    # --- jobs

    def submit(self, **changes: Any) -> UUID:
        new = self.new_job.model_copy(update=changes)
        with self.db.transaction() as session:
            ((submitted),) = jobs.submit(session, [(new, self.vault.seal(new.credentials))])
        return submitted.job_id

    def options(self, **changes: Any) -> dict[str, Any]:
        return {"options": self.new_job.options.model_copy(update=changes)}

    def claim(self, job_id: UUID) -> Lease:
        with self.db.transaction() as session:
            job = jobs.claim(session, job_id, owner="test", lease_seconds=60)
        assert job is not None
        return Lease(job.id, job.run, "test")

    def end(self, lease: Lease) -> None:
        with self.db.transaction() as session:
            writes.carry_out(session, writes.finished(lease, "done"))

    def follow_up(self, sandbox_id: str, *, keep: bool = False) -> UUID:
        credentials = self.new_job.credentials.model_copy(update={"lybic": self.credentials})
        return self.submit(sandbox_id=sandbox_id, credentials=credentials, **self.options(keep_sandbox=keep))

    # --- sandboxes

    def announce(self, lease: Lease, *, linger: float = 0) -> None:
        with self.db.transaction() as session:
            sealed = self.vault.seal(self.credentials)
            writes.carry_out(session, writes.sandbox_announced(lease, sealed, linger_seconds=linger))

    def make(self, job_id: UUID, *, perhaps_made: bool = False, stop: Stop | None = None) -> SandboxInfo:
        async def made() -> SandboxInfo:
            return await make(
                self.service,
                job_id,
                self.settings.lybic,
                stop or Stop(math.inf),
                perhaps_made=perhaps_made,
            )

        return self.portal.call(made)

    def provide(self, lease: Lease, *, linger: float = 0) -> str:
        """A sandbox for the job, made and recorded as a run does it."""
        self.announce(lease, linger=linger)
        info = self.make(lease.job_id)
        key = sandbox_key(self.credentials, info.sandbox_id)
        with self.db.transaction() as session:
            writes.carry_out(session, writes.sandbox_known(lease, info, key))
        return info.sandbox_id

    def job_with_sandbox(self, *, linger: float = 0) -> tuple[Lease, str]:
        lease = self.claim(self.submit())
        return lease, self.provide(lease, linger=linger)

    def rows(self) -> list[Sandbox]:
        with self.db.transaction() as session:
            return list(session.scalars(select(Sandbox).order_by(Sandbox.created_at)))

    def hurry(self, **more: int) -> None:
        """What is to be tried again later is due at once."""
        attempts = f", attempts = {more['attempts']}" if more else ""
        with self.db.transaction() as session:
            session.execute(text(f"UPDATE sandboxes SET delete_at = now() - interval '1 s'{attempts}"))

    # --- the witness

    def lives(self, sandbox_id: str) -> bool:
        return not httpx.get(f"{self.url}/simulated/sandboxes/{sandbox_id}").json()["gone"]

    def living(self, job_id: UUID) -> list[str]:
        return self.portal.call(self.service.named, name_for(job_id))

    def fault(self, **fault: Any) -> None:
        httpx.post(f"{self.url}/simulated/faults", json=fault).raise_for_status()


@pytest.fixture
def yard(lybic: str, portal: Portal, db: Database, vault: Vault, new_job: NewJob, settings: Settings) -> Yard:
    httpx.delete(f"{lybic}/simulated/faults").raise_for_status()
    return Yard(lybic, db, vault, portal, new_job, settings)


# --- the end of a job -----------------------------------------------------------------------------------


def _finish(yard: Yard, lease: Lease) -> None:
    yard.end(lease)


def _fail(yard: Yard, lease: Lease) -> None:
    with yard.db.transaction() as session:
        writes.carry_out(session, writes.failed(lease, "max_steps", "too many"))


def _cancel(yard: Yard, lease: Lease) -> None:
    with yard.db.transaction() as session:
        jobs.request_cancel(session, lease.job_id)
        writes.carry_out(session, writes.cancelled(lease))


def _cancel_pending(yard: Yard, lease: Lease) -> None:
    with yard.db.transaction() as session:
        writes.carry_out(session, writes.given_back(lease))
    with yard.db.transaction() as session:
        assert jobs.request_cancel(session, lease.job_id).status == "cancelled"


def _cancel_in_human_intervention(yard: Yard, lease: Lease) -> None:
    with yard.db.transaction() as session:
        jobs.call_human(session, lease, "log in")
    yard.janitor.clean()
    assert yard.rows()
    with yard.db.transaction() as session:
        jobs.request_cancel_all(session)


@pytest.mark.parametrize("end", [_finish, _fail, _cancel, _cancel_pending, _cancel_in_human_intervention])
def test_it_is_deleted_however_its_job_ends(end: Callable[[Yard, Lease], None], yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.janitor.clean()
    assert yard.lives(sandbox_id)
    end(yard, lease)
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)
    assert not yard.rows()


def test_who_may_delete_it_is_kept_encrypted(yard: Yard) -> None:
    yard.job_with_sandbox()
    (row,) = yard.rows()
    assert KEY.encode() not in row.credentials
    assert yard.vault.open(row.credentials, LybicCredentials) == yard.credentials


def test_it_lingers(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox(linger=HOUR)
    yard.end(lease)
    yard.janitor.clean()
    assert yard.lives(sandbox_id)
    (row,) = yard.rows()
    left = row.delete_at - datetime.now(UTC)  # type: ignore[operator]
    assert timedelta(seconds=HOUR - 60) < left <= timedelta(seconds=HOUR)


def test_a_follow_up_keeps_it_from_its_submission_to_its_end(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    follow_up = yard.follow_up(sandbox_id)
    yard.janitor.clean()
    assert yard.lives(sandbox_id)
    second = yard.claim(follow_up)
    yard.janitor.clean()
    assert yard.lives(sandbox_id)
    yard.end(second)
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)
    assert not yard.rows()


def test_another_organisation_s_sandbox_of_this_id_is_another_one(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.submit(sandbox_id=sandbox_id)  # at another endpoint
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)


def test_a_later_job_that_named_it_makes_it_its_caller_s_own(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.end(yard.claim(yard.follow_up(sandbox_id, keep=True)))
    assert not yard.rows()
    yard.janitor.clean()
    assert yard.lives(sandbox_id)


def test_many_jobs_end_at_once(yard: Yard) -> None:
    made = [yard.job_with_sandbox() for _ in range(3)]
    with yard.db.transaction() as session:
        for lease, _ in made:
            writes.carry_out(session, writes.given_back(lease))
    with yard.db.transaction() as session:
        jobs.request_cancel_all(session)
    yard.janitor.clean()
    assert not any(yard.lives(sandbox_id) for _, sandbox_id in made)


# --- deletions that fail --------------------------------------------------------------------------------


def test_a_deletion_that_fails_is_tried_again_after_a_while(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.fault(on="delete", status=500)
    yard.janitor.clean()
    (row,) = yard.rows()
    assert row.attempts == 1
    assert row.delete_at is not None
    assert row.delete_at - datetime.now(UTC) > disposal.RETRY / 2
    yard.janitor.clean()
    assert yard.lives(sandbox_id)
    yard.hurry()
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)
    assert not yard.rows()


def test_a_deletion_whose_answer_was_lost_is_done(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.fault(on="delete", when="after", drop=True)
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)
    yard.hurry()
    yard.janitor.clean()
    assert not yard.rows()


def test_after_many_failures_it_is_given_up_and_its_credentials_with_it(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.hurry(attempts=disposal.MOST_ATTEMPTS - 2)
    yard.fault(on="delete", status=403, times=2)
    yard.janitor.clean()
    assert yard.rows()
    yard.hurry()
    yard.janitor.clean()
    assert not yard.rows()
    assert yard.lives(sandbox_id)


def test_a_use_in_between_makes_up_for_failures(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    yard.end(lease)
    yard.fault(on="delete", status=500)
    yard.janitor.clean()
    yard.end(yard.claim(yard.follow_up(sandbox_id)))
    assert [row.attempts for row in yard.rows()] == [0]
    yard.janitor.clean()
    assert not yard.lives(sandbox_id)


def test_one_that_can_t_be_deleted_holds_up_no_other(yard: Yard) -> None:
    first, first_id = yard.job_with_sandbox()
    second, second_id = yard.job_with_sandbox()
    with yard.db.transaction() as session:  # sealed with a key that is lost
        session.execute(
            text("UPDATE sandboxes SET credentials = 'x' WHERE job_id = :id"), {"id": first.job_id}
        )
    yard.end(first)
    yard.end(second)
    yard.janitor.clean()
    assert (yard.lives(first_id), yard.lives(second_id)) == (True, False)
    assert [row.job_id for row in yard.rows()] == [first.job_id]


def test_two_janitors_share_the_work(yard: Yard) -> None:
    lease, _ = yard.job_with_sandbox()
    yard.end(lease)
    with yard.db.transaction() as session, yard.db.transaction() as other:
        assert len(disposal.due(session, limit=8)) == 1
        assert not disposal.due(other, limit=8)
    with yard.db.transaction() as session:
        assert not disposal.due(session, limit=8)


def test_janitors_at_once_leave_nothing_behind(yard: Yard) -> None:
    made = [yard.job_with_sandbox() for _ in range(6)]
    for lease, _ in made:
        yard.end(lease)
    threads = [threading.Thread(target=yard.janitor.clean) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(yard.lives(sandbox_id) for _, sandbox_id in made)
    assert not yard.rows()


# --- creations that are cut off -------------------------------------------------------------------------


def test_a_creation_that_was_cut_off_is_taken_over_and_not_repeated(yard: Yard) -> None:
    job_id = yard.submit()
    yard.fault(on="create", when="after", drop=True)
    with pytest.raises(OutcomeUnknown):
        yard.make(job_id)
    (made,) = yard.living(job_id)
    info = yard.make(job_id, perhaps_made=True)
    assert (info.sandbox_id, info.created_by_task) == (made, True)
    assert yard.living(job_id) == [made]


def test_a_later_run_makes_one_where_there_is_none(yard: Yard) -> None:
    job_id = yard.submit()
    assert yard.living(job_id) == []
    info = yard.make(job_id, perhaps_made=True)
    assert yard.living(job_id) == [info.sandbox_id]


def test_a_run_that_was_told_to_stop_makes_none(yard: Yard) -> None:
    job_id, stop = yard.submit(), Stop(math.inf)
    stop.set(Reason.LEASE_LOST)
    with pytest.raises(Stopped):
        yard.make(job_id, stop=stop)
    assert yard.living(job_id) == []


def test_an_orphan_is_found_by_its_name(yard: Yard) -> None:
    lease = yard.claim(yard.submit())
    yard.announce(lease)
    orphan = yard.make(lease.job_id).sandbox_id  # and its worker dies before it is recorded
    _cancel(yard, lease)
    yard.janitor.clean()
    assert not yard.lives(orphan)
    assert not yard.rows()


def test_one_that_is_still_in_the_making_is_looked_for_once_more(yard: Yard) -> None:
    lease = yard.claim(yard.submit())
    yard.announce(lease)
    _cancel(yard, lease)
    yard.janitor.clean()
    late = yard.make(lease.job_id).sandbox_id
    yard.hurry()
    yard.janitor.clean()
    assert not yard.lives(late)
    assert not yard.rows()


def test_one_that_never_came_to_be_is_forgotten(yard: Yard) -> None:
    lease = yard.claim(yard.submit())
    yard.announce(lease)
    _fail(yard, lease)
    yard.janitor.clean()
    assert yard.rows()
    yard.hurry()
    yard.janitor.clean()
    assert not yard.rows()


def test_a_second_one_of_the_same_name_goes_too(yard: Yard) -> None:
    lease, sandbox_id = yard.job_with_sandbox()
    late = yard.make(lease.job_id).sandbox_id  # a creation of an earlier run that came through after all
    yard.end(lease)
    yard.janitor.clean()
    assert (yard.lives(sandbox_id), yard.lives(late)) == (False, False)


def test_announcing_again_changes_nothing(yard: Yard) -> None:
    lease, _ = yard.job_with_sandbox()
    (before,) = yard.rows()
    yard.announce(lease, linger=9)
    (after,) = yard.rows()
    assert (before.sandbox_id, before.linger, before.credentials) == (
        after.sandbox_id,
        after.linger,
        after.credentials,
    )


def test_a_run_that_lost_its_job_announces_nothing(yard: Yard) -> None:
    lease = yard.claim(yard.submit())
    yard.end(lease)
    with pytest.raises(LeaseLost), yard.db.transaction() as session:
        writes.carry_out(session, writes.sandbox_announced(lease, b"sealed", linger_seconds=1))
    assert not yard.rows()


# --- their lives ----------------------------------------------------------------------------------------


@dataclass
class Living:
    """A sandbox as a run sees it, with so many seconds to live."""

    yard: Yard
    sandbox: LybicSandbox
    sandbox_id: str

    def ends_in(self) -> float:
        """Seconds until Lybic ends it."""
        truth = httpx.get(f"{self.yard.url}/simulated/sandboxes/{self.sandbox_id}").json()
        return (datetime.fromisoformat(truth["expiresAt"]) - datetime.now(UTC)).total_seconds()

    def click(self) -> None:
        action = {"type": "mouse:click", "button": 1}
        place = {"type": "/", "numerator": 5, "denominator": 1000}
        act = partial(self.sandbox.act, [{**action, "x": place, "y": place}], look=True)
        assert self.yard.portal.call(act) is not None

    def look(self) -> None:
        self.yard.portal.call(self.sandbox.observe)


@pytest.fixture
def living(yard: Yard) -> Callable[..., Living]:
    def made(seconds: int, *, created_by_task: bool) -> Living:
        settings = LybicSettings(endpoint=yard.url, life_seconds=HOUR)
        new = yard.portal.call(_create, yard.service, seconds)
        fetcher = ScreenshotFetcher(yard.portal.http, AllowedHosts([yard.url], []))
        store: PictureStore | None = None
        sandbox = LybicSandbox(
            yard.service,
            new.model_copy(update={"created_by_task": created_by_task}),
            settings,
            stop=Stop(math.inf),
            pictures=Pictures(fetcher, UUID(int=1), store),
            secret=SecretStr(KEY),
        )
        return Living(yard, sandbox, new.sandbox_id)

    return made


async def _create(service: SandboxService, seconds: int) -> SandboxInfo:
    new = await service.create(name="living", shape="beijing-2c-4g-cpu", life_seconds=seconds)
    return await service.describe(new.sandbox_id)


@pytest.mark.parametrize("use", [Living.look, Living.click])
@pytest.mark.parametrize(
    ("seconds", "created_by_task", "extended"),
    [
        (HOUR // 2 - 60, True, True),  # less than half of its life
        (HOUR // 2 + 60, True, False),
        (HOUR // 2 - 60, False, False),  # its caller's own
        (300, False, True),  # it would end in the midst of the job
    ],
)
def test_a_life_is_extended_before_it_ends(
    use: Callable[[Living], None],
    seconds: int,
    created_by_task: bool,
    extended: bool,
    living: Callable[..., Living],
) -> None:
    one = living(seconds, created_by_task=created_by_task)
    use(one)
    assert (one.ends_in() > HOUR - 60) == extended
    assert extended or one.ends_in() <= seconds


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_life_that_can_t_be_extended_is_no_reason_to_end(
    status: int, yard: Yard, living: Callable[..., Living]
) -> None:
    one = living(300, created_by_task=True)
    yard.fault(on="extend", status=status, times=9)
    one.look()
    one.click()
    pending = httpx.get(f"{yard.url}/simulated/faults").json()["faults"]
    assert pending[0]["times"] == 8  # asked once, and not again at each step
    assert one.ends_in() < HOUR


def test_a_sandbox_that_is_gone_is_lost(yard: Yard, living: Callable[..., Living]) -> None:
    one = living(300, created_by_task=True)
    httpx.delete(f"{yard.url}/simulated/sandboxes/{one.sandbox_id}").raise_for_status()
    with pytest.raises(SandboxLost):
        one.click()
