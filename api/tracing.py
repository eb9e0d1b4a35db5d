"""The span of each request, within the trace of whoever sent it."""

from flask import Flask, Response, g, request

from api.auth import METRICS, OPEN
from shared import tracing


def install(app: Flask) -> None:
    """Traces every request, but what is asked again and again by machines; nothing while traces are off."""
    if not tracing.enabled():
        return

    @app.before_request
    def _begin() -> None:
        if request.url_rule is None or request.endpoint in OPEN | {METRICS}:
            return
        method, route = request.method, request.url_rule.rule
        named = {"http.request.method": method, "http.route": route}
        g.traced = tracing.span(f"{method} {route}", named, parent=request.headers.get("traceparent"))
        g.traced.__enter__()

    @app.after_request
    def _tell(response: Response) -> Response:
        if "traced" in g:
            tracing.annotate({"http.response.status_code": response.status_code})
        return response

    @app.teardown_request
    def _end(_: BaseException | None) -> None:
        if "traced" in g:
            g.traced.__exit__(None, None, None)
