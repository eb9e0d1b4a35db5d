"""No secret comes to light, wherever one looks: rows, Redis, logs, Flower, metrics, answers, process lists.

Every task brings secrets of its own, so that a leak names its way. The model and the sandbox service repeat
the keys that they are sent in their errors and answers, as careless or hostile ones do.
"""

import json
import os
import secrets
import socket
import sys
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg import sql
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from local.demo import isolated
from local.processes import Child, Program, free_port
from local.servers import LOOPBACK, Postgres, Valkey
from local.stack import Plan, Stack
from shared import keys as api_keys
from shared.db import Database
from shared.schemas import Credentials
from shared.secrets import REDACTED, Vault
from shared.settings import StorageSettings
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.receiver import receiving

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")

MARKER = "an-instruction-is-no-secret"
ORG = "org-of-the-test"
LAST = "the-last-command-that-is-watched"
Json = dict[str, Any]


def planted(name: str) -> str:
    """A secret that looks different when it is escaped or encoded."""
    return f"{name}/{secrets.token_urlsafe(15)}+{secrets.token_hex(3)}=="


def forms(secret: str) -> set[bytes]:
    """What a secret may look like within a text: as it is, escaped, or encoded with whatever is around it."""
    plain = secret.encode()
    found = {plain, plain.hex().encode(), json.dumps(secret)[1:-1].encode()}
    found |= {quote(secret, safe=safe).encode() for safe in ("", "/")}
    for before in range(3):
        first, end = (before * 8 + 5) // 6, (before + len(plain)) * 8 // 6
        text = bytes(before) + plain
        found |= {encode(text)[first:end] for encode in (b64encode, urlsafe_b64encode)}
    return found


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: text.encode().hex().encode(),
        lambda text: quote(text).encode(),
        lambda text: quote(text, safe="").encode(),
        lambda text: json.dumps(json.dumps({"key": text})).encode(),
        lambda text: b64encode(text.encode()),
        lambda text: b64encode(f"a{text}b".encode()),
        lambda text: b64encode(f"ab{text}".encode()),
        lambda text: urlsafe_b64encode(f"abc{text}abc".encode()),
        lambda text: urlsafe_b64encode(b"\xff\xff" + text.encode() + b"\xff"),
    ],
)
def test_a_secret_is_recognised(encode: Any) -> None:
    secret = planted("control")
    assert any(form in b"<" + encode(secret) + b">" for form in forms(secret))
    assert not any(form in encode(planted("control")) for form in forms(secret))


# --- looking everywhere ---------------------------------------------------------------------------------


class Watch:
    """Everything that Redis or Valkey is told from now on."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)
        self._told: list[bytes] = []
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._began.wait(10)

    def _listen(self) -> None:
        try:
            with self._redis.monitor() as monitor:
                self._began.set()
                while not self._told or LAST.encode() not in self._told[-1]:
                    self._told.append(bytes(monitor.connection.read_response()))
        except RedisError:
            self._told.append(b"")

    def end(self) -> bytes:
        """All of it up to this call."""
        self._redis.echo(LAST)
        self._thread.join(10)
        self._redis.close()
        assert LAST.encode() in self._told[-1]
        return b"\n".join(self._told)


def rows(url: str) -> bytes:
    """Every row of every table as PostgreSQL writes it, and once more with the bytes in it as they are."""
    found = []
    with psycopg.connect(url) as connection:
        outside = "schemaname NOT IN ('pg_catalog', 'information_schema')"
        for schema, table in connection.execute(
            f"SELECT schemaname, tablename FROM pg_tables WHERE {outside}"
        ):
            name = sql.Identifier(schema, table)
            found += connection.execute(sql.SQL("SELECT t::text FROM {} t").format(name)).fetchall()
            found += connection.execute(sql.SQL("SELECT * FROM {}").format(name)).fetchall()
        found += connection.execute("SELECT query FROM pg_stat_activity").fetchall()
    values = (value for row in found for value in row)
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


def keys_and_values(url: str) -> bytes:
    """All that Redis or Valkey holds."""
    with Redis.from_url(url) as redis:
        read = {
            b"string": redis.get,
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"hash": redis.hgetall,
            b"set": redis.smembers,
            b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
            b"stream": redis.xrange,
        }
        found = {key: read[redis.type(key)](key) for key in redis.scan_iter()}
    return repr(found).encode()


def answers(url: str, *paths: str) -> bytes:
    """What is shown at those paths."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        shown = [http.get(path) for path in paths]
    assert {answer.status_code for answer in shown} == {200}
    return b"\n".join(answer.content for answer in shown)


def flower(url: str) -> bytes:
    """What Flower's API and its pages show."""
    shown = answers(url, "/api/workers?refresh=true", "/api/tasks", "/api/task/types", "/api/queues/length")
    workers, tasks = (json.loads(answers(url, path)) for path in ("/api/workers", "/api/tasks"))
    assert workers
    assert tasks
    shown += answers(url, "/", "/tasks", "/broker", "/metrics", *(f"/worker/{name}" for name in workers))
    return shown + answers(url, *(f"/api/task/info/{task}" for task in tasks), f"/task/{next(iter(tasks))}")


def command_lines() -> bytes:
    """The arguments of every process on this machine, as everybody can see them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return b"\n".join(found)


# --- a system full of secrets ---------------------------------------------------------------------------

# Each with good credentials of its own, and with a sandbox of its name.
ENDING = ("answer", "model-400", "model-401", "nonsense", "lybic-400", "lybic-401", "lybic-500", "cancelled")
STANDING = ("running", "waiting", "human")


class Secrets:
    """Every secret by its name."""

    def __init__(self) -> None:
        names = [f"{task} {kind}" for task in (*ENDING, *STANDING, "own") for kind in ("lybic", "model")]
        self.good = {name: planted(name.replace(" ", "-")) for name in names}
        self.bad = {name: planted(name.replace(" ", "-")) for name in ("bad lybic", "bad model", "malformed")}
        self.webhook = {name: planted(name.replace(" ", "-")) for name in ("webhook url", "webhook secret")}
        self.receiver = ""
        self.fernet = Fernet.generate_key().decode()
        self.metrics = planted("metrics")
        self.servers: dict[str, str] = {}

    def credentials(self, task: str) -> Json:
        """The good ones of this task, and who is told of it."""
        authentication = {"api_key": self.good[f"{task} lybic"], "org_id": ORG}
        return {
            "authentication": authentication,
            "ark_apikey": self.good[f"{task} model"],
            "webhook_url": f"{self.receiver}/echo?token={quote(self.webhook['webhook url'], safe='')}",
            "webhook_secret": self.webhook["webhook secret"],
        }

    def leaks(self, evidence: dict[str, bytes]) -> list[str]:
        """Which of them came to light, and where."""
        known = {**self.good, **self.bad, **self.webhook, **self.servers}
        known |= {"the key of the credentials": self.fernet, "the metrics' token": self.metrics}
        return [
            f"{name} in {place}: …{shown[max(0, shown.find(form) - 200) :][:400]!r}…"
            for name, secret in known.items()
            for place, shown in evidence.items()
            for form in forms(secret)
            if form in shown
        ]


class Stage:
    """The whole stack beside stand-ins of its own, and all that the API ever answered."""

    def __init__(self, stack: Stack, http: httpx.Client, sandbox: str, model: str) -> None:
        self.stack, self.system = stack, System(stack, http)
        self.said: list[bytes] = []
        self._stand_ins = {"sandbox": sandbox, "model": model}
        self.valkey = next(server.url for server in stack._servers if isinstance(server, Valkey))
        self.postgres = next(server.url for server in stack._servers if isinstance(server, Postgres))
        http.event_hooks["response"].append(self._hear)

    def _hear(self, answer: httpx.Response) -> None:
        answer.read()
        self.said.append(f"{answer.status_code} {answer.headers}\n".encode() + answer.content)

    def submit(self, task: str, *script: str, **more: Any) -> str:
        lines = [f"script> {line}" for line in script]
        instruction = "\n".join([*lines, f"{MARKER}: {task}."])
        return self.system.submit(instruction, **{"sandbox_id": task, **more})

    def fault(self, on: str, task: str | None = None, **fault: Any) -> None:
        """Has a stand-in repeat the key of a request; without a task, of any."""
        model = on == "chat"
        about = {"match": f"{MARKER}: {task}."} if model else {"sandbox_id": task}
        url = self._stand_ins["model" if model else "sandbox"] + "/simulated/faults"
        body = {"on": on, "echo": True, **about, **fault}
        httpx.post(url, json=body, trust_env=False).raise_for_status()

    def rejected(self, task_id: str) -> bool:
        """Whether the task's receiver has told us what it should not."""
        log = self.system.http.get(f"/api/agent/task/{task_id}/webhooks").json()["webhooks"]
        return [one["error"] for one in log] == ["rejected"]

    def metrics(self) -> bytes:
        """What Prometheus is told."""
        token = self.stack.plan.environment["METRICS_TOKEN"]
        answer = self.system.http.get("/metrics", headers={"Authorization": f"Bearer {token}"})
        answer.raise_for_status()
        return answer.content + answers(f"http://{LOOPBACK}:{self.stack.plan.metrics_port}", "/metrics")

    def evidence(self, tasks: dict[str, str]) -> dict[str, bytes]:
        """Everything that there is to see now."""
        pages = ["/api/agent/task/list", "/api/agent/tasks", "/api/agent/info", "/api/ready"]
        for task_id in tasks.values():
            task = f"/api/agent/task/{task_id}"
            pages += [f"/api/agent/task/status/{task_id}", f"{task}/steps", f"{task}/events"]
            pages.append(f"{task}/webhooks")
        for page in pages:
            self.system.http.get(page, headers={"Accept": "application/json"}).raise_for_status()
        return {
            "the database": rows(self.postgres),
            "Redis": keys_and_values(self.valkey),
            "the logs": b"\n".join(path.read_bytes() for path in self.stack.logs.iterdir()),
            "Flower": flower(f"http://{LOOPBACK}:{self.stack.plan.flower_port}"),
            "the metrics": self.metrics(),
            "the API's answers": b"\n".join(self.said),
            "the process list": command_lines(),
        }


def stand_in(folder: Path, name: str, options: list[str]) -> Child:
    """Started with its options in a file, so that they stand in no process list."""
    (folder / name).write_text("\n".join(options))
    return Child(
        Program(
            name=name,
            argv=[sys.executable, "-m", f"local.{name}", f"@{folder / name}"],
            log=folder / f"{name}.log",
            environment=isolated(os.environ),
        )
    )


@contextmanager
def staged(folder: Path, known: Secrets) -> Iterator[Stage]:
    with ExitStack() as ends:
        keys = [f"--api-key={key}" for key in known.good.values()]
        boxes = [f"--sandbox={task}" for task in (*ENDING, *STANDING)]
        children = [stand_in(folder, "sandbox", keys + boxes), stand_in(folder, "model", keys)]
        for child in children:
            ends.callback(child.kill)
        sandbox, model = (child.wait_for_line("listening on ", 30) for child in children)
        environment = {
            **isolated(os.environ),
            "LYBIC_API_KEY": known.good["own lybic"],
            "LYBIC_ORG_ID": ORG,
            "LYBIC_API_ENDPOINT": sandbox,
            "ARK_API_KEY": known.good["own model"],
            "ARK_API_ENDPOINT": model,
            "CREDENTIALS_KEYS": known.fernet,
            "API_KEYS": "required",
            "API_RATE_LIMIT": "999999/second",
            "AGENT_SETTLE_SECONDS": "0",
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": "json",
            "FLOWER_UNAUTHENTICATED_API": "true",
            "METRICS_TOKEN": known.metrics,
            "WEBHOOK_ALLOWED_HOSTS": LOOPBACK,
        }
        ports = {"port": free_port(), "flower_port": free_port(), "metrics_port": free_port()}
        stack = Stack(Plan(environment=environment, sandbox=sandbox, model=model, **ports), lambda *_: None)
        ends.callback(stack.stop)
        stack.start()
        http = ends.enter_context(httpx.Client(base_url=stack.plan.url, timeout=30, trust_env=False))
        stage = Stage(stack, http, sandbox, model)
        for url in (stage.postgres, stage.valkey):
            known.servers[f"the password of {url.partition(':')[0]}"] = str(urlsplit(url).password)
        known.servers["the caller's key"] = key = make_key(stage.postgres)
        http.headers["Authorization"] = f"Bearer {key}"
        yield stage


def make_key(url: str, name: str = "tests") -> str:
    """An API key of our own."""
    db = Database.connect(StorageSettings(url=SecretStr(url)), name="tests")
    with db.transaction() as session:
        key = api_keys.create(session, name)
    db.close()
    return key


def refuse(stage: Stage, known: Secrets) -> None:
    """Requests that end before a task begins, each with a secret in it."""
    http, bad = stage.system.http, known.bad["malformed"]
    for body in (
        {"instruction": "x", "ark_apikey": f"{bad} "},
        {"instruction": "x", "ark_apikey": {"key": bad}},
        {"instruction": "x", "authentication": bad},
        {"instruction": "x", "authentication": {"api_key": [bad], "org_id": ORG}},
        {"instruction": "x", "authentication": {"api_key": bad}},
        {"instruction": "x", "webhook_url": f"https://{bad}@a.example/"},
        {"instruction": "x", "webhook_url": f"https://10.0.0.7/{quote(bad)}", "webhook_secret": bad},
        {"instruction": "x", "webhook_url": "https://a.example/", "webhook_secret": f"whsec_{bad}"},
        {"instruction": "x", "webhook_secret": bad},
        {
            "instruction": "x",
            "authentication": {"api_key": bad, "org_id": ORG, "api_endpoint": "http://a.example"},
        },
    ):
        assert http.post("/api/agent/task/submit", json=body).status_code == 400
        assert http.post("/api/agent/task/batch", json={"tasks": [body]}).status_code == 400
    assert http.post("/api/agent/run", content=f'{{"ark_apikey": "{bad}"').status_code == 400
    assert http.post("/api/agent/run", headers={"Authorization": f"Bearer {bad}"}).status_code == 401
    with socket.create_connection((LOOPBACK, stage.stack.plan.port)) as connection:
        # Not among the API's answers: its sender is told where the colon is missing.
        connection.sendall(f"GET /api/info HTTP/1.1\r\nX-API-Key {bad}\r\n\r\n".encode())
        assert b" 400 " in connection.recv(1000)
    authentication = {"api_key": known.bad["bad lybic"], "org_id": ORG}
    assert http.post("/api/sandbox/create", json={"authentication": authentication}).status_code >= 400
    for status in (400, 401, 404, 500):  # the provider repeats a good key: once our own, once the caller's
        for given in ({}, {"authentication": known.credentials("answer")["authentication"]}):
            stage.fault("create", status=status)
            assert http.post("/api/sandbox/create", json=given).status_code >= 400


def end(stage: Stage, known: Secrets) -> dict[str, str]:
    """Tasks that have ended, with success and in every way in which others tell us what went wrong."""
    for fault in (
        {"status": 500},
        {"text": "Thought: {key}\nAction: output(content='{key}')"},
        {"text": "Thought: {key}\nAction: type(content='{key}')"},
        {"text": "{key}"},
        {"text": "Action: finished(content='{key}')"},
    ):
        stage.fault("chat", "answer", **fault)
    stage.fault("chat", "model-400", status=400)
    stage.fault("chat", "model-401", status=401)
    stage.fault("chat", "nonsense", text="Action: {key}(point='{key}')", times=3)
    stage.fault("get", "lybic-400", status=400)
    stage.fault("preview", "lybic-401", status=401)
    for on, status in (("get", 500), ("preview", 503), ("execute", 400), ("execute", 500)):
        stage.fault(on, "lybic-500", status=status)
    tasks = {task: stage.submit(task, "wait(t=0.1)", **known.credentials(task)) for task in ENDING[:-1]}
    hanging = stage.submit("cancelled", "hang 60", "wait()", **known.credentials("cancelled"))
    tasks["own"] = stage.submit("own", "wait(t=0.1)", sandbox_id=None)
    bad = {"api_key": known.bad["bad lybic"], "org_id": ORG}
    tasks["bad lybic"] = stage.submit("own", "wait()", sandbox_id=None, authentication=bad)
    tasks["bad model"] = stage.submit("own", "wait()", sandbox_id=None, ark_apikey=known.bad["bad model"])
    stage.system.wait(hanging, "running")
    stage.system.http.post("/api/agent/cancel", json={"task_id": hanging}).raise_for_status()
    ended = {name: stage.system.wait(task_id) for name, task_id in tasks.items()}
    assert {name: task["error_code"] for name, task in ended.items()} == {
        "answer": None,
        "own": None,
        "model-400": "model_error",
        "model-401": "credentials_rejected",
        "nonsense": "model_output_invalid",
        "lybic-400": "sandbox_error",
        "lybic-401": "credentials_rejected",
        "lybic-500": None,
        "bad lybic": "credentials_rejected",
        "bad model": "credentials_rejected",
    }
    assert ended["answer"]["finished_output"] == REDACTED
    return {**tasks, "cancelled": hanging}


def stand(stage: Stage, known: Secrets) -> dict[str, str]:
    """Tasks that keep their credentials: one works, one waits for its sandbox, one for a human."""
    running = stage.submit("running", "hang 60", "wait()", **known.credentials("running"))
    stage.system.wait(running, "running")
    on_same = {**known.credentials("waiting"), "sandbox_id": "running"}
    waiting = stage.submit("waiting", "wait()", **on_same)
    human = stage.submit("human", "call_user(content='please log in')", **known.credentials("human"))
    stage.system.wait(human, "human_intervention")
    return {"running": running, "waiting": waiting, "human": human}


def sealed(stage: Stage) -> dict[str, bytes]:
    """What the database holds of credentials, by task."""
    with psycopg.connect(stage.postgres) as connection:
        found = connection.execute(
            "SELECT id, credentials FROM jobs WHERE credentials IS NOT NULL"
        ).fetchall()
    return {str(task_id): bytes(token) for task_id, token in found}


@pytest.mark.long
def test_no_secret_is_anywhere(tmp_path: Path) -> None:
    known = Secrets()
    with receiving() as receiver, staged(tmp_path, known) as stage:
        known.receiver = receiver.url
        watch = Watch(stage.valkey)
        refuse(stage, known)
        ended = end(stage, known)
        standing = stand(stage, known)
        told = {*ended.values(), standing["human"]} - {ended["own"], ended["bad lybic"], ended["bad model"]}
        wait_until(lambda: all(stage.rejected(task_id) for task_id in told))
        before, tokens = stage.evidence({**ended, **standing}), sealed(stage)
        assert stage.system.http.post("/api/agent/cancel", json={}).json()["count"] == len(standing)
        wait_until(lambda: all(stage.system.status(task)["finished_at"] for task in standing.values()))
        after = {**stage.evidence({**ended, **standing}), "what Redis was told": watch.end()}
        wiped = sealed(stage)

    leaks = known.leaks(before) or known.leaks(after)
    assert not leaks, "\n\n".join(leaks)

    # Encrypted they are kept, until the task has ended.
    vault = Vault(StorageSettings(credentials_keys=(SecretStr(known.fernet),)))
    opened = {task_id: vault.open(token, Credentials) for task_id, token in tokens.items()}
    assert {opened[task_id].model_key.get_secret_value() for task_id in standing.values()} == {
        known.good[f"{task} model"] for task in standing
    }
    assert set(opened) == set(standing.values())
    assert wiped == {}

    # All of this could have found something: here is what may be seen, wherever it should be.
    task_id = ended["answer"].encode()
    for place in ("the database", "the logs", "Flower", "the API's answers", "what Redis was told"):
        assert task_id in after[place], place
    for place in ("the database", "the API's answers"):
        assert MARKER.encode() in after[place], place
    for place in ("the database", "the logs", "the API's answers"):
        assert after[place].count(REDACTED.encode()) > 3, place
    assert all(token in before["the database"] for token in tokens.values())
    assert b'"level": "DEBUG"' in after["the logs"]
    assert b"worker.app" in before["the process list"]
    assert len(before["Redis"]) > len("{}")
    assert b'error_code="credentials_rejected",status="error"} 4.0' in after["the metrics"]
    assert urlsplit(receiver.url).netloc.encode() in before["the database"]
    for message in receiver.messages:
        message.verified(known.webhook["webhook secret"].encode())
