"""Webhooks: owed with every end of a task, sent until they are accepted, to none but allowed receivers."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import select, text

from local.servers import Valkey
from shared import webhooks, writes
from shared.db import Database
from shared.models import Delivery, Webhook
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import Settings, WebhookSettings, WorkerSettings
from shared.states import DeliveryState
from shared.webhooks import LONGEST_TEXT
from tests.conftest import settings_for, wait_until
from tests.e2e.curl import FENCE
from tests.integration.conftest import (
    API,
    GOOD,
    SUBMIT,
    Serve,
    call_human,
    claim,
    error,
    finish,
    submit,
    take_steps,
)
from tests.receiver import Receiver, receiving
from worker.courier import AT_ONE_HOST, Courier

SECRET = "whsec_" + "c2VjcmV0" * 4
MINUTE = 60.0
Log = list[dict[str, Any]]


@pytest.fixture
def settings(
    emptied_database: str, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Receivers are on this machine; nothing is sent again before a test hurries it."""
    monkeypatch.chdir(tmp_path)
    quick = WorkerSettings(sweep_seconds=0.05)
    told = WebhookSettings(allowed_hosts=("127.0.0.1",), retry_seconds=MINUTE, timeout_seconds=MINUTE)
    return settings_for(emptied_database, valkey).model_copy(update={"worker": quick, "webhooks": told})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@dataclass
class Office:
    """The API and a courier, and what the database knows."""

    client: FlaskClient
    db: Database
    courier: Courier

    def submit(self, url: str, **more: Any) -> str:
        return submit(self.client, **{"webhook_url": url, "webhook_secret": SECRET, **more})

    def ended(self, url: str) -> str:
        """A task that has ended."""
        task_id = self.submit(url)
        self.cancel(task_id)
        return task_id

    def cancel(self, *task_id: str) -> None:
        body = dict(zip(["task_id"], task_id, strict=False))
        assert self.client.post(f"{API}/cancel", json=body).status_code == 200

    def log(self, task_id: str) -> Log:
        answer = self.client.get(f"{API}/task/{task_id}/webhooks")
        assert answer.status_code == 200, answer.text
        assert answer.json["count"] == len(answer.json["webhooks"])
        return list(answer.json["webhooks"])

    def settled(self, task_id: str) -> Log:
        """The log when there is something in it, and nothing is pending."""
        return wait_until(lambda: log if (log := self.log(task_id)) and not pending(log) else None)

    def attempted(self, task_id: str, times: int) -> dict[str, Any]:
        """The task's one delivery when so many attempts have ended."""

        def found() -> dict[str, Any] | None:
            (one,) = self.log(task_id)
            return one if one["attempts"] == times and (one["error"] or one["ended_at"]) else None

        return wait_until(found)

    def hurry(self) -> None:
        """What is to be sent later is due now, as if the times had passed."""
        with self.db.transaction() as session:
            session.execute(
                text("UPDATE deliveries SET due_at = now(), error = NULL WHERE state = 'pending'")
            )
        self.courier.poke()

    def known(self, task_id: str) -> bool:
        """Whether the task's receiver is still remembered."""
        with self.db.transaction() as session:
            return session.get(Webhook, UUID(task_id)) is not None


def pending(log: Log) -> bool:
    return any(one["state"] == "pending" for one in log)


@pytest.fixture
def make_office(serve: Serve, db: Database, vault: Vault, portal: Portal) -> Iterator[Callable[..., Office]]:
    made: list[Office] = []

    def make(settings: Settings, **changes: Any) -> Office:
        webhooks = settings.webhooks.model_copy(update=changes)
        settings = settings.model_copy(update={"webhooks": webhooks})
        courier = Courier(settings, db=db, vault=vault, portal=portal)
        made.append(Office(serve(settings), db, courier))
        return made[-1]

    yield make
    for office in made:
        office.courier.close()


@pytest.fixture
def office(make_office: Callable[..., Office], settings: Settings) -> Office:
    return make_office(settings)


# --- what is told ---------------------------------------------------------------------------------------

Ends = Callable[[Office, str], None]


def _fail(office: Office, task_id: str) -> None:
    lease = claim(office.db, task_id)
    with office.db.transaction() as session:
        writes.carry_out(session, writes.failed(lease, "timeout", "the task's time is over"))


def _stop(office: Office, task_id: str) -> None:
    lease = claim(office.db, task_id)
    with office.db.transaction() as session:
        writes.carry_out(session, writes.cancelled(lease))


def _call_and_cancel(office: Office, task_id: str) -> None:
    call_human(office.db, task_id)
    office.cancel(task_id)


def _written_by_an_older_version(office: Office, task_id: str) -> None:
    """Which knows of no webhooks."""
    with office.db.transaction() as session:
        session.execute(
            text(
                "UPDATE jobs SET status = 'cancelled', finished_at = now(), credentials = NULL,"
                " event_count = event_count + 1 WHERE id = :id"
            ),
            {"id": task_id},
        )
        session.execute(
            text(
                "INSERT INTO events (job_id, seq, type, payload)"
                " SELECT id, event_count, 'cancelled', '{}' FROM jobs WHERE id = :id"
            ),
            {"id": task_id},
        )


ENDS: dict[str, tuple[Ends, list[str]]] = {
    "finished": (lambda office, task_id: finish(office.db, task_id), ["finished"]),
    "failed": (_fail, ["error"]),
    "stopped by its worker": (_stop, ["cancelled"]),
    "cancelled while it waited": (lambda office, task_id: office.cancel(task_id), ["cancelled"]),
    "cancelled with all others": (lambda office, task_id: office.cancel(), ["cancelled"]),
    "cancelled while a human was called": (_call_and_cancel, ["human_intervention", "cancelled"]),
    "ended by an older version": (_written_by_an_older_version, ["cancelled"]),
}


@pytest.mark.parametrize(("end", "told"), ENDS.values(), ids=ENDS.keys())
def test_every_end_is_told(office: Office, receiver: Receiver, end: Ends, told: list[str]) -> None:
    task_id = office.submit(f"{receiver.url}/204")
    untold = submit(office.client)
    end(office, task_id)
    office.cancel()
    log = office.settled(task_id)
    assert [one["type"] for one in log] == [f"task.{kind}" for kind in told]
    assert {(one["state"], one["attempts"], one["status_code"], one["error"]) for one in log} == {
        ("delivered", 1, 204, None)
    }
    assert sorted(receiver.ids) == sorted(one["id"] for one in log)
    for message, one in zip(sorted(receiver.messages, key=lambda one: one.id), log, strict=True):
        body = message.verified(SECRET)
        assert (body["type"], body["data"]["task_id"]) == (one["type"], task_id)
        assert body["data"]["status"] == one["type"].removeprefix("task.")
        assert body["data"]["seq"] == one["seq"]
    assert office.log(untold) == []
    wait_until(lambda: not office.known(task_id))


def test_what_is_told(office: Office, receiver: Receiver) -> None:
    task_id = office.submit(
        f"{receiver.url}/204?token=a%2Fb",
        instruction="😀" * (LONGEST_TEXT + 1),
        metadata={"batch": "sums-1"},
        webhook_secret="16-plain-letters",
    )
    lease = claim(office.db, task_id)
    take_steps(office.db, lease, 2)
    with office.db.transaction() as session:
        writes.carry_out(session, writes.finished(lease, "42"))
    (one,) = office.settled(task_id)
    (message,) = receiver.messages
    body = message.verified(b"16-plain-letters")
    status = office.client.get(f"{API}/task/status/{task_id}").json
    later = {"success", "queue_position", "pending_reason", "llm_context"}
    assert body["data"] == {name: value for name, value in status.items() if name not in later} | {
        "query": "😀" * LONGEST_TEXT + "…",
        "seq": one["seq"],
    }
    assert (body["data"]["finished_output"], body["data"]["steps"]) == ("42", 2)
    assert body.keys() == {"type", "timestamp", "data"}
    events = office.client.get(f"{API}/task/{task_id}/events", headers={"Accept": "application/json"}).json
    assert body["timestamp"] == events["events"][-1]["timestamp"]
    assert message.path == "/204?token=a%2Fb"
    assert message.headers["host"] == receiver.url.removeprefix("http://")
    assert message.headers["content-type"] == "application/json"
    assert message.headers["user-agent"].startswith("lybic-guiagent/")


def test_a_call_for_a_human_is_told_once_and_the_end_as_well(office: Office, receiver: Receiver) -> None:
    task_id = office.submit(f"{receiver.url}/204")
    call_human(office.db, task_id, "please log in")
    office.settled(task_id)
    assert office.known(task_id), "it has not ended"
    assert office.client.post(f"{API}/task/{task_id}/resume", json={}).status_code == 200
    finish(office.db, task_id)
    wait_until(lambda: len(office.settled(task_id)) == 2)
    called, finished = (message.verified(SECRET) for message in receiver.messages)
    assert (called["type"], called["data"]["content"]) == ("task.human_intervention", "please log in")
    assert (finished["type"], "content" in finished["data"]) == ("task.finished", False)
    assert not office.known(task_id)


def test_a_late_call_for_a_human_is_told_as_it_was(office: Office, receiver: Receiver) -> None:
    receiver.plan[:] = ["503"]
    task_id = office.submit(f"{receiver.url}/204")
    call_human(office.db, task_id)
    office.attempted(task_id, 1)
    office.cancel(task_id)
    office.hurry()
    office.settled(task_id)
    data = {one["type"]: one["data"] for one in (message.verified(SECRET) for message in receiver.messages)}
    assert data["task.human_intervention"]["status"] == "human_intervention"
    assert data["task.cancelled"]["status"] == "cancelled"


DOCUMENT = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def test_the_receiver_of_the_documentation(
    office: Office,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = list(FENCE.finditer(DOCUMENT))
    (program,) = (block["text"] for block in blocks if block["language"] == "python")
    (shown,) = (block["text"] for block in blocks if block["language"] == "http")
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(program, names)
    task_id = office.submit(f"{receiver.url}/204")
    finish(office.db, task_id)
    office.settled(task_id)
    (message,) = receiver.messages
    post = partial(names["app"].test_client().post, "/gui-agent", headers=message.headers)
    assert [post(data=message.body).status_code for _ in range(2)] == [204, 204]
    assert capsys.readouterr().out == f"task.finished {task_id}\n", "it came twice"
    assert post(data=message.body + b" ").status_code == 401
    real, printed = json.loads(message.body), json.loads(shown.partition("\n\n")[2])
    assert (list(real), list(real["data"])) == (list(printed), list(printed["data"]))
    printed_headers = {
        line.partition(": ")[0].lower() for line in shown.partition("\n\n")[0].splitlines()[1:]
    }
    assert printed_headers == message.headers.keys() - {"content-length"}


# --- receivers that fail --------------------------------------------------------------------------------


def test_a_receiver_that_fails_in_every_way_is_told_in_the_end(
    make_office: Callable[..., Office], settings: Settings, receiver: Receiver
) -> None:
    office = make_office(settings, timeout_seconds=1, retry_seconds=0.001)
    receiver.plan[:] = ["500", "302", "404", "close", "nonsense", "hang", "drip", "redirect"]
    failures = len(receiver.plan)
    task_id = office.ended(f"{receiver.url}/huge")
    (one,) = office.settled(task_id)
    assert (one["state"], one["attempts"], one["status_code"]) == ("delivered", failures + 1, 200)
    assert one["error"] is one["next_attempt_at"] is None
    assert receiver.ids == [one["id"]] * (failures + 1)
    assert {message.path for message in receiver.messages} == {"/huge"}, "no redirect is followed"
    bodies = [message.verified(SECRET) for message in receiver.messages]
    assert all(body == bodies[0] for body in bodies)


WAYS: dict[str, tuple[str, int | None]] = {
    "500": ("rejected", 500),
    "redirect": ("rejected", 307),
    "close": ("no_answer", None),
    "nonsense": ("no_answer", None),
    "hang": ("timeout", None),
    "drip": ("timeout", None),
}


def test_the_log_says_why_it_was_given_up(
    make_office: Callable[..., Office], settings: Settings, receiver: Receiver
) -> None:
    office = make_office(settings, timeout_seconds=0.3, max_attempts=1)
    tasks = {way: office.ended(f"{receiver.url}/{way}") for way in WAYS}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ways = {**WAYS, "unreachable": ("unreachable", None)}
    tasks["unreachable"] = office.ended(f"http://127.0.0.1:{port}/")
    for way, (reason, status) in ways.items():
        assert f"| `{reason}` |" in DOCUMENT
        (one,) = office.settled(tasks[way])
        assert (one["state"], one["error"], one["status_code"]) == ("failed", reason, status), way
        assert one["ended_at"]
        assert not office.known(tasks[way])


def test_who_is_gone_is_left_alone(office: Office, receiver: Receiver) -> None:
    (one,) = office.settled(office.ended(f"{receiver.url}/410"))
    assert (one["state"], one["attempts"]) == ("failed", 1)


def test_pauses_grow(make_office: Callable[..., Office], settings: Settings, receiver: Receiver) -> None:
    office = make_office(settings, max_attempts=5)
    receiver.plan[:] = ["500", "500", "busy", "500"]
    task_id = office.ended(f"{receiver.url}/500")
    for attempt, expected in enumerate((MINUTE, 2 * MINUTE, 1800, 8 * MINUTE), 1):
        one = office.attempted(task_id, attempt)
        recorded = datetime.now(UTC)
        pause = datetime.fromisoformat(one["next_attempt_at"]) - recorded
        spread = 0 if expected == 1800 else 0.2
        assert pause < timedelta(seconds=expected * (1 + spread))
        assert pause > timedelta(seconds=expected * (1 - spread) - MINUTE / 2), "it was a while ago"
        office.hurry()
    (one,) = office.settled(task_id)
    assert (one["state"], one["attempts"]) == ("failed", 5)


def test_one_that_hangs_holds_up_no_other(office: Office, receiver: Receiver) -> None:
    with receiving() as hangs:
        stuck = [office.ended(f"{hangs.url}/hang") for _ in range(3 * AT_ONE_HOST)]
        wait_until(lambda: len(hangs.messages) >= AT_ONE_HOST)
        office.settled(office.ended(f"{receiver.url}/204"))
        assert len(hangs.messages) < 2 * AT_ONE_HOST
        assert all(pending(office.log(task_id)) for task_id in stuck)


# --- couriers that die ----------------------------------------------------------------------------------

COURIER = """
import sys, time
from shared.db import Database
from shared.portal import Portal
from shared.secrets import Vault
from shared.settings import Settings
from worker.courier import Courier
settings = Settings()
db = Database.connect(settings.storage, name="courier")
courier = Courier(settings, db=db, vault=Vault(settings.storage), portal=Portal())
time.sleep(60)
"""


def test_what_a_killed_worker_was_sending_is_sent_again(
    make_office: Callable[..., Office], settings: Settings, receiver: Receiver
) -> None:
    receiver.plan[:] = ["hang"]
    keys = settings.storage.credentials_keys
    environment = {
        "POSTGRES_CONNECTION_STRING": settings.storage.url.get_secret_value() if settings.storage.url else "",
        "CREDENTIALS_KEYS": keys[0].get_secret_value(),
        "WEBHOOK_ALLOWED_HOSTS": "127.0.0.1",
        "SWEEP_SECONDS": "0.05",
    }
    worker = subprocess.Popen([sys.executable, "-c", COURIER], env=environment)
    try:
        client = make_office(settings)
        client.courier.close()
        task_id = client.ended(f"{receiver.url}/204")
        wait_until(lambda: receiver.messages)
    finally:
        worker.kill()
        worker.wait()
    (left,) = client.log(task_id)
    assert (left["state"], left["attempts"], left["status_code"]) == ("pending", 1, None)
    office = make_office(settings)
    other = office.ended(f"{receiver.url}/204")
    office.settled(other)
    assert office.log(task_id) == [left], "its lease is not over"
    office.hurry()
    (one,) = office.settled(task_id)
    assert (one["state"], one["attempts"]) == ("delivered", 2)
    assert receiver.ids.count(one["id"]) == 2


def test_who_was_too_slow_writes_nothing(office: Office, receiver: Receiver, db: Database) -> None:
    office.courier.close()
    task_id = office.ended(f"{receiver.url}/204")

    def take() -> Delivery:
        with db.transaction() as session:
            (due,) = webhooks.claim(session, lease_seconds=MINUTE, limit=1, avoiding=[])
            assert not webhooks.claim(session, lease_seconds=MINUTE, limit=1, avoiding=[])
        return due.delivery

    slow = take()
    office.hurry()
    now = take()
    with db.transaction() as session:
        webhooks.end(session, slow, 500, "rejected", state=DeliveryState.FAILED)
        webhooks.postpone(session, slow, 500, "rejected", seconds=0)
    (one,) = office.log(task_id)
    assert (one["state"], one["attempts"], one["error"]) == ("pending", 2, None)
    assert office.known(task_id)
    with db.transaction() as session:
        webhooks.end(session, now, 204, None, state=DeliveryState.DELIVERED)
    with db.transaction() as session:
        webhooks.postpone(session, now, 500, "rejected", seconds=0)
    (one,) = office.log(task_id)
    assert (one["state"], one["status_code"]) == ("delivered", 204)
    assert not office.known(task_id)


def test_two_that_end_at_the_same_time_forget_the_receiver(
    office: Office, receiver: Receiver, db: Database
) -> None:
    office.courier.close()
    task_id = office.submit(f"{receiver.url}/204")
    call_human(db, task_id)
    office.cancel(task_id)
    with db.transaction() as session:
        first, second = webhooks.claim(session, lease_seconds=MINUTE, limit=2, avoiding=[])

    def end_second() -> None:
        with db.transaction() as session:
            webhooks.end(session, second.delivery, 204, None, state=DeliveryState.DELIVERED)

    other = threading.Thread(target=end_second)
    with db.transaction() as session:
        webhooks.end(session, first.delivery, 204, None, state=DeliveryState.DELIVERED)
        other.start()
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        wait_until(lambda: not other.is_alive() or session.scalar(waits))
    other.join()
    assert not office.known(task_id)


def test_a_task_that_is_deleted_takes_its_deliveries_along(office: Office, receiver: Receiver) -> None:
    office.settled(office.ended(f"{receiver.url}/204"))
    office.ended(f"{receiver.url}/500")
    with office.db.transaction() as session:
        session.execute(text("DELETE FROM jobs"))
    with office.db.transaction() as session:
        assert not session.scalars(select(Delivery)).all()
        assert not session.scalars(select(Webhook)).all()


# --- where nothing is sent ------------------------------------------------------------------------------


class Names:
    """What names mean, instead of the machine's own resolver."""

    def __init__(self, patch: pytest.MonkeyPatch, **meanings: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._meanings = {name.replace("_", "."): answers for name, answers in meanings.items()}
        self._real = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self._meanings:
            return self._real(host, port, *rest, **more)
        self.asked.append(name)
        answers = self._meanings[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for one in addresses for found in self._real(one, port, type=socket.SOCK_STREAM)]


def port_of(receiver: Receiver) -> str:
    return receiver.url.rpartition(":")[2]


def test_a_name_that_leads_into_a_private_network(
    office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = [["127.0.0.2", "10.0.0.7", "::1", "169.254.169.254"]]
    Names(monkeypatch, hooks_example_com=inside)
    (one,) = office.settled(office.ended(f"https://hooks.example.com:{port_of(receiver)}/204"))
    assert (one["state"], one["error"], one["attempts"]) == ("failed", "endpoint_not_allowed", 1)
    assert not receiver.messages


def test_a_name_that_means_something_else_the_second_time(
    make_office: Callable[..., Office],
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch, hooks_example_com=[["127.0.0.2"], ["127.0.0.1"]])
    office = make_office(settings, allowed_hosts=("127.0.0.2",), max_attempts=1)
    (one,) = office.settled(office.ended(f"https://hooks.example.com:{port_of(receiver)}/204"))
    assert one["state"] == "failed"
    assert names.asked == ["hooks.example.com"]
    assert not receiver.messages


def test_the_first_address_that_answers(
    make_office: Callable[..., Office],
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Names(monkeypatch, hooks_example_com=[["127.0.0.2", "::1", "127.0.0.1"]])
    office = make_office(settings, allowed_hosts=("hooks.example.com",))
    (one,) = office.settled(office.ended(f"http://hooks.example.com:{port_of(receiver)}/204"))
    assert one["state"] == "delivered"
    assert receiver.messages[0].headers["host"] == f"hooks.example.com:{port_of(receiver)}"


def test_allowed_once_and_no_more(
    make_office: Callable[..., Office], settings: Settings, receiver: Receiver
) -> None:
    before = make_office(settings)
    before.courier.close()
    task_id = before.ended(f"{receiver.url}/204")
    (one,) = make_office(settings, allowed_hosts=()).settled(task_id)
    assert (one["state"], one["error"]) == ("failed", "endpoint_not_allowed")
    assert not receiver.messages


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of hooks.example.com, with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    unlocked = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *unlocked))
    return path


def test_https_is_asked_for_by_name_and_no_proxy_is_asked(
    make_office: Callable[..., Office],
    settings: Settings,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    Names(monkeypatch, hooks_example_com=[["127.0.0.1"]], other_example_com=[["127.0.0.1"]])
    office = make_office(settings, max_attempts=1)
    with receiving(context) as receiver:
        port = port_of(receiver)
        (one,) = office.settled(office.ended(f"https://hooks.example.com:{port}/204"))
        (other,) = office.settled(office.ended(f"https://other.example.com:{port}/204"))
    assert (one["state"], one["error"]) == ("delivered", None)
    assert (other["state"], other["error"]) == ("failed", "tls")
    (message,) = receiver.messages
    assert message.server_name == "hooks.example.com"
    assert message.headers["host"] == f"hooks.example.com:{port}"


# --- requests -------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"webhook_url": "https://10.0.0.7/planted"}, "endpoint_not_allowed", "webhook_url"),
    ({"webhook_url": "http://hooks.example.com/planted"}, "endpoint_not_allowed", "webhook_url"),
    ({"webhook_url": "https://planted@hooks.example.com/"}, "invalid_request", "webhook_url"),
    ({"webhook_url": "planted"}, "invalid_request", "webhook_url"),
    ({"webhook_url": None}, "invalid_request", "webhook_secret"),
    ({"webhook_secret": None}, "missing_credentials", "webhook_secret"),
    ({"webhook_secret": "planted"}, "invalid_request", "webhook_secret"),
    ({"webhook_secret": "whsec_planted-planted-planted"}, "invalid_request", "webhook_secret"),
]


@pytest.mark.parametrize(("wrong", "code", "field"), REFUSED)
def test_what_is_refused_at_once(client: FlaskClient, wrong: dict[str, Any], code: str, field: str) -> None:
    good = GOOD | {"webhook_url": "https://hooks.example.com/", "webhook_secret": "planted-planted-planted"}
    for path, body, where in (
        (SUBMIT, good | wrong, ""),
        (f"{API}/task/batch", {"tasks": [good, good | wrong]}, "tasks[1]."),
    ):
        answer = client.post(path, json=body)
        assert error(answer)[:2] == (400, code), answer.text
        assert answer.json["error"]["details"]["field"] == f"{where}{field}"
        assert answer.json["error"]["message"].startswith(f"{where}{field}: ")
        assert "planted" not in answer.text
    assert client.get(f"{API}/tasks").json["total"] == 0


def test_the_servers_own_secret(
    make_office: Callable[..., Office], settings: Settings, receiver: Receiver
) -> None:
    ours = "whsec_" + "b3VyIG93" * 4
    office = make_office(settings, secret=SecretStr(ours))
    url = f"{receiver.url}/204"
    batch = {
        "tasks": [GOOD | {"webhook_url": url}, GOOD | {"webhook_url": url, "webhook_secret": SECRET}, GOOD]
    }
    one, other, untold = office.client.post(f"{API}/task/batch", json=batch).json["task_ids"]
    office.cancel()
    for task_id, secret in ((one, ours), (other, SECRET)):
        (told,) = office.settled(task_id)
        (message,) = (message for message in receiver.messages if message.id == told["id"])
        message.verified(secret)
    assert office.log(untold) == []


def test_nothing_is_readable_in_the_database(office: Office, receiver: Receiver) -> None:
    office.ended(f"{receiver.url}/500?token=planted")
    wait_until(lambda: receiver.messages)
    with office.db.transaction() as session:
        rows = "".join(
            str(row)
            for table in ("jobs", "events", "webhooks", "deliveries")
            for row in session.execute(text(f"SELECT t::text FROM {table} t"))
        )
    assert "planted" not in rows
    assert SECRET not in rows
    assert port_of(receiver) in rows


def test_a_request_that_is_sent_again(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "order-1"}
    asked = GOOD | {"webhook_url": "https://hooks.example.com/a", "webhook_secret": SECRET}

    def ask(**changes: Any) -> Any:
        return client.post(SUBMIT, json=asked | changes, headers=headers)

    first = ask()
    assert ask(webhook_secret="another-good-one").json == first.json
    assert error(ask(webhook_url="https://hooks.example.com/b"))[:2] == (409, "idempotency_conflict")


def test_a_follow_up_has_receivers_of_its_own(office: Office, receiver: Receiver) -> None:
    parent = office.ended(f"{receiver.url}/204")
    office.settled(parent)
    follow_up = submit(office.client, continue_context=True, task_id=parent)
    office.cancel(follow_up)
    assert office.log(follow_up) == []
