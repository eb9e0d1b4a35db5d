"""OpenAI's chat completions over the scripted model, and beside them the test aids under `/simulated`.

    POST   {base}/chat/completions    `base` is empty, `/v1` or `/api/v3`; no streaming
    GET    {base}/models

Test aids, which answer the loopback address only and ask for no key:

    GET    /simulated/requests        how many there were, and the shapes of the last ones
    POST   /simulated/faults          asks for a `standin.Fault`, on `chat` (the default) or `models`: `match`
                                      picks conversations that hold a text, `text` replaces the answer
    GET    /simulated/faults          the faults still to come; DELETE clears them
"""

import argparse
import secrets
import time
from collections import OrderedDict, deque
from typing import Any

from flask import Flask, request

from local.model.conversation import Turn, find_goal, next_step, read_turns, screen
from local.model.plans import Step
from local.standin import (
    Faults,
    Refused,
    drop_connection,
    install_errors,
    json_body,
    known_key,
    loopback_only,
    offered_key,
    pause,
)

Json = dict[str, Any]
NAME = "doubao-1-5-ui-tars-250428"
BASES = ("", "/v1", "/api/v3")
MOST_BYTES = 64 << 20
TOKENS_OF_AN_IMAGE = 1_200
SHAPES_KEPT = 20
COUNTS_KEPT = 1_000


def create_app(options: argparse.Namespace) -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    install_errors(app, _error)
    service = Service(options)
    for base in BASES:
        app.add_url_rule(f"{base}/chat/completions", f"chat {base}", service.chat, methods=["POST"])
        app.add_url_rule(f"{base}/models", f"models {base}", service.models)
    app.before_request(lambda: loopback_only() if request.path.startswith("/simulated/") else None)
    app.add_url_rule("/simulated/requests", "requests", service.requests)
    app.add_url_rule("/simulated/faults", "pending", service.faults.pending)
    app.add_url_rule("/simulated/faults", "ask", service.faults.ask, methods=["POST"])
    app.add_url_rule("/simulated/faults", "clear", service.faults.clear, methods=["DELETE"])
    return app


def _error(error: Refused) -> Json:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "code": error.code, "param": None}}


class Service:
    """Answers requests. What it keeps is for tests: counts of errors still to be shown, and shapes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.keys, self.latency = options.api_key, options.latency
        self.faults = Faults("chat", "models")
        self.count = 0
        self.shapes: deque[Json] = deque(maxlen=SHAPES_KEPT)
        self._troubles: OrderedDict[int, int] = OrderedDict()

    def models(self) -> Json:
        self._authorize()
        self.faults.strike("models", "before", "")
        return {
            "object": "list",
            "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "local"}],
        }

    def chat(self) -> Json:
        self._authorize()
        body = json_body()
        name, turns = _checked(body)
        self._note(name, turns)
        said = self._said(turns)
        self.faults.strike("chat", "after", _texts(turns))
        return _completion(name, turns, said)

    def requests(self) -> Json:
        return {"count": self.count, "last": list(self.shapes)}

    def _authorize(self) -> None:
        if not known_key(offered_key(), self.keys):
            raise Refused(401, "AuthenticationError", "the API key is missing or not known")

    def _note(self, name: str, turns: list[Turn]) -> None:
        self.count += 1
        shapes = [{"role": t.role, "characters": len(t.text), "images": len(t.images)} for t in turns]
        self.shapes.append({"time": time.time(), "model": name, "messages": shapes})

    def _said(self, turns: list[Turn]) -> str:
        pause(self.latency)
        instead = self.faults.strike("chat", "before", _texts(turns))
        if instead is not None:
            return instead
        step, answer = next_step(find_goal(turns), screen(turns))
        pause(step.delay)
        self._trouble(step, turns)
        return answer

    def _trouble(self, step: Step, turns: list[Turn]) -> None:
        """Shows the step's errors, so many in a row for one conversation; then it is answered."""
        if step.status is None and not step.drop:
            return
        key = hash(tuple((turn.role, turn.text) for turn in turns))
        shown = self._troubles.pop(key, 0)
        if shown >= step.times:
            return
        self._troubles[key] = shown + 1
        if len(self._troubles) > COUNTS_KEPT:
            self._troubles.popitem(last=False)
        if step.status is None:
            drop_connection()
        raise Refused(step.status, "scripted_error", "an error that the script asked for", step.retry_after)


def _texts(turns: list[Turn]) -> str:
    return "\n".join(turn.text for turn in turns if turn.role == "user")


def _checked(body: Any) -> tuple[str, list[Turn]]:
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise Refused(400, "invalid_request", "the body is an object and names a model")
    if body.get("stream"):
        raise Refused(400, "unsupported", "this stand-in does not stream")
    return body["model"], read_turns(body.get("messages"))


def _completion(name: str, turns: list[Turn], said: str) -> Json:
    asked = sum(_tokens(turn.text) + TOKENS_OF_AN_IMAGE * len(turn.images) for turn in turns)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": _tokens(said),
            "total_tokens": asked + _tokens(said),
        },
    }


def _tokens(text: str) -> int:
    """Roughly: four letters a token."""
    return len(text) // 4 + 1
