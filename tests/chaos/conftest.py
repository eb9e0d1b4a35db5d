"""One arena per test process, emptied before each scenario and healed and judged after it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.chaos.arena import Arena, Conditions
from tests.chaos.clients import Clients

QUICK = {"LEASE_SECONDS": "2", "SWEEP_SECONDS": "0.3", "MODEL_IMAGE": "url", "WEB_CONCURRENCY": "1"}
# Not TRUNCATE: its locks on whole tables wait for what workers just read, and that may wait for them.
EMPTY = "DELETE FROM jobs"

Scenario = Callable[[], AbstractContextManager[Clients]]


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """Two workers, and leases that are over soon."""
    with Arena(Conditions(workers=2, environment=QUICK)) as arena:
        yield arena


@pytest.fixture
def scenario(arena: Arena) -> Scenario:
    """A block in which anything may die. At its end all is healed, all jobs end, and all rules must hold."""

    @contextmanager
    def block() -> Iterator[Clients]:
        arena.heal()
        arena.query(EMPTY)
        clients = Clients(arena)
        try:
            yield clients
            arena.heal()
            clients.wait_until_all_ended()
            report = clients.verdict()
            assert not report.violations, "\n".join([*clients.notes, str(report)])
        finally:
            clients.close()

    return block
