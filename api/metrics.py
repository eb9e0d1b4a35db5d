"""What the API tells Prometheus: what its processes did, and the census of the whole system.

gunicorn may run several processes, of which any answers: they count in files that all of them can read
(`api.gunicorn_conf`).
"""

import os
import time

from flask import Flask, Response, g, request
from flask_openapi import APIBlueprint
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.answers import error_answers
from api.services import services
from shared.metrics import REGISTRY

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "guiagent_http_requests_total",
    "Requests; a route of `none` stands for what is no route.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
REQUEST_TIME = Histogram(
    "guiagent_http_request_seconds",
    "From the arrival of a request to the beginning of its answer.",
    ("route",),
    buckets=REQUEST_SECONDS,
    registry=REGISTRY,
)
SUBMITTED = Counter("guiagent_jobs_submitted_total", "Jobs made durable.", registry=REGISTRY)
SSE_CLIENTS = Gauge(
    "guiagent_sse_clients",
    "Clients that follow a stream of events now.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
EVENTS_SENT = Counter(
    "guiagent_sse_events_total", "Events sent to clients that follow a stream.", registry=REGISTRY
)

TEXT = {
    "description": "In Prometheus' text format.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}

routes = APIBlueprint(
    "metrics", __name__, abp_tags=[{"name": "Service"}], abp_responses=error_answers(400, 401, 403, 500)
)


@routes.get("/metrics", responses={200: TEXT})
def page() -> Response:
    """Tell Prometheus what goes on in this API and, by the database, in the whole system."""
    everything = CollectorRegistry()
    everything.register(services().census)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
    else:
        everything.register(REGISTRY)
    return Response(generate_latest(everything), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def install(app: Flask) -> None:
    """Counts and times every request."""

    @app.before_request
    def _begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def _count(response: Response) -> Response:
        rule = request.url_rule  # not the path, of which there are as many as clients think of
        method, route = (request.method, rule.rule) if rule else ("none", "none")
        REQUESTS.labels(method, route, response.status_code).inc()
        REQUEST_TIME.labels(route).observe(time.perf_counter() - g.began)
        return response
