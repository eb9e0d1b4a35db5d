"""What a worker tells Prometheus, at a port of its own."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector, start_http_server

from shared import tracing
from shared.errors import ConfigurationError
from shared.metrics import CALL_SECONDS, JOBS_ENDED, REGISTRY
from shared.models import Job
from shared.settings import MetricsSettings
from shared.states import JobStatus, StepStatus
from worker.loop import Failed, Finished, NeedsHuman, Outcome
from worker.stop import Reason

WAIT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
STEP_SECONDS = (0.25, 0.5, 1, 2, 4, 6, 8, 10, 15, 20, 30, 60, 120, 300)

SLOTS = Gauge(
    "guiagent_worker_slots",
    "How many jobs this worker runs at a time; 0 once it goes down.",
    registry=REGISTRY,
)
RUNNING = Gauge("guiagent_worker_jobs", "Jobs that this worker runs now.", registry=REGISTRY)
CLAIMS = Counter(
    "guiagent_claims_total",
    "Jobs taken for a run, by their `message` or by a `sweep` of what nobody held.",
    ("by",),
    registry=REGISTRY,
)
RECOVERIES = Counter(
    "guiagent_recoveries_total",
    "Jobs taken from a run that had lost its lease: its worker died, froze, or did not reach PostgreSQL.",
    registry=REGISTRY,
)
WAITED = Histogram(
    "guiagent_job_wait_seconds",
    "From the submission of a job to its first claim.",
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
LEASES_LOST = Counter(
    "guiagent_leases_lost_total",
    "Runs that stopped since another run owned their job, or might by then.",
    registry=REGISTRY,
)
GIVEN_BACK = Counter(
    "guiagent_given_back_total", "Runs that a worker on its way down gave back.", registry=REGISTRY
)
HUMAN_CALLS = Counter(
    "guiagent_human_calls_total", "Runs that ended since the model asked for a human.", registry=REGISTRY
)
TAKEOVERS = Counter(
    "guiagent_takeovers_total", "Runs that ended since a human took the job over.", registry=REGISTRY
)
STEPS = Counter(
    "guiagent_steps_total",
    "Steps with an outcome; those that were interrupted have none.",
    ("status",),
    registry=REGISTRY,
)
STEP_TIME = Histogram(
    "guiagent_step_seconds",
    "A step, from asking the model to its recorded outcome.",
    buckets=STEP_SECONDS,
    registry=REGISTRY,
)
MODEL_TIME = Histogram(
    "guiagent_model_seconds",
    "Calls of the model, each try for itself; the result is `ok`, or the class of the error.",
    ("result",),
    buckets=CALL_SECONDS,
    registry=REGISTRY,
)
TOKENS = Counter(
    "guiagent_model_tokens_total",
    "Tokens that the model read (`input`) and wrote (`output`).",
    ("direction",),
    registry=REGISTRY,
)
RETRIES = Counter(
    "guiagent_retries_total",
    "Calls of the model or of Lybic that are made once more, after an error of this class.",
    ("error",),
    registry=REGISTRY,
)

for _status in set(StepStatus) - {StepStatus.INTENDED, StepStatus.INTERRUPTED}:
    STEPS.labels(_status)


def serve(settings: MetricsSettings) -> None:
    """Shows the metrics over HTTP until the process ends, if that is wanted. Raises `ConfigurationError`."""
    if settings.worker_port == 0:
        return
    try:
        start_http_server(settings.worker_port, settings.worker_host, REGISTRY)
    except OSError as error:
        address = f"WORKER_METRICS_HOST {settings.worker_host}, WORKER_METRICS_PORT {settings.worker_port}"
        raise ConfigurationError(f"metrics can't be shown at {address}: {error.strerror}") from None
    ProcessCollector(registry=REGISTRY)


def count_claims(claimed: Sequence[Job], by: str) -> None:
    """Counts jobs that were taken, and how long the new ones had waited, by the database's clock."""
    CLAIMS.labels(by).inc(len(claimed))
    RECOVERIES.inc(sum(job.recovered for job in claimed))
    for job in claimed:
        if job.run == 1 and job.started_at is not None:
            WAITED.observe((job.started_at - job.created_at).total_seconds())


def count_end(outcome: Outcome | Reason) -> None:
    """Counts how a run ended."""
    match outcome:
        case Finished():
            JOBS_ENDED.labels(JobStatus.FINISHED, "").inc()
        case Failed(code):
            JOBS_ENDED.labels(JobStatus.ERROR, code).inc()
        case NeedsHuman():
            HUMAN_CALLS.inc()
        case Reason.TAKEN_OVER:
            TAKEOVERS.inc()
        case Reason.CANCELLED:
            JOBS_ENDED.labels(JobStatus.CANCELLED, "").inc()
        case Reason.TIMEOUT:
            JOBS_ENDED.labels(JobStatus.ERROR, "timeout").inc()
        case _:
            GIVEN_BACK.inc()


class StepWatch(ExitStack):
    """Times and traces the steps of one run. Left with an error, it ends the span of the step under way."""

    def begin(self, number: int) -> None:
        """The model is about to be asked."""
        self._began = time.perf_counter()
        self.enter_context(tracing.span("step", {"guiagent.step": number}))

    def over(self, status: StepStatus) -> None:
        """The outcome is recorded."""
        STEPS.labels(status).inc()
        STEP_TIME.observe(time.perf_counter() - self._began)
        tracing.annotate({"guiagent.status": status})
        self.close()
