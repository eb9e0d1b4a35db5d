"""What a deployment is made of, measured on real processes for docs/deploy.md: `python -m tests.scale`."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import httpx
import psycopg
from redis import Redis
from rich.console import Console

from local.demo import isolated
from local.folders import temporary_folder
from local.processes import Child, free_port
from local.servers import Postgres
from local.stack import Plan, Stack, Storage
from tests.conftest import wait_until

QUIET_SECONDS = 20
FEW, MANY = 1, 17
HANGING = "script> repeat 5 click(point='<point>{i} 5</point>')\nscript> hang 600\nscript> wait()"
CLICKERS, CLICKS = 32, 50
CLICKING = f"script> repeat {CLICKS} click(point='<point>{{i}} 5</point>')"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Counters of the whole system, at one moment or for one period."""

    seconds: float
    transactions: float
    statements: float
    wal_bytes: float
    table_bytes: float
    postgres_cpu: float
    worker_cpu: float
    redis_commands: float

    def since(self, before: "Reading") -> "Reading":
        return Reading(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def per(self, count: float) -> "Reading":
        return Reading(*(value / count for value in astuple(self)))


class System:
    """A running stack over a PostgreSQL that syncs and counts."""

    def __init__(self, postgres: Postgres, stack: Stack) -> None:
        self._postgres = postgres
        self.stack = stack
        self.workers = [child for child in stack.services if child.name.startswith("worker")]
        self._redis = Redis.from_url(stack._environment["REDIS_URL"])
        # From another database, so that it does not count itself.
        self._sql = psycopg.connect(postgres.url_of("postgres"), autocommit=True)

    def read(self) -> Reading:
        transactions, statements, wal = self._row(
            "SELECT sum(calls) FILTER (WHERE query = 'COMMIT'),"
            " sum(calls) FILTER (WHERE query NOT IN ('BEGIN', 'COMMIT', 'ROLLBACK')),"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
            " FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid"
            f" WHERE datname = '{Postgres.database}'"
        )
        with psycopg.connect(self._postgres.url) as there:
            size = there.execute("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'")
            (table_bytes,) = size.fetchone() or (0,)
        return Reading(
            time.monotonic(),
            transactions,
            statements,
            wal,
            float(table_bytes),
            cpu(self._postgres.pid),
            sum(cpu(worker.pid) for worker in self.workers),
            self._redis.info("stats")["total_commands_processed"],
        )

    def quiet(self) -> Reading:
        """What a second costs in which nobody asks for anything."""
        before = self.read()
        time.sleep(QUIET_SECONDS)
        spent = self.read().since(before)
        return spent.per(spent.seconds)

    def connections(self) -> int:
        """Of the workers, to PostgreSQL."""
        (count,) = self._row(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'guiagent worker%'"
        )
        return int(count)

    def redis_clients(self) -> int:
        return int(self._redis.info("clients")["connected_clients"])

    def memory(self) -> float:
        """Of the workers, in MB, without what they share with others."""
        return sum(anonymous(worker) for worker in self.workers)

    def submit(self, instruction: str, count: int) -> None:
        tasks = {"tasks": [{"instruction": instruction, "max_steps": 500}] * count}
        httpx.post(f"{self.stack.plan.url}/api/agent/task/batch", json=tasks).raise_for_status()

    def wait_for(self, count: int, condition: str) -> int:
        """The most connections that there were until so many jobs are like that.

        It looks seldom, so as not to be what is measured.
        """
        most = 0
        with psycopg.connect(self._postgres.url, autocommit=True) as there:
            while there.execute(f"SELECT 1 FROM jobs WHERE {condition}".encode()).rowcount < count:
                most = max(most, self.connections())
                time.sleep(1)
        return most

    def _row(self, statement: str) -> tuple[float, ...]:
        row = self._sql.execute(statement.encode()).fetchone()
        assert row is not None
        return tuple(map(float, row))


def cpu(pid: int) -> float:
    """Seconds that a process and its children, living and dead, have used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it ended just now
        return 0
    return sum(map(int, fields[11:15])) / TICKS + sum(cpu(int(child)) for child in children)


def anonymous(child: Child) -> float:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


@contextmanager
def running(workers: int, concurrency: int, **settings: str) -> Iterator[System]:
    folder = temporary_folder()
    with Postgres(folder.path / "postgres") as postgres:
        with psycopg.connect(postgres.url, autocommit=True) as there:
            there.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
            there.execute("ALTER SYSTEM SET max_connections = 500")
        postgres.child.stop(postgres.stop_signal)
        postgres.start_again()
        wait_until(postgres._answers, 60)
        with psycopg.connect(postgres.url_of("postgres"), autocommit=True) as there:
            there.execute("CREATE EXTENSION pg_stat_statements")
        plan = Plan(
            environment={**isolated(os.environ), "POSTGRES_CONNECTION_STRING": postgres.url, **settings},
            storage=Storage(url=postgres.url, keys=folder.path / "keys"),
            port=free_port(),
            workers=workers,
            concurrency=concurrency,
        )
        stack = Stack(plan, lambda *_: None)
        try:
            stack.start()
            yield System(postgres, stack)
        finally:
            stack.stop()
    folder.remove()


def show(title: str, **figures: float) -> None:
    console = Console(highlight=False)
    console.print(title)
    for name, value in figures.items():
        console.print(f"  {name.replace('_', ' '):<44}{value:>12,.2f}")


def idle(**settings: str) -> None:
    """The difference that further worker processes make."""
    measured = []
    for workers in (FEW, MANY):
        with running(workers, 16, **settings) as system:
            rate = system.quiet()
            measured.append((rate, system.connections(), system.redis_clients(), system.memory()))
    (few, *less), (many, *more) = measured
    one = many.since(few).per(MANY - FEW)
    connections, clients, memory = ((now - then) / (MANY - FEW) for then, now in zip(less, more, strict=True))
    show(
        " ".join(["An idle worker process", *(f"{name}={value}" for name, value in settings.items())]),
        memory_MB=memory,
        connections_to_PostgreSQL=connections,
        connections_to_Redis=clients,
        CPU_of_the_worker_ms_per_s=one.worker_cpu * 1000,
        CPU_of_PostgreSQL_ms_per_s=one.postgres_cpu * 1000,
        transactions_per_s=one.transactions,
        statements_per_s=one.statements,
        commands_to_Redis_per_s=one.redis_commands,
    )


def held(tasks: int) -> None:
    """A worker process with tasks whose model thinks for long."""
    with running(1, tasks) as system:
        before = system.memory()
        system.submit(HANGING, tasks)
        most = system.wait_for(tasks, "step_count = 5")
        rate = system.quiet()
        show(
            f"A worker process with {tasks} running tasks, all waiting for the model",
            memory_MB_per_task=(system.memory() - before) / tasks,
            connections_to_PostgreSQL_before_at_most=most,
            connections_to_PostgreSQL=system.connections(),
            CPU_of_the_worker_ms_per_s=rate.worker_cpu * 1000,
            CPU_of_PostgreSQL_ms_per_s=rate.postgres_cpu * 1000,
            transactions_per_s=rate.transactions,
            statements_per_s=rate.statements,
            WAL_kB_per_s=rate.wal_bytes / 1000,
        )


def steps() -> None:
    """Tasks whose model and sandbox answer at once."""
    with running(2, 16) as system:
        before = system.read()
        system.submit(CLICKING, CLICKERS)
        most = system.wait_for(CLICKERS, "finished_at IS NOT NULL")
        spent = system.read().since(before)
        done = CLICKERS * (CLICKS + 1)
        one = spent.per(done)
        show(
            f"A step, of {done} in {CLICKERS} tasks on two worker processes",
            steps_per_s=done / spent.seconds,
            connections_to_PostgreSQL_at_most=most,
            transactions=one.transactions,
            statements=one.statements,
            WAL_kB=one.wal_bytes / 1000,
            tables_and_indexes_kB=one.table_bytes / 1000,
            CPU_of_PostgreSQL_ms=one.postgres_cpu * 1000,
            CPU_of_the_worker_ms=one.worker_cpu * 1000,
            commands_to_Redis=one.redis_commands,
        )


if __name__ == "__main__":
    idle()
    idle(SWEEP_SECONDS="10", CLEAN_SECONDS="60")
    held(16)
    held(100)
    steps()
