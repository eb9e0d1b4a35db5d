"""What is counted and timed for Prometheus: one registry per process, and what API and workers both tell.

A label has few values, all of them ours: never an id, a secret, or a name that a client, a model or a sandbox
chose. Durations are in seconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from shared.errors import JOB_CODES
from shared.states import JobStatus

# Not the library's own: Flower, which loads the workers' code, shows that one.
REGISTRY = CollectorRegistry()
CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
"""Buckets for what crosses the network and may take as long as its time-out."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody reads

JOBS_ENDED = Counter(
    "guiagent_jobs_ended_total",
    "Jobs that ended; those with the status `error` by its code.",
    ("status", "error_code"),
    registry=REGISTRY,
)
SANDBOX_SECONDS = Histogram(
    "guiagent_sandbox_seconds",
    "Calls to Lybic; the result is `ok`, or the class of the error.",
    ("call", "result"),
    buckets=CALL_SECONDS,
    registry=REGISTRY,
)
REDIS_FAILURES = Counter(
    "guiagent_redis_failures_total",
    "Messages, wakes, previews and counts of requests that Redis did not take; "
    "nothing is lost of it but time.",
    registry=REGISTRY,
)

# A series that begins with its first event hides that one from `rate` and `increase`.
for _code in JOB_CODES:
    JOBS_ENDED.labels(JobStatus.ERROR, _code)
for _status in (JobStatus.FINISHED, JobStatus.CANCELLED):
    JOBS_ENDED.labels(_status, "")


@contextmanager
def timed(histogram: Histogram, *labels: str) -> Iterator[None]:
    """Times the block; the last label is `ok`, or the class of the error that ended it."""
    began, result = time.perf_counter(), "ok"
    try:
        yield
    except BaseException as error:
        result = type(error).__name__
        raise
    finally:
        histogram.labels(*labels, result).observe(time.perf_counter() - began)
