"""Rows at two commits in one run, in turns, so that whatever else the machine does meets both alike.

Both are unpacked from git into a temporary folder, so that nobody's edits meanwhile are measured. The product
is that of each commit, the benchmarks are those of this one for both, and so are the installed packages.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from local.processes import Child, Program

HERE = Path(__file__).parent.parent
LONGEST_ROW_SECONDS = 3600


class Unusable(Exception):
    """What is to be compared can't be; the message says why."""


@dataclass(frozen=True)
class Pair:
    """One figure of a row, as often as it was measured at each of two commits."""

    row: str
    name: str
    unit: str
    base: list[float]
    this: list[float]

    @property
    def ratio(self) -> float | None:
        """The median of this commit over that of the base; None where that is 0."""
        return median(self.this) / median(self.base) if median(self.base) else None


def compare(base: str, rows: Sequence[str], rounds: int, console: Console) -> dict[str, Any]:
    """Measures the rows at both commits, prints them side by side, and gives all of it for JSON.

    This commit is the working tree, with what was changed and is not committed yet.

    Raises `Unusable`, and `ProcessFailed` where a row fails.
    """
    commits = {"base": _commit(base), "this": _this()}
    console.print(f"base: {commits['base'][:10]}; this: {commits['this'][:10]}", style="dim")
    taken: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    with _unpacked(commits) as folders:
        for number in range(1, rounds + 1):
            for row in rows:
                for side, folder in folders.items():
                    figures = _measure(row, folder)
                    taken.setdefault((row, side), []).append(figures)
                    shown = ", ".join(f"{one['value']:.3g} {one['unit']}".strip() for one in figures)
                    console.print(f"round {number} of {rounds}, {row}, {side}: {shown}", style="dim")
    pairs = [pair for row in rows for pair in _pairs(row, taken[row, "base"], taken[row, "this"])]
    console.print(table(pairs, base))
    return {"commits": commits, "figures": [{**asdict(pair), "ratio": pair.ratio} for pair in pairs]}


def table(pairs: Sequence[Pair], base: str) -> Table:
    """Medians beside each other, with the least and the most of them."""
    shown = Table("what", base, "this", "ratio")
    for pair in pairs:
        ratio = "–" if pair.ratio is None else f"{pair.ratio:.2f}"
        shown.add_row(pair.name, _spread(pair.base, pair.unit), _spread(pair.this, pair.unit), ratio)
    return shown


def _spread(values: Sequence[float], unit: str) -> str:
    return f"{median(values):.3g} {unit} ({min(values):.3g}…{max(values):.3g})"


def _pairs(row: str, base: list[list[dict[str, Any]]], this: list[list[dict[str, Any]]]) -> Iterator[Pair]:
    """By their place in the row: names need not differ."""
    for first, *others in zip(*base, *this, strict=True):
        values = [figure["value"] for figure in (first, *others)]
        yield Pair(row, first["name"], first["unit"], values[: len(base)], values[len(base) :])


def _commit(revision: str) -> str:
    """Its hash."""
    try:
        return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except Unusable:
        raise Unusable(f"{revision} is no revision that git knows here") from None


def _this() -> str:
    """The working tree: a commit on no branch, or that which it is if nothing was changed."""
    if unknown := _git("ls-files", "--others", "--exclude-standard", "--", "*.py"):
        names = ", ".join(unknown.splitlines())
        raise Unusable(f"git does not know of {names}, so it would be left out: `git add` it first")
    return _git("stash", "create") or _commit("HEAD")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unusable("git is not installed") from None
    if done.returncode:
        raise Unusable(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _unpacked(commits: dict[str, str]) -> Iterator[dict[str, Path]]:
    """A folder for each; no worktrees, which a kill -9 would leave behind in the repository."""
    with TemporaryDirectory(prefix="bench-") as temporary:
        folders = {side: Path(temporary) / side for side in commits}
        for side, commit in commits.items():
            archive = Path(temporary) / f"{side}.zip"
            _git("archive", "--format=zip", f"--output={archive}", commit)
            shutil.unpack_archive(archive, folders[side])
        shutil.rmtree(folders["base"] / "benchmarks", ignore_errors=True)
        shutil.copytree(folders["this"] / "benchmarks", folders["base"] / "benchmarks")
        yield folders


def _measure(row: str, folder: Path) -> list[dict[str, Any]]:
    """The figures of a row with the packages in the folder; all that it starts inherits the path to them."""
    result = folder / "result.json"
    child = Child(
        Program(
            name=row,
            argv=[sys.executable, "-m", "benchmarks", row, "--json", str(result)],
            log=folder / "log",
            environment={**os.environ, "PYTHONPATH": str(folder)},
            cwd=folder,
        )
    )
    try:
        child.wait_gone(LONGEST_ROW_SECONDS)
    finally:
        child.stop(signal.SIGINT, grace=60)  # if we were interrupted: it cleans up after itself
    if child.exit_code:
        child.check()
    return list(json.loads(result.read_text()))
