"""Whatever dies, every job ends once and no action is repeated.

Each scenario is a block. At its end everything is healed, every job must end, and all rules of `invariants`
are checked; what stands after a block is what this scenario has to show besides.
"""

import signal
from datetime import datetime

import httpx
import pytest

from tests.chaos.arena import Arena, Worker
from tests.chaos.clients import Repeated
from tests.chaos.conftest import Scenario
from tests.chaos.storm import Storm, flood
from tests.conftest import wait_until

HANGS = "hang 60"


def holder(arena: Arena, job_id: str) -> Worker:
    """The worker that has the job."""
    return wait_until(lambda: [one for one in arena.workers if job_id in arena.held_by(one)])[0]


def busy(arena: Arena, jobs: int = 1) -> Worker:
    """A worker that has so many jobs."""
    return wait_until(lambda: [one for one in arena.workers if len(arena.held_by(one)) >= jobs])[0]


def logged(arena: Arena, name: str, words: str) -> int:
    """How often a process has said so."""
    return (arena.logs / f"{name}.log").read_text(errors="replace").count(words)


def gave_up(arena: Arena) -> int:
    """How many runs have said that they lost their lease."""
    words = ("longer than the lease", "the lease was lost")
    return sum(logged(arena, worker.usual.name, said) for worker in arena.workers for said in words)


def outcome(arena: Arena, job_id: str) -> tuple[str, str | None]:
    """The job's status and error code."""
    status, code = arena.query("SELECT status, error_code FROM jobs WHERE id = %s", job_id)[0]
    return status, code


def statuses(arena: Arena, job_id: str) -> list[str]:
    """What became of each step."""
    return [
        row[0] for row in arena.query("SELECT status FROM steps WHERE job_id = %s ORDER BY number", job_id)
    ]


def pauses(arena: Arena, job_id: str) -> list[float]:
    """The seconds between each giving back of the job and its next claim."""
    told = (
        "SELECT payload->>'status', created_at FROM events WHERE job_id = %s AND type = 'status' ORDER BY seq"
    )
    rows = arena.query(told, job_id)
    given: datetime | None = None
    found = []
    for status, at in rows[1:]:
        if status == "running" and given:
            found.append((at - given).total_seconds())
        given = at if status == "pending" else None
    return found


def test_nothing_dies(scenario: Scenario) -> None:
    with scenario() as clients:
        sandbox = clients.make_sandbox()
        clients.submit_many(4)
        for _ in range(3):
            clients.submit(4, sandbox=sandbox)
        clients.run()
        clients.run(patience=3)


# --- workers --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_worker_is_killed_again_and_again(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        clients.submit_many(6, steps=30)
        clients.run(steps=30)
        for _ in range(2):
            worker = busy(arena)
            arena.kill(worker.child)
            held = arena.held_by(worker)
            worker.start_again()
            for job_id, run in held.items():
                clients.wait_for_run(job_id, run + 1)


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_a_worker_is_killed_in_the_midst_of_an_action(moment: str, arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        sandbox = clients.make_sandbox()
        arena.ask_for_fault("sandbox", on="execute", sandbox_id=sandbox, when=moment, delay=1)
        job_id = clients.submit(4, sandbox=sandbox)
        clients.wait_for_steps(job_id)
        arena.kill(holder(arena, job_id).child)
        clients.wait_for_run(job_id, 2)
        wait_until(lambda: clients.done(job_id) >= 1)
    assert statuses(arena, job_id)[:2] == ["interrupted", "done"]


@pytest.mark.long
def test_a_zombie_neither_acts_nor_writes(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        clients.submit_many(8, steps=60)  # none of them is about to end
        worker = busy(arena, jobs=3)
        arena.freeze(worker.child)
        held = arena.held_by(worker)
        for job_id, run in held.items():
            clients.wait_for_run(job_id, run + 1)
        arena.thaw(worker.child)
        wait_until(lambda: arena.held_by(worker) or not clients.unfinished())
    assert worker.child.exit_code is None


@pytest.mark.long
def test_a_worker_told_to_stop_hands_its_jobs_over(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(6, steps=20)
        worker = busy(arena, jobs=2)
        held = arena.held_by(worker)
        worker.child.send(signal.SIGTERM)
        assert worker.child.wait_gone(10)
        assert worker.child.exit_code == 0
        for job_id, run in held.items():
            wait_until(lambda: clients.status(job_id) == "finished" or clients.runs(job_id) > run)  # noqa: B023
    seconds = [pause for job_id in jobs for pause in pauses(arena, job_id)]
    assert seconds
    assert max(seconds) < 2


@pytest.mark.long
def test_all_workers_are_replaced_one_by_one(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(8, steps=40)
        clients.run(steps=40)
        for worker in arena.workers:
            worker.child.send(signal.SIGTERM)
            assert worker.child.wait_gone(10)
            worker.start_again()
            arena.wait_ready()
    assert {outcome(arena, job_id) for job_id in jobs} == {("finished", None)}


@pytest.mark.long
def test_the_second_signal_abandons_an_action_that_hangs(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        sandbox = clients.make_sandbox()
        arena.ask_for_fault("sandbox", on="execute", sandbox_id=sandbox, when="after", delay=15)
        job_id = clients.submit(3, sandbox=sandbox)
        wait_until(lambda: clients.steps(job_id) and clients.done(job_id))
        worker = holder(arena, job_id)
        worker.child.send(signal.SIGTERM)
        assert not worker.child.wait_gone(1)
        assert clients.runs(job_id) == 1
        worker.child.send(signal.SIGTERM)
        assert worker.child.wait_gone(5)
        clients.wait_for_run(job_id, 2)
    assert statuses(arena, job_id)[:2] == ["interrupted", "done"]


@pytest.mark.long
def test_a_burst_of_signals_is_a_signal(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        clients.submit_many(4, steps=20)
        worker = busy(arena)
        for _ in range(50):
            worker.child.send(signal.SIGTERM)
        assert worker.child.wait_gone(10)


@pytest.mark.long
def test_a_job_that_its_workers_die_of_ends_as_an_error(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        job_id = clients.submit(100)
        for run in (1, 2):
            clients.wait_for_run(job_id, run)
            for worker in arena.workers:
                arena.kill(worker.child)
            for worker in arena.workers:
                worker.start_again(MAX_RUNS="2")
        wait_until(lambda: clients.status(job_id) == "error")
    assert outcome(arena, job_id) == ("error", "internal")
    ((message,),) = arena.query("SELECT error_message FROM jobs WHERE id = %s", job_id)
    assert "run 1 on worker" in message
    assert "run 2 on worker" in message


@pytest.mark.long
def test_a_run_without_progress_loses_its_lease(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        for worker in arena.workers:
            arena.kill(worker.child)
            worker.start_again(STEP_SECONDS="1")
        body = clients.body(3)
        lane = body["instruction"].rpartition("script> ")[2]
        arena.ask_for_fault("model", on="chat", match=lane, delay=30)
        job_id = clients.insist(lambda: body)
        clients.wait_for_run(job_id, 2)
    assert outcome(arena, job_id) == ("finished", None)


# --- messages and Redis ---------------------------------------------------------------------------------


def test_messages_come_many_times(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(4, steps=15)
        for _ in range(3):
            arena.dispatch(jobs, times=10)
            wait_until(lambda: any(clients.steps(job_id) for job_id in jobs))
        clients.wait_until_all_ended()
        arena.dispatch(jobs, times=10)
    assert [clients.runs(job_id) for job_id in jobs] == [1] * 4


def test_messages_are_lost(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        for _ in range(4):
            clients.submit(4)
            arena.lose_redis_contents()
        clients.run(4)


def test_redis_is_killed_and_comes_back(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        clients.submit_many(3, steps=30)
        stream = clients.run(steps=30)
        arena.kill(arena.valkey.child)
        late = clients.submit()
        clients.wait_for_run(late, 1)
        heard = stream.last
        wait_until(lambda: stream.last > heard)
        arena.valkey.kill()
        arena.valkey.start()
        clients.submit_many(2)


@pytest.mark.long
def test_redis_is_killed_under_a_flood_of_messages(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(2, steps=30)
        workers = [worker.child for worker in arena.workers]
        with Repeated(lambda: arena.dispatch(jobs, times=20)):
            for _ in range(12):
                wait_until(lambda: arena.listeners() == len(workers))
                arena.valkey.kill()
                arena.valkey.start()
        arena.wait_ready()
        assert [child.exit_code for child in workers] == [None] * len(workers)


@pytest.mark.long
def test_redis_is_frozen(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        clients.submit(steps=30)
        arena.freeze(arena.valkey.child)
        refused = logged(arena, "api", "not dispatched")
        jobs = clients.submit_many(5)
        for job_id in jobs:
            clients.wait_for_run(job_id, 1)
        # The API found out once, in the background; it did not try again for the others.
        wait_until(lambda: logged(arena, "api", "not dispatched") - refused == 1)
        arena.thaw(arena.valkey.child)


# --- PostgreSQL -----------------------------------------------------------------------------------------


def test_postgres_is_killed_and_comes_back(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(6, steps=30)
        clients.run(steps=30)
        clients.wait_for_steps(jobs[0], 3)
        arena.postgres.kill()
        arena.postgres.start()
        clients.insist(clients.body)


@pytest.mark.long
def test_postgres_is_away_for_longer_than_a_lease(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(4, steps=30)
        clients.run(steps=30)
        clients.wait_for_steps(jobs[0], 3)
        given_up = gave_up(arena)
        held = sum(len(arena.held_by(worker)) for worker in arena.workers)
        arena.postgres.kill()
        answer = clients.post("/api/agent/task/submit", clients.body())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        wait_until(lambda: gave_up(arena) >= given_up + held)
        arena.postgres.start()
        clients.insist(clients.body)
        for job_id in jobs:
            clients.wait_for_run(job_id, 2)
    assert {outcome(arena, job_id) for job_id in jobs} == {("finished", None)}


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize(
    "code",
    [pytest.param("53100", id="disk full"), pytest.param("25006", id="read only", marks=pytest.mark.long)],
)
def test_postgres_refuses_to_write(code: str, arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        jobs = clients.submit_many(3, steps=30)
        clients.wait_for_steps(jobs[0], 3)
        try:
            arena.query(REFUSE.format(code=code))
            refused = clients.post("/api/agent/task/submit", clients.body()).status_code
            done = {job_id: clients.done(job_id) for job_id in jobs}
            wait_until(lambda: all(clients.expired(job_id) for job_id in jobs))
            assert all(clients.done(job_id) <= done[job_id] + 1 for job_id in jobs)
        finally:
            arena.query("DROP FUNCTION refuse CASCADE")
    assert refused == httpx.codes.SERVICE_UNAVAILABLE
    assert {outcome(arena, job_id) for job_id in jobs} == {("finished", None)}


# --- the API, and those who cancel ----------------------------------------------------------------------


@pytest.mark.long
def test_the_api_is_killed_while_streams_are_open(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        streams = [clients.run(steps=100, patience=patience) for patience in (0, 0, 7)]
        for number in (1, 2):
            before = [stream.last for stream in streams]
            # What the connection before had brought already is no sign of the next one.
            wait_until(lambda: all(stream.connections >= number for stream in streams))  # noqa: B023
            wait_until(lambda: all(s.last > seen for s, seen in zip(streams, before, strict=True)))  # noqa: B023
            arena.kill(arena.api.child)
            arena.api.start_again()
    assert all(stream.connections > 2 for stream in streams)


def test_cancel_while_the_model_hangs(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        job_id = clients.submit(first=HANGS)
        holder(arena, job_id)
        answer = clients.cancel(job_id)
        assert answer is not None
        assert answer.status == "cancelled"


@pytest.mark.long
def test_cancel_while_the_worker_is_dead(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients:
        job_id = clients.submit(100)
        clients.wait_for_steps(job_id, 2)
        arena.kill(holder(arena, job_id).child)
        assert clients.cancel(job_id) is not None
        wait_until(lambda: clients.status(job_id) == "cancelled")


# --- everything at once ---------------------------------------------------------------------------------


@pytest.mark.long
def test_everything_at_once(arena: Arena, scenario: Scenario) -> None:
    with scenario() as clients, flood(clients, jobs=12, seed=11, seconds=3):
        Storm(arena, clients, seed=11, every=0.6).rage_until(lambda: clients.submitted >= 12)
