"""What Prometheus is told: it is true, it costs little, and nobody else reads it."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import text

from local.demo import isolated
from local.processes import Child, Program, free_port
from local.servers import LOOPBACK
from shared import jobs
from shared.db import AsyncDatabase, Database
from shared.errors import ConfigurationError
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import ApiSettings, MetricsSettings, Settings
from shared.wakes import Waker, connect
from tests.conftest import wait_until
from tests.exposition import value
from tests.integration.conftest import SUBMIT, UNKNOWN, Serve, call_human, claim, error, finish, submit
from worker.lease import LeaseKeeper
from worker.metrics import serve as serve_worker
from worker.runner import Runner
from worker.storage import Storage
from worker.wakes import WakeBatch


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def scrape(client: FlaskClient) -> str:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    return answer.text


# --- the census -----------------------------------------------------------------------------------------


def test_the_census_counts_what_could_be_claimed(client: FlaskClient, db: Database) -> None:
    boxes = ["driven", "driven", "human", "human", "wanted", "wanted", "wanted", "lost", "lost", None, None]
    ids = [submit(client, sandbox_id=box) for box in boxes]
    claim(db, ids[0])
    call_human(db, ids[2])
    claim(db, ids[7])
    finish(db, submit(client, sandbox_id="ended"))
    with db.transaction() as session:
        for job_id, column, ago in (
            (ids[7], "lease_expires_at", "1 s"),
            (ids[9], "updated_at", "100 s"),
            (ids[1], "updated_at", "1 d"),  # it waits for its sandbox, and for no worker
        ):
            session.execute(
                text(f"UPDATE jobs SET {column} = now() - interval '{ago}' WHERE id = '{job_id}'")
            )

    shown = scrape(client)
    assert value(shown, "guiagent_database_up") == 1
    assert value(shown, "guiagent_jobs", status="pending") == 8
    assert value(shown, "guiagent_jobs", status="running") == 2
    assert value(shown, "guiagent_jobs", status="human_intervention") == 1
    assert value(shown, "guiagent_leases_expired") == 1
    assert value(shown, "guiagent_queue_jobs") == 3  # the first at `wanted`, and those that name none
    assert 100 <= value(shown, "guiagent_queue_age_seconds") < 1000

    with db.transaction() as session:
        claimed = jobs.claim_forgotten(session, owner="test", lease_seconds=60, grace_seconds=-60, limit=99)
    assert {str(job.id) for job in claimed if job.recovered} == {ids[7]}
    assert {str(job.id) for job in claimed if not job.recovered} == {ids[4], ids[9], ids[10]}


def test_many_scrapes_take_one_census_and_wait_for_none_that_hangs(
    client: FlaskClient, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as other:
        with other.transaction():
            other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            sent = [client.application.test_client() for _ in range(5)]
            with ThreadPoolExecutor(5) as pool:
                shown = list(pool.map(scrape, sent))
            asked = "SELECT state FROM pg_stat_activity WHERE application_name LIKE '%census'"
            assert other.execute(asked).fetchall() == [("active",)], "one statement, which still waits"
        assert {value(one, "guiagent_database_up") for one in shown} == {0}
        assert not any("guiagent_queue_jobs" in one for one in shown), "nobody knows how many there are"
        assert all("guiagent_sse_clients" in one for one in shown)
    wait_until(lambda: value(scrape(client), "guiagent_database_up") == 1)


def test_a_database_that_is_away(serve: Serve, settings: Settings) -> None:
    nowhere = settings.storage.model_copy(update={"url": SecretStr("postgresql://127.0.0.1:9/d")})
    shown = scrape(serve(settings.model_copy(update={"storage": nowhere})))
    assert value(shown, "guiagent_database_up") == 0


# --- what is counted ------------------------------------------------------------------------------------


def test_requests_are_counted_by_route_and_never_by_what_a_client_says(client: FlaskClient) -> None:
    route = "/api/agent/task/status/<task_id>"
    before = scrape(client)
    for _ in range(2):
        client.get(f"/api/agent/task/status/{UNKNOWN}?fields=planted-word")
    client.open("/planted-word", method="PLANTED")
    client.open(SUBMIT, method="PLANTED", headers={"X-Request-Id": "planted-word"})
    after = scrape(client)
    name = "guiagent_http_requests_total"
    told = {"method": "GET", "route": route, "status": "404"}
    assert value(after, name, **told) - value(before, name, **told) == 2
    timed = "guiagent_http_request_seconds_count"
    assert value(after, timed, route=route) - value(before, timed, route=route) == 2
    for status in ("404", "405"):
        told = {"method": "none", "route": "none", "status": status}
        assert value(after, name, **told) - value(before, name, **told) == 1
    assert "planted" not in after.lower()


def test_jobs_are_counted_when_they_are_made_durable_and_when_they_end(
    client: FlaskClient, db: Database
) -> None:
    before = scrape(client)
    waiting, human, *_ = (submit(client, sandbox_id=f"box-{number}") for number in range(4))
    client.post(SUBMIT, json={"instruction": ""})
    call_human(db, human)
    for _ in range(2):
        client.post("/api/agent/cancel", json={"task_id": waiting})
    client.post("/api/agent/cancel", json={})
    after = scrape(client)
    submitted, ended = "guiagent_jobs_submitted_total", "guiagent_jobs_ended_total"
    assert value(after, submitted) - value(before, submitted) == 4
    assert value(after, ended, status="cancelled") - value(before, ended, status="cancelled") == 4


@pytest.fixture
def runner(settings: Settings, db: Database, vault: Vault, portal: Portal) -> Iterator[Runner]:
    """A worker's, without the rest of it."""
    keeper = LeaseKeeper(db, settings.worker)
    writes = AsyncDatabase(settings.storage, name="tests")
    storage, wakes = Storage(db, writes), WakeBatch(Waker(connect(settings.redis)))
    more = {"wakes": wakes, "portal": portal, "storage": storage, "store": None, "keeper": keeper}
    yield Runner(settings, db=db, vault=vault, name="test", **more)
    storage.close()
    wakes.close()
    keeper.close()
    portal.call(writes.close)


def test_a_run_is_counted_by_how_it_ended(
    client: FlaskClient, db: Database, portal: Portal, runner: Runner
) -> None:
    def ran(*, lost: bool) -> None:
        claimed = runner.claim(UUID(submit(client, sandbox_id=None)))
        assert claimed is not None
        claimed.job.crashes = 99  # it is given up before it asks anybody
        with db.transaction() as session:
            session.execute(text(f"UPDATE jobs SET run = run + {int(lost)}"))
        portal.call(runner.run, claimed)

    lost, ended = "guiagent_leases_lost_total", "guiagent_jobs_ended_total"
    before = scrape(client)
    ran(lost=False)
    between = scrape(client)
    ran(lost=True)
    after = scrape(client)
    told = {"status": "error", "error_code": "internal"}
    assert [value(one, ended, **told) - value(before, ended, **told) for one in (between, after)] == [1, 1]
    assert [value(one, lost) - value(before, lost) for one in (between, after)] == [0, 1]
    claims = "guiagent_claims_total"
    assert value(after, claims, by="message") - value(before, claims, by="message") == 2


# --- who may read ---------------------------------------------------------------------------------------

TOKEN = MetricsSettings(token=SecretStr("the-token"))


@pytest.mark.parametrize(
    ("api", "metrics", "sent", "status"),
    [
        ({}, MetricsSettings(), None, 200),
        ({"keys": "required"}, MetricsSettings(), None, 403),
        ({"keys": "required"}, MetricsSettings(), "lgk_some-key", 403),
        ({"keys": "required"}, TOKEN, None, 401),
        ({"keys": "required"}, TOKEN, "the-toke", 401),
        ({"keys": "required"}, TOKEN, "schlüssel", 401),
        ({"keys": "required"}, TOKEN, "the-token", 200),
        ({"keys": "required", "trusted_hosts": ("api.example",)}, TOKEN, "the-token", 200),
        ({}, TOKEN, None, 401),
        ({"trusted_hosts": ("api.example",)}, MetricsSettings(), None, 400),
    ],
)
def test_who_may_read_them(
    serve: Serve,
    settings: Settings,
    api: dict[str, Any],
    metrics: MetricsSettings,
    sent: str | None,
    status: int,
) -> None:
    client = serve(settings.model_copy(update={"api": ApiSettings(**api), "metrics": metrics}))
    headers = {"Authorization": f"Bearer {sent}"} if sent else {}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == status
    if status != 200:
        _, _, message = error(answer)
        assert "METRICS_TOKEN" in message or "Host" in message
        assert "the-token" not in answer.text


# --- several processes ----------------------------------------------------------------------------------


@contextmanager
def two_processes(settings: Settings, folder: Path) -> Iterator[tuple[str, Child]]:
    """The API as gunicorn serves it, and where."""
    port = free_port()
    storage, key = settings.storage, settings.storage.credentials_keys[0]
    assert storage.url is not None
    child = Child(
        Program(
            name="api",
            argv=[sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_conf", "api.wsgi:app"],
            log=folder / "api.log",
            environment={
                **isolated(os.environ),
                "WEB_CONCURRENCY": "2",
                "API_PORT": str(port),
                "POSTGRES_CONNECTION_STRING": storage.url.get_secret_value(),
                "CREDENTIALS_KEYS": key.get_secret_value(),
                "REDIS_URL": settings.redis.url.get_secret_value(),
                "TMPDIR": str(folder),
            },
        )
    )
    try:
        yield f"http://{LOOPBACK}:{port}", child
    finally:
        child.stop()


def processes(arbiter: int) -> list[int]:
    """The ids of those that serve."""
    return [int(pid) for pid in Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    yield
    os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
@pytest.mark.long
def test_the_processes_of_an_api_tell_the_sum(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    task_id = submit(client)
    with two_processes(settings, tmp_path) as (url, api), httpx.Client(trust_env=False) as http:

        def shown() -> str:
            return http.get(f"{url}/metrics", headers={"Connection": "close"}).text

        def answers() -> bool:
            try:
                return "guiagent_database_up 1" in shown()
            except httpx.TransportError:
                return False

        wait_until(answers, 60)
        wait_until(lambda: len(processes(api.pid)) == 2)
        one, other = processes(api.pid)
        with ExitStack() as streams:
            for idle in (one, other):
                with frozen(idle):  # so that the other one serves
                    followed = httpx.stream("GET", f"{url}/api/agent/task/{task_id}/events", trust_env=False)
                    pieces = streams.enter_context(followed).iter_raw()
                    streams.callback(pieces.close)
                    next(pieces)
            wait_until(lambda: value(shown(), "guiagent_sse_clients") == 2)
            assert value(shown(), "guiagent_sse_events_total") == 2

            os.kill(other, signal.SIGKILL)
            wait_until(lambda: value(shown(), "guiagent_sse_clients") == 1)
            assert value(shown(), "guiagent_sse_events_total") == 2, "what it counted remains"
        assert list(tmp_path.glob("guiagent-metrics-*"))
    assert not list(tmp_path.glob("guiagent-metrics-*")), "nothing is left behind"


def test_a_worker_whose_port_is_taken_says_so() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"WORKER_METRICS_PORT {port}"):
            serve_worker(MetricsSettings(worker_port=port))
