"""The arena: the whole system as real processes, each of which can be killed, frozen and started again."""

import os
import secrets
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self
from uuid import UUID

import httpx
import psycopg
from alembic import command
from cryptography.fernet import Fernet
from redis import Redis

from local.demo import isolated
from local.folders import temporary_folder
from local.keepers import Service
from local.processes import Child, Program, answers_200, free_port
from local.servers import LOOPBACK, Postgres, Valkey
from migrations.__main__ import config
from shared.queue import Dispatcher, make_celery
from shared.settings import RedisSettings, WorkerSettings
from tests.conftest import wait_until

READY_SECONDS = 60
ORG = "org-chaos"


def _secret(prefix: str) -> str:
    return f"{prefix}-planted-{secrets.token_hex(12)}"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How large the system is, how slow its surroundings, how it is set."""

    workers: int = 2
    concurrency: int = 16
    latency: float = 0.02
    """Seconds that the model and the sandbox take for each call."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def lease_seconds(self) -> float:
        """What the workers are told; the product's default if nothing."""
        default = WorkerSettings.model_fields["lease_seconds"].default
        return float(self.environment.get("LEASE_SECONDS", default))


class Worker:
    """One worker process after the other, under one name."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.usual = service.program

    @property
    def child(self) -> Child:
        """The present process."""
        return self.service.child

    @property
    def owner(self) -> str:
        """What stands in the leases of the present process."""
        return f"{self.usual.name}@chaos/{self.child.pid}"

    def start_again(self, **environment: str) -> None:
        """A new process, with other settings where they are named."""
        self.service.program = replace(self.usual, environment={**self.usual.environment, **environment})
        self.service.start_again()

    @property
    def is_usual(self) -> bool:
        """Whether the present process lives and has the usual settings."""
        return self.child.exit_code is None and self.service.program.environment == self.usual.environment


class Arena:
    """The running system. All its processes are children of the main thread, and are stopped by their ids."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.secrets = {
            "the caller's Lybic key": _secret("sk"),
            "the caller's model key": _secret("ark"),
            "our own Lybic key": _secret("sk-own"),
            "our own model key": _secret("ark-own"),
            "the secret of the webhooks": _secret("webhook"),
            "the key of the credentials": Fernet.generate_key().decode(),
        }
        self._folder = temporary_folder()
        self.logs = self._folder.path / "logs"
        self.logs.mkdir()
        self.postgres = Postgres(
            self._folder.path / "postgres", throwaway=True, log=self.logs / "postgres.log"
        )
        self.valkey = Valkey(self._folder.path / "valkey", throwaway=True, log=self.logs / "valkey.log")
        self.workers: list[Worker] = []
        self.witness = ""
        self._stand_ins: dict[str, Service] = {}
        self._frozen: list[Child] = []
        self._port = free_port()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def credentials(self) -> dict[str, Any]:
        """What a request brings along."""
        authentication = {"api_key": self.secrets["the caller's Lybic key"], "org_id": ORG}
        return {"authentication": authentication, "ark_apikey": self.secrets["the caller's model key"]}

    # --- starting and stopping

    def _start(self) -> None:
        keys = self.secrets
        self._stand_in("sandbox", keys["our own Lybic key"], keys["the caller's Lybic key"])
        self._stand_in("model", keys["our own model key"], keys["the caller's model key"])
        self.valkey.start()
        self.postgres.start()
        command.upgrade(config(self.postgres.url), "head")
        self.witness = self._address("sandbox")
        self.model = self._address("model")
        self._environment = self._make_environment()
        for number in range(1, self.conditions.workers + 1):
            self.workers.append(Worker(self._run_worker(f"worker{number}")))
        bind = ("--bind", f"{LOOPBACK}:{self._port}")
        self.api = self._run("api", "gunicorn", "--config", "python:api.gunicorn_conf", *bind, "api.wsgi:app")
        self.wait_ready()

    def _make_environment(self) -> dict[str, str]:
        return {
            **isolated(os.environ),
            "AGENT_SETTLE_SECONDS": "0",
            "LOG_FORMAT": "text",
            "NO_PROXY": LOOPBACK,
            "no_proxy": LOOPBACK,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._folder.path),
            "POSTGRES_CONNECTION_STRING": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "CREDENTIALS_KEYS": self.secrets["the key of the credentials"],
            "LYBIC_API_ENDPOINT": self.witness,
            "LYBIC_API_KEY": self.secrets["our own Lybic key"],
            "LYBIC_ORG_ID": ORG,
            "ARK_API_ENDPOINT": self.model,
            "ARK_API_KEY": self.secrets["our own model key"],
            "WEBHOOK_ALLOWED_HOSTS": LOOPBACK,
            "WEBHOOK_TIMEOUT_SECONDS": "2",
            **self.conditions.environment,
        }

    def _stand_in(self, name: str, *keys: str) -> None:
        options = [f"--api-key={key}" for key in keys]
        latency = f"--latency={self.conditions.latency}"
        self._environment = dict(isolated(os.environ))
        self._stand_ins[name] = self._run(name, f"local.{name}", latency, *options)

    def _address(self, stand_in: str) -> str:
        return self._stand_ins[stand_in].child.wait_for_line("listening on ", READY_SECONDS)

    def _run_worker(self, name: str) -> Service:
        pool = ("--pool", "threads", "--concurrency", str(self.conditions.concurrency))
        options = ("--without-mingle", "--hostname", f"{name}@chaos", "--loglevel", "INFO")
        return self._run(name, "celery", "--app", "worker.app", "worker", *pool, *options)

    def _run(self, name: str, module: str, *arguments: str) -> Service:
        return Service(
            Program(
                name=name,
                argv=[sys.executable, "-m", module, *arguments],
                log=self.logs / f"{name}.log",
                environment=self._environment,
                cwd=self.logs,
            )
        )

    def stop(self) -> None:
        """Ends every process, and removes what they left."""
        self.thaw_all()
        services = [*(worker.service for worker in self.workers), *self._stand_ins.values()]
        services += [self.api] if hasattr(self, "api") else []
        for service in services:
            service.child.kill()
        self.valkey.kill()
        self.postgres.stop()
        self._folder.remove()

    # --- faults

    def kill(self, child: Child) -> None:
        """SIGKILL, at once, for the process and whatever it started."""
        child.kill()

    def freeze(self, child: Child) -> None:
        """SIGSTOP: the process keeps its connections and does nothing."""
        os.killpg(child.pid, signal.SIGSTOP)
        self._frozen.append(child)

    def thaw(self, child: Child) -> None:
        """SIGCONT."""
        if child in self._frozen:
            self._frozen.remove(child)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)

    def thaw_all(self) -> None:
        """Nothing is frozen any more."""
        for child in list(self._frozen):
            self.thaw(child)

    def lose_redis_contents(self) -> None:
        """FLUSHALL."""
        with Redis.from_url(self.valkey.url, socket_timeout=5) as redis:
            redis.flushall()

    def dispatch(self, job_ids: Iterable[str], times: int = 1) -> None:
        """Publishes each job's message so many times more."""
        with make_celery(RedisSettings.model_validate({"url": self.valkey.url})) as app:
            dispatcher = Dispatcher(app)
            for job_id in job_ids:
                for _ in range(times):
                    dispatcher.dispatch(UUID(job_id))
            dispatcher.close()

    def ask_for_fault(self, stand_in: str, **fault: Any) -> None:
        """Makes the model or the sandboxes misbehave (`local.standin.Fault`)."""
        url = {"sandbox": self.witness, "model": self.model}[stand_in]
        httpx.post(f"{url}/simulated/faults", json=fault, trust_env=False).raise_for_status()

    # --- looking

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows, from a connection of its own."""
        with psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=3) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def held_by(self, worker: Worker) -> dict[str, int]:
        """The jobs that the worker's present process has, and their runs."""
        held = "SELECT id, run FROM jobs WHERE status = 'running' AND lease_owner = %s"
        return {str(job_id): run for job_id, run in self.query(held, worker.owner)}

    def listeners(self) -> int:
        """How many workers have asked Redis for a message, on the connections that they have now."""
        with Redis.from_url(self.valkey.url, socket_timeout=5) as redis:
            return sum(client["cmd"] == "brpop" for client in redis.client_list())

    def wait_ready(self) -> None:
        """Returns when every process does its work."""
        for worker in self.workers:
            wait_until(lambda worker=worker: self._is_at_work(worker), READY_SECONDS)  # type: ignore[misc]
        self.api.child.wait_until(answers_200(f"{self.url}/api/health"), READY_SECONDS)

    def _is_at_work(self, worker: Worker) -> bool:
        worker.child.check()
        name = f"guiagent {worker.owner}"
        return bool(self.query("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", name))

    # --- healing

    def heal(self) -> None:
        """Everything runs as it did in the beginning."""
        self.thaw_all()
        if self.valkey.child.exit_code is not None:
            self.valkey.start()
        if self.postgres.child.exit_code is not None:
            self.postgres.start()
        for url in (self.witness, self.model):
            httpx.delete(f"{url}/simulated/faults", trust_env=False).raise_for_status()
        for worker in self.workers:
            if not worker.is_usual:
                worker.child.kill()
                worker.start_again()
        if self.api.child.exit_code is not None:
            self.api.start_again()
        self.wait_ready()
