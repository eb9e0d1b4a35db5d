"""The results file: whatever happened to it, a row has one line in the end, and nothing is lost."""

import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.batch.ledger import Ledger, Numbers
from client.batch.results import Beginning, Result, Results, ResultsRefused
from client.batch.summary import Summary, duration
from client.models import Usage

BEGUN = Beginning(name="b", rows=9, digest="d")


def result(row: int, **more: object) -> Result:
    return Result.model_validate(
        {"row": row, "id": f"r{row}", "status": "finished", "output": "雪\n\x1b[2J\u2028", **more}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of results with three rows."""
    out = tmp_path / "out.jsonl"
    with Results(out) as results:
        results.begin(BEGUN)
        for row in (3, 1, 2):
            results.add(result(row))
    return out


def rows(path: Path, most: int = 9) -> list[int]:
    with Results(path) as results:
        assert results.beginning() == BEGUN
        return [result.row for result in results.earlier(most)]


def test_results_are_lines_of_json_that_no_terminal_obeys(path: Path) -> None:
    assert "\x1b" not in path.read_text()
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert [line["row"] for line in lines] == [3, 1, 2]
    assert lines[0]["output"] == "雪\n\x1b[2J\u2028"
    assert rows(path) == [3, 1, 2]


@given(
    cut=st.integers(0, 600), tail=st.binary(max_size=9) | st.just(b"\0" * 4096) | st.just(b'{"row": 9, "st')
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_torn_end_is_mended(path: Path, cut: int, tail: bytes) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    left = whole[: max(0, len(whole) - cut)]
    kept = [row for number, row in enumerate((3, 1, 2), 1) if len(left) >= len(b"".join(lines[:number]))]
    path.write_bytes(left + tail)
    try:
        assert rows(path) == kept
        with Results(path) as results:
            list(results.earlier(9))
            results.add(result(4))
        assert rows(path) == [*kept, 4]
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "damaged",
    [b"\n", b"{}\n", b'{"row": 0, "id": "", "status": ""}\n', b'{"row": 10, "id": "", "status": ""}\n'],
)
def test_damage_in_the_midst_is_left_to_people(path: Path, damaged: bytes) -> None:
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(before := b"".join([first, damaged, *others]))
    with pytest.raises(ResultsRefused, match="line 2: this is no result"):
        rows(path)
    assert path.read_bytes() == before


def test_two_at_a_time_are_refused(path: Path) -> None:
    with Results(path), pytest.raises(ResultsRefused, match="in use by another batch"), Results(path):
        pass
    assert rows(path) == [3, 1, 2]


def test_removed_results_begin_anew(path: Path) -> None:
    path.unlink()
    with Results(path) as results:
        assert results.beginning() is None


def test_a_file_of_others_stays_as_it_is(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text("{}\n")
    with Results(theirs) as results, pytest.raises(ResultsRefused, match=r"theirs\.jsonl\.batch is missing"):
        results.beginning()
    assert theirs.read_text() == "{}\n"
    for other in (tmp_path, Path(os.devnull), tmp_path / "no" / "out.jsonl"):
        with pytest.raises(ResultsRefused, match="can't be written"), Results(other):
            pass


def test_nothing_is_left_of_what_was_not_begun(tmp_path: Path) -> None:
    with Results(tmp_path / "out.jsonl") as results:
        assert results.beginning() is None
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_beginning_is_refused(path: Path) -> None:
    path.with_name("out.jsonl.batch").write_text("{}")
    with Results(path) as results, pytest.raises(ResultsRefused, match="can't be read"):
        results.beginning()


def test_a_full_disk_ends_it_and_is_mended_later(path: Path) -> None:
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    with Results(path) as results:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            for _ in range(2):
                with pytest.raises(ResultsRefused, match="can't be written"):
                    results.add(result(4))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size + 10
    assert rows(path) == [3, 1, 2]


@given(st.sets(st.integers(1, 300)), st.integers(1, 10_000))
def test_numbers_are_a_set(some: set[int], other: int) -> None:
    numbers = Numbers()
    for number in some:
        numbers.add(number)
    assert {number for number in range(400) if number in numbers} == some
    assert (other in numbers) == (other in some)


def test_the_ledger_counts_each_row_once(path: Path) -> None:
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines(keepends=True)[0])
    with Results(path) as results:
        ledger = Ledger(results, 9)
        assert (ledger.left, 3 in ledger, 4 in ledger) == (6, True, False)
        ledger.add(result(4, status="error", error_code="timeout"))
        assert (ledger.left, 4 in ledger, ledger.summary.failed) == (5, True, 1)


def test_the_summary() -> None:
    summary = Summary()
    usage = Usage(model_calls=2, input_tokens=1000, output_tokens=10)
    times = {"started_at": "2026-11-21T10:00:00Z"}
    summary.add(result(1, usage=usage, **times, finished_at="2026-11-21T10:00:10Z"))
    summary.add(result(2, usage=usage, attempts=3, **times, finished_at="2026-11-21T10:01:10Z"))
    summary.add(result(3, status="error", error_code="invalid_row"))
    summary.add(result(4, status="cancelled"))
    assert summary.as_json() == {
        "done": 4,
        "finished": 2,
        "failed": 2,
        "endings": [
            {"status": "finished", "error_code": None, "rows": 2},
            {"status": "error", "error_code": "invalid_row", "rows": 1},
            {"status": "cancelled", "error_code": None, "rows": 1},
        ],
        "retries": 2,
        "mean_seconds": 40.0,
        "longest_seconds": 70.0,
        "input_tokens": 2000,
        "output_tokens": 20,
    }
    assert (
        summary.sentence() == "2 retries; 40 s per task, 1:10 at most; 2,000 input tokens; 20 output tokens"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.42 s"),
        (7, "7 s"),
        (9.96, "10 s"),
        (59, "59 s"),
        (63, "1:03"),
        (600, "10:00"),
        (7200, "2:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
