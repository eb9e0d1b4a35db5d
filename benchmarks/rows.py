"""What is measured, each with its goal: two cores for everything, stand-ins included."""

import time
from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, task
from benchmarks.system import System, running

STEPS = 60
JOBS, JOB_STEPS = 200, 10
LONGEST_SECONDS = 300


def step() -> Iterator[Figure]:
    """One job alone: what a step takes beyond the model and the sandbox, which answer at once."""
    with running() as system:
        carry_out(system, [task(5)])
        carry_out(system, [task(STEPS)])
        (row,) = system.query(
            "SELECT extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY took)) * 1000 FROM"
            " (SELECT created_at - lag(created_at) OVER (ORDER BY number) AS took FROM steps WHERE job_id ="
            " (SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1)) AS steps"
        )
        yield Figure("overhead per step, one job, median", "ms", float(row[0]), 8)


def many() -> Iterator[Figure]:
    """200 jobs of 10 steps at once, at 200 ms for the model and 50 ms for an action; ideal are 2.5 s."""
    with running(think=0.2, act=0.05, workers=2, concurrency=100) as system:
        carry_out(system, [task(2)] * 2)
        cpu, calls = system.cpu(), system.lybic_calls()
        seconds = carry_out(system, [task(JOB_STEPS) for _ in range(JOBS)])
        steps = JOBS * JOB_STEPS
        yield Figure("200 jobs × 10 steps at 200 ms + 50 ms", "s", seconds, 6)
        yield Figure("… CPU per step, all but the stand-ins", "ms", (system.cpu() - cpu) / steps * 1000, 5)
        yield Figure("… Lybic calls per step", "", (system.lybic_calls() - calls) / steps, 1.2)


def carry_out(system: System, tasks: list[dict[str, object]]) -> float:
    """Seconds from the submission of tasks to the end of the last.

    Raises `RuntimeError` if one fails, or does not end.
    """
    began = time.perf_counter()
    system.http.post("/api/agent/task/batch", json={"tasks": tasks}).raise_for_status()
    while system.query("SELECT 1 FROM jobs WHERE finished_at IS NULL LIMIT 1"):
        if time.perf_counter() - began > LONGEST_SECONDS:
            raise RuntimeError(f"not all tasks are over after {LONGEST_SECONDS} s")
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if failed := system.query(
        "SELECT error_code, error_message FROM jobs WHERE status <> 'finished' LIMIT 1"
    ):
        raise RuntimeError(f"a task failed: {failed[0]}")
    return seconds


ROWS: dict[str, Callable[[], Iterator[Figure]]] = {"step": step, "many": many}
