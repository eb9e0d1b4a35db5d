"""The system under measurement: real servers and processes, and what they cost."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
from alembic import command
from cryptography.fernet import Fernet

from local.demo import isolated
from local.processes import Child, Program, answers_200, free_port
from local.servers import LOOPBACK, Postgres, Valkey
from migrations.__main__ import config

READY_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")


class System:
    """API, workers, PostgreSQL that syncs, and Valkey, before one stand-in for Lybic and the model."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        *,
        think: float,
        act: float,
        spread: float,
        workers: int,
        concurrency: int,
        **more: str,
    ) -> None:
        self._folder = folder
        self._stack = stack
        self.postgres = stack.enter_context(Postgres(folder / "postgres", throwaway=False))
        self.valkey = stack.enter_context(Valkey(folder / "valkey", throwaway=False))
        command.upgrade(config(self.postgres.url), "head")
        self._environment = {**isolated(os.environ), "NO_PROXY": LOOPBACK}
        answers = ("--think", str(think), "--act", str(act), "--spread", str(spread))
        stand_in = self._run("standin", "benchmarks.standin", *answers)
        self.stand_in = stand_in.wait_for_line("listening on ", READY_SECONDS)
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._environment.update(
            {
                "AGENT_SETTLE_SECONDS": "0",
                "API_PORT": str(port),
                "API_RATE_LIMIT": "100000000/minute",
                "POSTGRES_CONNECTION_STRING": self.postgres.url,
                "REDIS_URL": self.valkey.url,
                "CREDENTIALS_KEYS": Fernet.generate_key().decode(),
                "LYBIC_API_ENDPOINT": self.stand_in,
                "LYBIC_API_KEY": "bench-key",
                "LYBIC_ORG_ID": "bench",
                "ARK_API_ENDPOINT": f"{self.stand_in}/v1",
                "ARK_API_KEY": "bench-key",
                "MODEL_IMAGE": "url",  # as with a real endpoint, which fetches the pictures itself
                **more,
            }
        )
        self.workers = [self._start_worker(number, concurrency) for number in range(workers)]
        self.serve()
        if workers:
            self.api.wait_until(answers_200(f"{self.url}/api/ready"), READY_SECONDS)
        self._sql = stack.enter_context(psycopg.connect(self.postgres.url, autocommit=True))
        self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=60, trust_env=False))

    def serve(self, **more: str) -> None:
        """Starts the API, or starts it again with other settings."""
        if hasattr(self, "api"):
            self.api.stop()
        self._environment.update(more)
        self.api = self._run("api", "gunicorn", "--config", "python:api.gunicorn_conf", "api.wsgi:app")
        self.api.wait_until(answers_200(f"{self.url}/api/health"), READY_SECONDS)

    def _start_worker(self, number: int, concurrency: int) -> Child:
        pool = (
            "--pool",
            "threads",
            "--concurrency",
            str(concurrency),
            "--without-mingle",
            "--without-gossip",
        )
        return self._run(
            f"worker{number}",
            "celery",
            "--app",
            "worker.app",
            "worker",
            *pool,
            "--hostname",
            f"worker{number}@bench",
        )

    def _run(self, name: str, module: str, *arguments: str) -> Child:
        child = Child(
            Program(
                name=name,
                argv=[sys.executable, "-m", module, *arguments],
                log=self._folder / f"{name}.log",
                environment=dict(self._environment),
                cwd=self._folder if module != "benchmarks.standin" else Path.cwd(),
            )
        )
        self._stack.callback(child.kill)
        return child

    def counts(self) -> dict[str, int]:
        """How often the stand-in was asked for what."""
        return dict(httpx.get(f"{self.stand_in}/counts", trust_env=False).json())

    def lybic_calls(self) -> int:
        """How often the stand-in was asked as Lybic."""
        return sum(count for name, count in self.counts().items() if name not in {"chat", "screenshot"})

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows, over one connection: to make one for each look would be measured, too."""
        return self._sql.execute(statement.encode()).fetchall()

    def cpu(self) -> float:
        """Seconds of CPU of all processes but the stand-in, since they began."""
        ours = [self.api.pid, *(worker.pid for worker in self.workers)]
        return sum(_cpu(one) for pid in [*ours, self.postgres.pid, self.valkey.pid] for one in family(pid))


def _cpu(pid: int) -> float:
    """Of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except FileNotFoundError:  # it has just ended, and counts among its parent's
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they have not ended."""
    try:
        children = [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in family(child))]


@contextmanager
def running(
    *,
    think: float = 0,
    act: float = 0,
    spread: float = 0,
    workers: int = 1,
    concurrency: int = 64,
    **more: str,
) -> Iterator[System]:
    """A system, ready; gone at the end. The model thinks so long, give or take `spread` of it."""
    with TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        yield System(
            Path(folder),
            stack,
            think=think,
            act=act,
            spread=spread,
            workers=workers,
            concurrency=concurrency,
            **more,
        )
