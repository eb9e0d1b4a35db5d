"""The long round: `python -m tests.chaos`. Many jobs, a fault every two seconds, and a table of what held."""

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from tests.chaos.arena import Arena, Conditions
from tests.chaos.clients import Clients
from tests.chaos.invariants import RULES, Report
from tests.chaos.storm import Recovery, Storm, flood, recoveries

LONGEST_SECONDS = 570
JOBS_PER_SECOND = 1.5
LOOK_SECONDS = 1.0
GOAL_SECONDS = 10.0


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="how many jobs the clients submit")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one fault to the next")
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier round")
    parser.add_argument("--lease", type=float, help="LEASE_SECONDS, if not the product's default")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and each job's story are put")
    return parser.parse_args()


class Calm:
    """Whether every job was submitted and has ended; looked for now and then."""

    def __init__(self, clients: Clients, jobs: int) -> None:
        self._clients = clients
        self._jobs = jobs
        self._looked = 0.0

    def __call__(self) -> bool:
        if self._clients.submitted < self._jobs or time.monotonic() < self._looked + LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        with suppress(psycopg.Error):
            return not self._clients.unfinished()
        return False


def percentile(sorted_values: list[float], share: float) -> float:
    """The value that so great a share of them does not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values."""
    made = Table(title=title, show_header=False, title_justify="left")
    for row in rows:
        made.add_row(*row)
    return made


def recovery_table(times: list[Recovery]) -> Table:
    """How long jobs were without a worker; a database that is away as well makes that longer."""
    made = Table(
        "", "runs", "p50", "p99", "max", "goal",
        title="From SIGKILL of a worker to the next claim of each job that it had",
        title_justify="left",
    )  # fmt: skip
    undisturbed = [one.seconds for one in times if one.undisturbed]
    for name, values, goal in (
        ("PostgreSQL was there", undisturbed, f"{GOAL_SECONDS:g} s"),
        ("PostgreSQL was away, too", [one.seconds for one in times if not one.undisturbed], ""),
    ):
        shown = [f"{percentile(values, share):.1f} s" if values else "" for share in (0.5, 0.99, 1.0)]
        made.add_row(name, str(len(values)), *shown, goal)
    return made


def tables(report: Report, storm: Storm, times: list[Recovery], seconds: float) -> Iterable[Table]:
    """What there is to tell."""
    yield table("Faults", [(name, str(count)) for name, count in storm.faults.most_common()])
    yield table("Jobs", [(name, str(count)) for name, count in report.outcomes.most_common()])
    harms = [(harm, str(report.count(harm))) for harm in ("lost", "duplicated", "reordered")]
    yield table("Harm", harms)
    yield table("Rules", [(name, "held" if report.held(name) else "BROKEN") for name in RULES])
    yield recovery_table(times)
    streams = report.scene.evidence.heard
    broken = sum(heard.connections - 1 for heard in streams)
    actions = sum(map(len, report.scene.acts.values()))
    yield table(
        "The round",
        [
            ("seconds", f"{seconds:.0f}"),
            ("steps", str(sum(map(len, report.scene.steps.values())))),
            ("actions carried out", str(actions)),
            ("times that a human had a job", str(len(report.scene.evidence.takeovers))),
            ("streams", f"{len(streams)}, which came back {broken} times"),
        ],
    )


def keep(folder: Path, arena: Arena, clients: Clients, report: Report) -> None:
    """Puts down all that helps to find out why."""
    shutil.copytree(arena.logs, folder, dirs_exist_ok=True)
    (folder / "faults").write_text("\n".join(clients.notes))
    (folder / "jobs").write_text("\n\n".join(map(report.story, report.scene.jobs)))


def play(chosen: argparse.Namespace, seed: int, console: Console) -> int:
    """The round; the exit code tells whether every rule held."""
    environment = {} if chosen.lease is None else {"LEASE_SECONDS": f"{chosen.lease:g}"}
    began = time.monotonic()
    with Arena(Conditions(workers=chosen.workers, latency=0.05, environment=environment)) as arena:
        clients = Clients(arena)
        storm = Storm(arena, clients, seed=seed, every=chosen.every)
        try:
            with flood(clients, jobs=chosen.jobs, seed=seed, seconds=chosen.jobs / JOBS_PER_SECOND):
                storm.rage_until(Calm(clients, chosen.jobs), LONGEST_SECONDS)
            arena.heal()
            clients.wait_until_all_ended()
            report = clients.verdict()
        finally:
            clients.close()
            if sys.exc_info()[0] is not None:
                console.print("\n".join(clients.notes))
        if chosen.keep:
            keep(chosen.keep, arena, clients, report)
        for shown in tables(report, storm, recoveries(arena, storm), time.monotonic() - began):
            console.print(shown)
        if report.violations:
            console.print("\n".join(clients.notes))
            console.print(str(report))
        return 1 if report.violations else 0


def main() -> int:
    """Prints the seed, plays, prints the table."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    chosen = options()
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    console.print(f"seed {seed}")
    return play(chosen, seed, console)


if __name__ == "__main__":
    sys.exit(main())
