"""The client against a server that does whatever servers and proxies do; for threads and for asyncio."""

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import client
from client import (
    ApiError,
    AsyncClient,
    BadAnswer,
    Client,
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    InvalidSetting,
    NotFound,
    SandboxFailed,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WaitTimeout,
    calls,
    following,
)
from client.exits import ExitCode
from client.text import one_line, plain, safe_json
from local.processes import free_port
from tests.scripted import Answer, Script, answer, event, hang_up, refused, scripted, stream

KEY = "lgk_very-secret"


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as one:
        yield one


SUBMITTED = answer({"success": True, "task_id": "t-1", "message": "ok"})


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(following, "FIRST_LOOK_SECONDS", 0.001)


Ask = Callable[..., Any]
"""What a method of the client gives; a list, if it is an iterator."""


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, script: Script) -> Ask:
    def waiting(method: str, *arguments: Any, **options: Any) -> Any:
        with Client(script.url, api_key=KEY, **settings(options)) as one:
            result = getattr(one, method)(*arguments, **options)
            return list(result) if isinstance(result, Iterator) else result

    async def asynchronous(method: str, *arguments: Any, **options: Any) -> Any:
        async with AsyncClient(script.url, api_key=KEY, **settings(options)) as one:
            result = getattr(one, method)(*arguments, **options)
            if isinstance(result, AsyncIterator):
                return [item async for item in result]
            return await result

    def settings(options: dict[str, Any]) -> dict[str, Any]:
        return {"retry_seconds": options.pop("retry_seconds", 20)}

    if request.param == "sync":
        return waiting
    return lambda *arguments, **options: asyncio.run(asynchronous(*arguments, **options))


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", InvalidRequest),
        (401, "unauthenticated", Unauthorized),
        (403, "forbidden", Forbidden),
        (404, "task_not_found", NotFound),
        (405, "method_not_allowed", InvalidRequest),
        (409, "task_conflict", Conflict),
        (413, "request_entity_too_large", InvalidRequest),
        (418, "new_in_a_later_version", ApiError),
        (429, "rate_limited", TooManyRequests),
        (500, "internal", ApiError),
        (502, "sandbox_error", SandboxFailed),
        (503, "storage_unavailable", Unavailable),
    ],
)
def test_each_refusal_is_an_error_of_its_own(
    status: int, code: str, kind: type[ApiError], script: Script, ask: Ask
) -> None:
    script.answers = [refused(status, code, "so \x1b[2Jit\u202e is")]
    with pytest.raises(ApiError) as raised:
        ask("status", "t", retry_seconds=0)
    error = raised.value
    assert type(error) is kind
    assert (error.code, error.status, error.details, error.request_id) == (
        code,
        status,
        {"field": "x"},
        "r-1",
    )
    assert str(error) == error.message == "so \N{REPLACEMENT CHARACTER}[2Jit\N{REPLACEMENT CHARACTER} is"


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        (answer("<h1>Bad\nGateway</h1>", 502, "text/html"), Unavailable, "http_502"),
        (answer("", 403), Forbidden, "http_403"),
        (answer("[1]", 404), NotFound, "http_404"),
        (answer('{"error": {"code": 1}}', 500), ApiError, "http_500"),
        (answer("<h1>It works!</h1>", 200, "text/html"), BadAnswer, "bad_answer"),
        (answer('{"success": true}'), BadAnswer, "bad_answer"),
        (answer("{\xff"), BadAnswer, "bad_answer"),
        (answer("", 302, Location="https://elsewhere/"), BadAnswer, "bad_answer"),
        (answer("not gzip", Content_Encoding="gzip"), BadAnswer, "bad_answer"),
    ],
)
def test_what_is_no_answer_of_this_api_is_said_to_be_none(
    given: Answer, kind: type[ClientError], code: str, script: Script, ask: Ask
) -> None:
    script.answers = [given]
    with pytest.raises(ClientError) as raised:
        ask("status", "t", retry_seconds=0)
    assert (type(raised.value), raised.value.code) == (kind, code)
    assert "\n" not in raised.value.message
    with pytest.raises(kind):
        ask("events", "t", retry_seconds=0)


def test_a_server_that_is_not_there(ask: Ask, script: Script) -> None:
    script.url = f"http://user:password@127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionFailed) as raised:
        ask("submit", "x", retry_seconds=0.1)
    assert raised.value.code == "connection_failed"
    assert not raised.value.sent
    assert "127.0.0.1" in raised.value.message
    assert "password" not in raised.value.message


@pytest.mark.parametrize("url", ["localhost:5000", "ftp://localhost", "http://", "http://x:port", "nonsense"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InvalidSetting):
        Client(url)


def test_keys_are_sent_and_not_shown(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYBIC_GUIAGENT_URL", script.url + "/")
    monkeypatch.setenv("LYBIC_GUIAGENT_API_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # does not get what is for this machine
    script.answers = [SUBMITTED]
    with Client() as one:
        assert one.url == script.url
        one.submit("x", ark_apikey="ark-secret")
        assert KEY not in repr(one) + repr(vars(one))
    assert script.sent("authorization") == [f"Bearer {KEY}"]
    assert "ark-secret" not in repr(calls.submit("x", ark_apikey="ark-secret"))
    with pytest.raises(InvalidSetting) as raised:
        Client(api_key=f"{KEY}\n")
    assert KEY not in str(raised.value)


# --- trying again ---------------------------------------------------------------------------------------


def test_a_submission_is_repeated_as_the_same_one(script: Script, ask: Ask) -> None:
    script.answers = [
        hang_up,
        refused(429, "too_many_active_tasks", Retry_After="0"),
        refused(503, "storage_unavailable"),
        answer("<h1>Bad Gateway</h1>", 502, "text/html"),
        SUBMITTED,
    ]
    assert ask("submit", "Open notepad", max_steps=3, sandbox_id=None) == "t-1"
    assert [one.body for one in script.requests] == [{"instruction": "Open notepad", "max_steps": 3}] * 5
    assert len(set(script.sent("idempotency-key"))) == 1
    ask("submit", "Open notepad", idempotency_key="order-1")
    ask("submit", "Open notepad")
    *_, first, given, other = script.sent("idempotency-key")
    assert given == "order-1"
    assert other not in {first, given, None}


@pytest.mark.parametrize("method", ["resume", "create_sandbox"])
def test_what_might_happen_twice_is_not_repeated(method: str, script: Script, ask: Ask) -> None:
    for once in (hang_up, refused(503, "storage_unavailable")):
        script.answers, before = [once], len(script.requests)
        with pytest.raises((ConnectionFailed, Unavailable)):
            ask(method, "t")
        assert len(script.requests) == before + 1


def test_a_long_pause_is_not_waited_for(script: Script, ask: Ask) -> None:
    script.answers = [refused(429, "rate_limited", Retry_After="3600")]
    with pytest.raises(TooManyRequests) as raised:
        ask("info")
    assert raised.value.retry_after == 3600
    assert len(script.requests) == 1


def test_a_refusal_is_final(script: Script, ask: Ask) -> None:
    script.answers = [refused(409, "idempotency_conflict")]
    with pytest.raises(Conflict):
        ask("submit", "x")
    assert len(script.requests) == 1


# --- streams --------------------------------------------------------------------------------------------

TEXT = "雪 \u2028 \x85 \r\n end"


def test_a_stream_that_breaks_goes_on_where_it_was(script: Script, ask: Ask) -> None:
    whole = event(1, "status", status="running") + b": keep-alive\n\n" + event(2, content=TEXT)
    bytewise = [whole[place : place + 1] for place in range(len(whole))]
    script.answers = [
        stream(*bytewise, event(3)[:-1]),  # cut off before it is whole
        hang_up,
        refused(503, "storage_unavailable"),
        stream(),
        stream(event(2), event(3), event(4)),  # more than was asked for
        stream(
            b"retry: 5\n\n", event(5, "human_intervention"), event(6, "finished", output="done"), hold=True
        ),
    ]
    found = ask("events", "t")
    assert [one.seq for one in found] == [1, 2, 3, 4, 5, 6]
    assert found[1].content == TEXT
    assert (found[-1].type, found[-1].output, found[-1].terminal) == ("finished", "done", True)
    assert script.sent("last-event-id") == ["0", "2", "2", "2", "2", "4"]


def test_after_the_last_event_there_are_none(script: Script, ask: Ask) -> None:
    script.answers = [answer("", 204)]
    assert ask("events", "t", after=9) == []
    assert script.sent("last-event-id") == ["9"]


@pytest.mark.parametrize("data", ["{", "[]", '{"type": "finished"}', "x" * 5])
def test_what_is_no_event_ends_it(data: str, script: Script, ask: Ask) -> None:
    script.answers = [stream(event(1), f"id: 2\ndata: {data}\n\n".encode())]
    with pytest.raises(BadAnswer, match="after event 1"):
        ask("events", "t")


def test_a_server_that_stays_away_ends_it(script: Script, ask: Ask) -> None:
    script.answers = [stream(event(1)), hang_up]
    with pytest.raises(ConnectionFailed):
        ask("events", "t", retry_seconds=0.05)


def test_patience_begins_anew_when_a_stream_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now[0]))
    follower = following.Follower("t", 0, following.Patience(10))
    lost = ConnectionFailed("lost", sent=True)
    for second in 0, 5, 9:
        now[0] = second
        assert follower.patience.pause(lost) <= 5
    now[0] = 20
    with pytest.raises(ConnectionFailed):
        follower.patience.pause(lost)
    follower.attached(httpx.Response(200, headers={"Content-Type": "text/event-stream"}))
    assert follower.patience.pause(lost) <= 5


def test_run_submits_once_and_follows(script: Script, ask: Ask) -> None:
    script.answers = [hang_up, SUBMITTED, stream(event(1)), stream(event(2, "cancelled"))]
    assert [one.type for one in ask("run", "Open notepad", priority=1)] == ["thinking", "cancelled"]
    assert [one.path.rpartition("/")[2] for one in script.requests] == [
        "submit",
        "submit",
        "events",
        "events",
    ]


# --- answers --------------------------------------------------------------------------------------------


def task(status: str = "finished", **more: Any) -> dict[str, Any]:
    return {"success": True, "task_id": "t", "status": status, **more}


def test_lists_are_read_page_by_page(script: Script, ask: Ask) -> None:
    pages = [
        answer({"tasks": [task()] * 2, "count": 2, "total": 5, "next_cursor": "a"}),
        answer({"tasks": [task()] * 2, "count": 2, "total": 5, "next_cursor": "b"}),
    ]
    script.answers = list(pages)
    found = ask(
        "tasks", status=["error", "finished"], metadata={"run": 7, "dry": True, "who": None}, q="50%", limit=4
    )
    assert len(found) == 4
    first, second = (request.path for request in script.requests)
    assert "metadata=run%3A7&metadata=dry%3Atrue&metadata=who%3Anull&status=error%2Cfinished" in first
    assert "limit=4" in first
    assert ("limit=2" in second, second.endswith("q=50%25&cursor=a")) == (True, True)
    step = {"number": 1, "run": 1, "status": "done"}
    script.answers = [
        answer({"steps": [step], "next_after": 1}),
        answer({"steps": [step], "next_after": None}),
    ]
    assert [one.number for one in ask("steps", "t/..?")] == [1, 1]
    assert script.requests[-1].path == "/api/agent/task/t%2F..%3F/steps?after=1&limit=500"


def test_an_older_client_reads_a_newer_server(script: Script, ask: Ask) -> None:
    body = task("postponed", created_at="2026-11-21T15:36:48.494Z", mood={"good": [1]}, usage={"joules": 3})
    script.answers = [answer(body)]
    found = ask("status", "t")
    assert (found.status, found.ended) == ("postponed", False)
    assert found.mood == {"good": [1]}
    assert found.data() == body
    with pytest.raises(ValueError, match="frozen"):
        found.status = "finished"


def test_waiting_ends_with_the_task_or_in_time(script: Script, ask: Ask) -> None:
    script.answers = [
        answer(task("pending")),
        hang_up,
        answer(task("human_intervention")),
        answer(task("error")),
    ]
    assert ask("wait", "t").status == "error"
    assert "llm_context" not in script.requests[0].path
    script.answers = [answer(task("running")), answer(task("human_intervention"))]
    assert ask("wait", "t", until_paused=True).status == "human_intervention"
    with pytest.raises(WaitTimeout, match="goes on"):
        ask("wait", "t", timeout=0)


def test_a_field_that_there_is_not_is_refused_here() -> None:
    """The server would ignore it."""
    with Client() as one, pytest.raises(TypeError, match="'max_step'"):
        one.submit("x", max_step=3)  # type: ignore[call-arg]


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters) for name, method in methods if name[0] != "_"
        }

    assert {**shape(Client), "aclose": ["self"]} == {**shape(AsyncClient), "close": ["self"]}
    assert shape(Client)["status"] == ["self", "task_id", "fields"]
    assert inspect.getdoc(Client.status) == inspect.getdoc(AsyncClient.status)


def test_all_names_can_be_imported() -> None:
    assert [name for name in client.__all__ if not hasattr(client, name)] == []
    assert (Path(client.__file__).parent / "py.typed").is_file()


# --- text -----------------------------------------------------------------------------------------------


def test_text_can_do_nothing_to_a_terminal() -> None:
    hostile = "\x1b]0;title\x07 \x9b31m \u202egnp \ud800 \x7f\r"
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\ud800]", plain(hostile))
    assert plain("雪\té\n") == "雪\té\n"
    assert one_line(" a \n b\x1b", 3) == "a …"
    document = json.dumps({"text": hostile}, ensure_ascii=False)
    assert json.loads(safe_json(document)) == {"text": hostile}
    assert safe_json(document).isprintable()


def test_the_exit_codes_are_as_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]
