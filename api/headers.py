"""What every answer carries: a request id, and what keeps browsers from doing harm with it."""

import re
import uuid

from flask import Flask, Response, g, request

from shared.logging import log_context

SENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
POLICY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def install(app: Flask) -> None:
    """Names each request, as its sender did if that can be logged safely."""

    @app.before_request
    def _name() -> None:
        sent = request.headers.get("X-Request-Id", "")
        g.request_id = sent if SENT_ID.fullmatch(sent) else uuid.uuid4().hex
        g.logged = log_context(request_id=g.request_id)
        g.logged.__enter__()

    @app.after_request
    def _add(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        for name, value in POLICY.items():
            response.headers.setdefault(name, value)
        return response

    @app.teardown_request
    def _forget(_: BaseException | None) -> None:
        if "logged" in g:
            g.logged.__exit__(None, None, None)
