"""A run is told to stop: which reason holds, and what becomes of the call under way."""

import math
import time
from concurrent.futures import Future
from threading import Timer

import pytest

from worker.stop import Reason, Stop, Stopped


@pytest.fixture
def stop() -> Stop:
    return Stop(math.inf)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_read_is_abandoned_for_any_reason(stop: Stop, reason: Reason) -> None:
    call = Future[str]()
    Timer(0.01, stop.set, [reason]).start()
    with pytest.raises(Stopped) as stopped:
        stop.wait_for(call)
    assert stopped.value.reason is reason
    assert call.cancelled()


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.TIMEOUT, Reason.CANCELLED])
def test_an_action_under_way_is_waited_for(stop: Stop, reason: Reason) -> None:
    call = Future[str]()
    stop.set(reason)
    Timer(0.01, call.set_result, ["done"]).start()
    assert stop.wait_for(call, effect=True) == "done"
    with pytest.raises(Stopped):
        stop.check()


@pytest.mark.parametrize("reason", [Reason.ABANDONED, Reason.LEASE_LOST])
def test_unless_it_can_t_be_any_longer(stop: Stop, reason: Reason) -> None:
    call = Future[str]()
    stop.set(Reason.DRAINING)
    Timer(0.01, stop.set, [reason]).start()
    with pytest.raises(Stopped):
        stop.wait_for(call, effect=True)


def test_the_error_of_a_call_is_raised(stop: Stop) -> None:
    call = Future[str]()
    call.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        stop.wait_for(call)


def test_a_pause_ends_when_told(stop: Stop) -> None:
    Timer(0.01, stop.set, [Reason.DRAINING]).start()
    with pytest.raises(Stopped):
        stop.sleep(60)


def test_a_lease_ends_by_time_alone() -> None:
    stop = Stop(time.monotonic() - 1)
    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.reason is Reason.LEASE_LOST


def test_each_boundary_is_progress(stop: Stop) -> None:
    stop.progressed = before = 0.0
    stop.check()
    assert stop.progressed > before


@pytest.mark.parametrize("first", list(Reason))
@pytest.mark.parametrize("second", list(Reason))
def test_the_greater_reason_holds(stop: Stop, first: Reason, second: Reason) -> None:
    stop.set(first)
    stop.set(second)
    assert stop.reason is max(first, second)
