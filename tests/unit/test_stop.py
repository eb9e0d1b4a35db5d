"""A run is told to stop: which reason holds, and what becomes of the call under way."""

import asyncio
import math
import time
from threading import Timer

import pytest

from shared.states import Request
from worker.stop import ASKED, Reason, Stop, Stopped


@pytest.fixture
def stop() -> Stop:
    return Stop(math.inf)


def tell(stop: Stop, reason: Reason) -> None:
    """From another thread, as the lease keeper does."""
    Timer(0.01, stop.set, [reason]).start()


async def late_answer() -> str:
    await asyncio.sleep(0.05)
    return "done"


@pytest.mark.parametrize("reason", list(Reason))
def test_a_read_is_abandoned_for_any_reason(stop: Stop, reason: Reason) -> None:
    abandoned: list[bool] = []

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            abandoned.append(True)
            raise

    tell(stop, reason)
    with pytest.raises(Stopped) as stopped:
        asyncio.run(stop.wait_for(read()))
    assert stopped.value.reason is reason
    assert abandoned == [True]


@pytest.mark.parametrize("reason", list(Reason))
def test_no_read_begins_once_it_was_told(stop: Stop, reason: Reason) -> None:
    stop.set(reason)
    with pytest.raises(Stopped):
        asyncio.run(stop.wait_for(asyncio.sleep(3600)))


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.TAKEN_OVER, Reason.TIMEOUT, Reason.CANCELLED])
def test_an_action_under_way_is_waited_for(stop: Stop, reason: Reason) -> None:
    tell(stop, reason)
    assert asyncio.run(stop.wait_for(late_answer(), effect=True)) == "done"
    assert asyncio.run(stop.wait_for(late_answer(), effect=True)) == "done", "nor is one that begins then"
    with pytest.raises(Stopped):
        stop.check()


@pytest.mark.parametrize("reason", [Reason.ABANDONED, Reason.LEASE_LOST])
def test_unless_it_can_t_be_any_longer(stop: Stop, reason: Reason) -> None:
    stop.set(Reason.DRAINING)
    tell(stop, reason)
    with pytest.raises(Stopped):
        asyncio.run(stop.wait_for(asyncio.sleep(3600), effect=True))


def test_the_error_of_a_call_is_raised(stop: Stop) -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(stop.wait_for(fail()))


def test_the_run_goes_on_after_a_call_was_abandoned(stop: Stop) -> None:
    """What ends a run is written after the call was abandoned: that must not be abandoned as well."""

    async def run() -> str:
        with pytest.raises(Stopped):
            await stop.wait_for(asyncio.sleep(3600))
        return await late_answer()

    tell(stop, Reason.CANCELLED)
    assert asyncio.run(run()) == "done"


def test_a_run_that_is_over_can_be_told(stop: Stop) -> None:
    asyncio.run(stop.wait_for(late_answer()))
    stop.set(Reason.DRAINING)
    assert stop.reason is Reason.DRAINING


def test_a_pause_ends_when_told(stop: Stop) -> None:
    tell(stop, Reason.DRAINING)
    with pytest.raises(Stopped):
        asyncio.run(stop.sleep(60))


def test_a_lease_ends_by_time_alone() -> None:
    stop = Stop(time.monotonic() - 1)
    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.reason is Reason.LEASE_LOST


def test_each_boundary_is_progress(stop: Stop) -> None:
    stop.progressed = before = 0.0
    stop.check()
    assert stop.progressed > before


def test_what_wins_over_what() -> None:
    """A drain must not keep a human waiting, and a job that is to end needs none."""
    order = ["DRAINING", "TAKEN_OVER", "TIMEOUT", "CANCELLED", "ABANDONED", "LEASE_LOST"]
    assert [reason.name for reason in sorted(Reason)] == order
    assert set(ASKED) == set(Request)


@pytest.mark.parametrize("first", list(Reason))
@pytest.mark.parametrize("second", list(Reason))
def test_the_greater_reason_holds(stop: Stop, first: Reason, second: Reason) -> None:
    stop.set(first)
    stop.set(second)
    assert stop.reason is max(first, second)
