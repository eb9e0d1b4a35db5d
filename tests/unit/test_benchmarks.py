"""What the benchmarks make of what they measured, and what they compare."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.__main__ import ROWS
from benchmarks.compare import Pair, Unusable
from benchmarks.long_rows import growth
from benchmarks.rows import Figure

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A repository with one commit."""
    monkeypatch.setattr(compare, "HERE", tmp_path)

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    run("init", "--quiet")
    (tmp_path / "old.py").write_text("old = 1\n")
    run("add", "old.py")
    run("commit", "--quiet", "--message", "one")
    return run


def test_each_row_says_what_it_measures() -> None:
    assert [name for name, row in ROWS.items() if not row.__doc__ or "\n" in row.__doc__.strip()] == []


def test_a_goal_is_a_least_or_a_most() -> None:
    at_most, at_least = Figure("p99", "ms", 80, 80), Figure("rate", "/s", 80, 80, most=False)
    assert at_most.reached
    assert at_least.reached
    assert not Figure("p99", "ms", 81, 80).reached
    assert not Figure("rate", "/s", 79, 80, most=False).reached


def test_the_ratio_is_of_medians() -> None:
    assert Pair("step", "overhead", "ms", [10, 90, 20], [5, 10, 1]).ratio == 0.25
    assert Pair("step", "errors", "", [0, 0, 0], [1, 1, 1]).ratio is None


def test_growth_is_a_trend_and_no_chance() -> None:
    assert growth([85, 97, 91, 94, 85, 100, 91, 85, 97]) == pytest.approx(2, abs=3)
    assert growth([100 + 10 * number for number in range(9)]) == pytest.approx(80)


def test_an_unknown_revision_is_named(git: Git) -> None:
    with pytest.raises(Unusable, match="nowhere"):
        compare._commit("nowhere")


def test_this_commit_is_the_working_tree(git: Git, tmp_path: Path) -> None:
    assert compare._this() == git("rev-parse", "HEAD")
    (tmp_path / "old.py").write_text("old = 2\n")
    (tmp_path / "new.py").write_text("new = 1\n")
    with pytest.raises(Unusable, match=r"new\.py"):
        compare._this()
    git("add", "new.py")
    git("archive", "--format=zip", "--output=this.zip", compare._this())
    with zipfile.ZipFile(tmp_path / "this.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "old.py": b"old = 2\n",
            "new.py": b"new = 1\n",
        }
