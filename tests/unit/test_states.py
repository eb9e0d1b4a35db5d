"""A terminal status never changes, and no other move is possible than those drawn."""

import pytest

from shared.states import ACTIVE, JobStatus, may_move

TERMINAL = {JobStatus.FINISHED, JobStatus.ERROR, JobStatus.CANCELLED}


def test_terminal_states() -> None:
    assert {status for status in JobStatus if status.terminal} == TERMINAL
    assert set(ACTIVE) == set(JobStatus) - TERMINAL


@pytest.mark.parametrize("before", sorted(TERMINAL))
@pytest.mark.parametrize("after", list(JobStatus))
def test_terminal_status_never_changes(before: JobStatus, after: JobStatus) -> None:
    assert not may_move(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [("pending", "finished"), ("human_intervention", "running"), ("human_intervention", "finished")],
)
def test_only_a_running_job_gets_a_result(before: str, after: str) -> None:
    assert not may_move(JobStatus(before), JobStatus(after))


def test_every_active_job_can_be_cancelled() -> None:
    assert all(may_move(status, JobStatus.CANCELLED) for status in ACTIVE)
