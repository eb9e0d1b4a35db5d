"""After a failure calls are left out for a while, and then tried again."""

from shared.breaker import Breaker
from tests.conftest import wait_until


def test_closed_until_it_trips_and_after_its_time() -> None:
    breaker = Breaker(seconds=0.05)
    assert not breaker.is_open
    breaker.trip()
    assert breaker.is_open
    wait_until(lambda: not breaker.is_open, seconds=1)
