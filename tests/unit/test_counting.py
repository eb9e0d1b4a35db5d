"""What is counted and timed where it happens, and that traces cost nothing while they are off."""

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram

from shared import tracing
from shared.errors import ModelUnavailable, OutcomeUnknown
from shared.metrics import REGISTRY, timed
from shared.settings import TracingSettings
from shared.states import StepStatus
from worker.loop import Failed, Finished, NeedsHuman
from worker.metrics import StepWatch, count_end
from worker.retries import retrying
from worker.stop import Reason


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


@pytest.mark.parametrize(
    ("outcome", "name", "labels"),
    [
        (Finished("done"), "guiagent_jobs_ended_total", {"status": "finished", "error_code": ""}),
        (
            Failed("max_steps", ""),
            "guiagent_jobs_ended_total",
            {"status": "error", "error_code": "max_steps"},
        ),
        (Reason.TIMEOUT, "guiagent_jobs_ended_total", {"status": "error", "error_code": "timeout"}),
        (Reason.CANCELLED, "guiagent_jobs_ended_total", {"status": "cancelled", "error_code": ""}),
        (NeedsHuman("?"), "guiagent_human_calls_total", {}),
        (Reason.TAKEN_OVER, "guiagent_takeovers_total", {}),
        (Reason.DRAINING, "guiagent_given_back_total", {}),
        (Reason.ABANDONED, "guiagent_given_back_total", {}),
    ],
)
def test_every_end_of_a_run_is_counted_once(outcome: Any, name: str, labels: dict[str, str]) -> None:
    ended = ("jobs_ended", "human_calls", "takeovers", "given_back")
    ends = {f"guiagent_{name}_total" for name in ended}

    def everything() -> float:
        samples = (sample for family in REGISTRY.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name in ends)

    before, whole = counted(name, **labels), everything()
    count_end(outcome)
    assert (counted(name, **labels) - before, everything() - whole) == (1, 1)


def test_a_call_is_timed_by_what_came_of_it() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("calls", "Calls.", ("call", "result"), registry=registry)
    with timed(histogram, "execute"):
        pass
    with pytest.raises(OutcomeUnknown), timed(histogram, "execute"):
        raise OutcomeUnknown("lost")
    with pytest.raises(asyncio.CancelledError), timed(histogram, "execute"):
        raise asyncio.CancelledError
    for result in ("ok", "OutcomeUnknown", "CancelledError"):
        assert registry.get_sample_value("calls_count", {"call": "execute", "result": result}) == 1


def test_a_retry_is_counted_and_a_first_try_is_not() -> None:
    answers = iter(
        [ModelUnavailable("busy", retry_after=0), ModelUnavailable("busy", retry_after=0), "hello"]
    )

    async def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    before = counted("guiagent_retries_total", error="ModelUnavailable")
    assert asyncio.run(retrying(call)) == "hello"
    assert counted("guiagent_retries_total", error="ModelUnavailable") - before == 2


def test_a_step_counts_when_its_outcome_is_recorded_and_else_not() -> None:
    def steps() -> tuple[float, float]:
        return counted("guiagent_steps_total", status="unusable"), counted("guiagent_step_seconds_count")

    before = steps()
    with StepWatch() as watch:
        watch.begin(1)
        watch.over(StepStatus.UNUSABLE)
        watch.begin(2)  # and then the run ends
    assert [after - former for after, former in zip(steps(), before, strict=True)] == [1, 1]


# --- traces ---------------------------------------------------------------------------------------------

OFF = """
import sys
from shared import tracing
from shared.settings import TracingSettings
tracing.configure(TracingSettings(), service="test")
with tracing.span("run", {"guiagent.run": 1}):
    tracing.annotate({"guiagent.end": "Finished"})
    assert tracing.traceparent() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_traces_that_are_off_load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    subprocess.run([sys.executable, "-c", OFF], check=True)


def test_traces_without_their_packages_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        tracing.configure(TracingSettings(endpoint="http://127.0.0.1:9"), service="test")
    assert "pip install 'lybic-guiagent[tracing]'" in caplog.text
    assert not tracing.enabled()
