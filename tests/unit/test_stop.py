"""A run is told to stop: which reason holds, and what becomes of the call under way."""

from concurrent.futures import Future
from threading import Timer

import pytest

from worker.stop import Reason, Stop, Stopped


def test_a_call_is_abandoned() -> None:
    stop, call = Stop(), Future[str]()
    Timer(0.01, stop.set, [Reason.CANCELLED]).start()
    with pytest.raises(Stopped) as stopped:
        stop.wait_for(call)
    assert stopped.value.reason is Reason.CANCELLED
    assert call.cancelled()


def test_draining_lets_a_call_end() -> None:
    stop, call = Stop(), Future[str]()
    stop.set(Reason.DRAINING)
    Timer(0.01, call.set_result, ["done"]).start()
    assert stop.wait_for(call) == "done"
    with pytest.raises(Stopped):
        stop.check()


def test_the_error_of_a_call_is_raised() -> None:
    call = Future[str]()
    call.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        Stop().wait_for(call)


def test_a_pause_ends_when_told() -> None:
    stop = Stop()
    Timer(0.01, stop.set, [Reason.DRAINING]).start()
    with pytest.raises(Stopped):
        stop.sleep(60)


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        (Reason.CANCELLED, Reason.TIMEOUT, Reason.CANCELLED),
        (Reason.DRAINING, Reason.CANCELLED, Reason.CANCELLED),
        (Reason.CANCELLED, Reason.LEASE_LOST, Reason.LEASE_LOST),
        (Reason.LEASE_LOST, Reason.CANCELLED, Reason.LEASE_LOST),
        (Reason.TIMEOUT, Reason.DRAINING, Reason.TIMEOUT),
    ],
)
def test_which_reason_holds(first: Reason, second: Reason, holds: Reason) -> None:
    stop = Stop()
    stop.set(first)
    stop.set(second)
    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.reason is holds
