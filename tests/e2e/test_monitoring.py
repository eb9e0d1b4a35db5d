"""What people who run the service see of a task whose worker dies: in Prometheus, in a trace, in Flower."""

import os
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from local.demo import isolated
from local.processes import free_port
from local.servers import LOOPBACK
from local.stack import SCRIPTED_KEY, SIMULATED_KEY, Plan, Stack
from shared.queue import QUEUE, RUN_JOB
from tests.conftest import wait_until
from tests.e2e.conftest import System
from tests.exposition import families, value

pytestmark = pytest.mark.long

MARKER = "the-instruction-of-somebody"
KEYS = (SIMULATED_KEY, SCRIPTED_KEY)
WATCHER = ("watcher", "s3cret-of-the-watcher")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")


@dataclass
class Collector:
    """What an OpenTelemetry collector is sent."""

    received: list[bytes] = field(default_factory=list)

    def everything(self) -> list[tuple[str, Span]]:
        """All spans, each with the name of its service."""
        return [
            (str(attributes(resource.resource)["service.name"]), span)
            for request in map(ExportTraceServiceRequest.FromString, list(self.received))
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def spans(self, trace_id: str) -> list[tuple[str, Span]]:
        """Those of a trace."""
        return [(service, span) for service, span in self.everything() if span.trace_id.hex() == trace_id]

    def named(self, trace_id: str, name: str) -> list[Span]:
        return [span for _, span in self.spans(trace_id) if span.name == name]


def attributes(of: Span | Resource) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in of.attributes}


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, collector: Collector, *arguments: Any) -> None:
        self._collector = collector
        super().__init__(*arguments)

    def do_POST(self) -> None:
        self._collector.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and where it is."""
    one = Collector()
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(_Handler, one))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield one, f"http://{LOOPBACK}:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass
class Story:
    """A task whose first worker died in its second step, and what there was to see."""

    system: System
    collector: Collector
    trace_id: str
    task_id: str
    told: int
    """So many events were sent to a client, when it had ended."""
    dead: str
    """What the first worker showed before it died."""
    worker: str
    """What the second one showed when the task had ended."""
    api: str

    def flower(self, path: str, auth: tuple[str, str] | None = WATCHER) -> httpx.Response:
        url = f"http://{LOOPBACK}:{self.system.stack.plan.flower_port}"
        return httpx.get(url + path, auth=auth, follow_redirects=False)


@pytest.fixture(scope="module")
def story(collector: tuple[Collector, str]) -> Iterator[Story]:
    spans, endpoint = collector
    environment = {
        **isolated(os.environ),
        "AGENT_SETTLE_SECONDS": "0",
        "LEASE_SECONDS": "3",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "FLOWER_BASIC_AUTH": ":".join(WATCHER),
    }
    ports = {"port": free_port(), "flower_port": free_port(), "metrics_port": free_port()}
    stack = Stack(Plan(environment=environment, **ports), lambda *_: None)
    try:
        stack.start()
        with httpx.Client(base_url=stack.plan.url, timeout=30, trust_env=False) as http:
            yield tell(System(stack, http), spans)
    finally:
        stack.stop()


def tell(system: System, collector: Collector) -> Story:
    """Runs the task; the worker dies while the model thinks about the second step."""
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    lines = ("click(point='<point>5 5</point>')", "delay 2", "click(point='<point>6 6</point>')")
    body = {"instruction": "\n".join([MARKER, *(f"script> {line}" for line in lines)])}
    headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
    answer = system.http.post("/api/agent/task/submit", json=body, headers=headers)
    task_id, [worker] = answer.json()["task_id"], system.stack._workers
    wait_until(lambda: collector.named(trace_id, "step"))
    dead = worker_metrics(system)
    worker.child.kill()
    wait_until(lambda: system.stack.tend() or system.status(task_id)["status"] == "finished", 60)
    wait_until(lambda: collector.named(trace_id, "run"))
    wait_until(lambda: value(worker_metrics(system), "guiagent_worker_jobs") == 0)
    told = len(system.events(task_id))
    api = system.http.get("/metrics").text
    return Story(system, collector, trace_id, task_id, told, dead, worker_metrics(system), api)


def worker_metrics(system: System) -> str:
    return httpx.get(f"http://{LOOPBACK}:{system.stack.plan.metrics_port}/metrics").text


def test_prometheus_is_told_of_it(story: Story) -> None:
    assert value(story.dead, "guiagent_claims_total") == 1
    assert value(story.dead, "guiagent_recoveries_total") == 0
    assert value(story.dead, "guiagent_worker_jobs") == 1
    assert value(story.dead, "guiagent_job_wait_seconds_count") == 1
    shown = story.worker
    assert value(shown, "guiagent_worker_slots") == story.system.stack.plan.concurrency
    assert value(shown, "guiagent_worker_jobs") == 0
    assert value(shown, "guiagent_claims_total", by="sweep") == 1
    assert value(shown, "guiagent_recoveries_total") == 1
    assert value(shown, "guiagent_job_wait_seconds_count") == 0, "only a first claim ends the wait"
    assert value(shown, "guiagent_jobs_ended_total", status="finished") == 1
    assert (
        value(shown, "guiagent_steps_total", status="done")
        == value(shown, "guiagent_step_seconds_count")
        == 2
    )
    assert value(shown, "guiagent_step_seconds_sum") > 2
    assert value(shown, "guiagent_model_seconds_count", result="ok") == 2
    assert value(shown, "guiagent_model_seconds_sum", result="ok") > 2
    assert value(shown, "guiagent_sandbox_seconds_count", call="execute", result="ok") == 1
    assert value(shown, "guiagent_sandbox_seconds_count", call="screenshot", result="ok") >= 1
    used = story.system.status(story.task_id)["usage"]
    read = sum(value(one, "guiagent_model_tokens_total", direction="input") for one in (story.dead, shown))
    assert read == used["input_tokens"]
    assert value(shown, "process_resident_memory_bytes") > 0

    shown = story.api
    assert value(shown, "guiagent_jobs_submitted_total") == 1
    assert value(shown, "guiagent_sse_events_total") == story.told
    asked = {"method": "POST", "route": "/api/agent/task/submit", "status": "200"}
    assert value(shown, "guiagent_http_requests_total", **asked) == 1
    assert value(shown, "guiagent_database_up") == 1


def test_the_processes_show_what_docs_say(story: Story) -> None:
    rows = re.findall(r"^\| `(guiagent_\w+)` \|.*?\|.*?\| (API|workers|both) \|", DOCUMENT, re.MULTILINE)
    told = {who: {name for name, teller in rows if teller in (who, "both")} for who in ("API", "workers")}
    api, worker = families(story.api).keys(), families(story.worker).keys()
    assert {name for name in worker if name.startswith("guiagent_")} == told["workers"]
    assert {name for name in api if name.startswith("guiagent_")} <= told["API"]
    # gunicorn's processes tell of what has labels only when there is something to tell.
    assert told["API"] - api == {"guiagent_sandbox_seconds"}


def test_one_trace_leads_from_the_request_over_both_runs(story: Story) -> None:
    spans = story.collector.spans(story.trace_id)
    by_id = {span.span_id: span for _, span in spans}
    [request] = story.collector.named(story.trace_id, "POST /api/agent/task/submit")
    [submit] = story.collector.named(story.trace_id, "submit")
    assert request.parent_span_id not in by_id, "the caller's own"
    assert attributes(request)["http.response.status_code"] == 200
    assert submit.parent_span_id == request.span_id

    [run] = story.collector.named(story.trace_id, "run")  # that of the killed worker never ended
    assert run.parent_span_id == submit.span_id
    assert attributes(run) == {
        "guiagent.job_id": story.task_id,
        "guiagent.run": 2,
        "guiagent.end": "Finished",
    }
    steps = sorted(story.collector.named(story.trace_id, "step"), key=lambda step: step.start_time_unix_nano)
    assert [attributes(step) for step in steps] == [
        {"guiagent.step": number, "guiagent.status": "done"} for number in (1, 2, 3)
    ]
    assert [step.parent_span_id == run.span_id for step in steps] == [False, True, True]
    assert steps[0].parent_span_id not in by_id
    for step in steps:
        within = [span.name for _, span in spans if span.parent_span_id == step.span_id]
        assert within == (["model", "sandbox execute"] if step is not steps[-1] else ["model"])
    assert {service for service, span in spans if span.name in ("run", "step")} == {"guiagent-worker"}
    assert {service for service, span in spans if span.name in ("submit", request.name)} == {"guiagent-api"}


def test_no_span_tells_a_secret_or_a_text(story: Story) -> None:
    everything = b"".join(story.collector.received)
    assert story.task_id.encode() in everything
    for word in (MARKER, "point", "://", *KEYS):
        assert word.encode() not in everything, word


def test_each_task_of_a_batch_has_a_trace_of_its_own(story: Story) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    body = {"tasks": [{"instruction": f"script> wait(t=0.{number})"} for number in (1, 2)]}
    headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
    story.system.http.post("/api/agent/task/batch", json=body, headers=headers).raise_for_status()

    def linked() -> list[str]:
        return [
            span.trace_id.hex()
            for _, span in story.collector.everything()
            if trace_id in {link.trace_id.hex() for link in span.links}
        ]

    wait_until(lambda: len(linked()) == 2)
    one, other = linked()
    assert len({one, other, trace_id}) == 3
    wait_until(lambda: story.collector.named(one, "run") and story.collector.named(other, "run"))


# --- Flower ---------------------------------------------------------------------------------------------


def test_flower_lets_nobody_in_without_the_password(story: Story) -> None:
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length"):
        assert story.flower(path, auth=None).status_code == 401, path
        assert story.flower(path, auth=("watcher", "guessed")).status_code == 401, path
    assert story.flower("/healthcheck", auth=None).text == "OK"


def test_flower_shows_our_queue_and_the_task_by_its_name_and_nothing_else(story: Story) -> None:
    workers = wait_until(lambda: story.flower("/api/workers?refresh=true").json())
    [(worker, known)] = ((name, one) for name, one in workers.items() if one.get("registered"))
    assert worker.startswith("worker1@")
    assert [queue["name"] for queue in known["active_queues"]] == [QUEUE]
    assert known["registered"] == [RUN_JOB]

    tasks = wait_until(
        lambda: {
            k: v for k, v in story.flower("/api/tasks").json().items() if story.task_id in str(v["args"])
        }
    )
    [message] = tasks.values()
    assert message["name"] == RUN_JOB
    assert message["args"] == f"('{story.task_id}',)"
    assert message["kwargs"] == "{}"
    lengths = story.flower("/api/queues/length").json()["active_queues"]
    assert QUEUE in {queue["name"] for queue in lengths}

    pages = [
        "/",
        "/workers",
        "/tasks",
        "/broker",
        f"/task/{message['uuid']}",
        f"/worker/{worker}",
        "/metrics",
    ]
    pages += [f"/api/task/info/{message['uuid']}", "/api/task/types", "/api/workers", "/api/tasks"]
    shown = {page: story.flower(page) for page in pages}
    assert {page for page, answer in shown.items() if answer.status_code != 200} == set()
    for page, answer in shown.items():
        for word in (MARKER, "point=", WATCHER[1], *KEYS, "guiagent_"):
            assert word not in answer.text.replace(RUN_JOB, ""), (page, word)
