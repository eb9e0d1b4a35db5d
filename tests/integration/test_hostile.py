"""Hostile requests: whatever is sent, the answer is the contract's, and never a 5xx."""

import json
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.headers import POLICY
from api.services import LARGEST_BODY_BYTES
from shared.settings import ApiSettings, Settings
from tests.integration.conftest import API, GOOD, SUBMIT, UNKNOWN, Serve, error, submit

BATCH, RUN, CANCEL = f"{API}/task/batch", f"{API}/run", f"{API}/cancel"
SANDBOXES = "/api/sandbox"
CREATE = f"{SANDBOXES}/create"
RESUME = f"{API}/task/{UNKNOWN}/resume"

AUTHENTICATION = {"api_key": "sk-planted", "org_id": "org", "api_endpoint": "http://127.0.0.1:9"}
TASK = {
    "instruction": "Open notepad",
    "sandbox_id": "box",
    "user_system_prompt": "Be brief.",
    "continue_context": True,
    "task_id": UNKNOWN,
    "authentication": AUTHENTICATION,
    "ark_apikey": "planted",
    "max_steps": 5,
    "timeout_seconds": 60,
    "model": {"name": "m", "base_url": "http://127.0.0.1:9/v1", "dialect": "doubao"},
    "language": "en",
    "priority": 3,
    "metadata": {"team": "a"},
    "keep_sandbox": True,
    "webhook_url": "https://hooks.example.com/planted",
    "webhook_secret": "whsec_planted/planted/planted/planted",
    "unknown": "ignored",
}
SANDBOX = {
    "name": "n",
    "shape": "s",
    "maxLifeSeconds": 600,
    "projectId": "p",
    "authentication": AUTHENTICATION,
}
POSTS: list[tuple[str, dict[str, Any]]] = [
    (SUBMIT, TASK),
    (RUN, TASK),
    (BATCH, {"tasks": [TASK]}),
    (CANCEL, {"task_id": UNKNOWN, "authentication": AUTHENTICATION}),
    (RESUME, {"message": "go on"}),
    (CREATE, SANDBOX),
    (f"{SANDBOXES}/list", {"authentication": AUTHENTICATION}),
    (f"{SANDBOXES}/delete", {"sandbox_id": "box", "authentication": AUTHENTICATION}),
]


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def variants(value: Any, bad: Any) -> Iterator[Any]:
    """The value with something bad in each of its places in turn, as a value and as a name."""
    yield bad
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from (value | {name: changed} for changed in variants(inner, bad))
        if isinstance(bad, str):
            yield value | {bad: 1}
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in variants(inner, bad))


def refused(answer: TestResponse) -> tuple[int, str]:
    """Status and code of a refusal that shows no secret."""
    status, code, _ = error(answer)
    assert 400 <= status < 500, answer.text
    assert "planted" not in answer.text
    return status, code


# --- bodies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), POSTS)
@pytest.mark.parametrize(
    "bad",
    [
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff\ud800",
        10**30,
        -(2**63) - 1,
        2**63,
        float("nan"),
        float("inf"),
        1e300,
    ],
    ids=repr,
)
def test_what_can_t_be_stored_is_refused_wherever_it_stands(
    shared_client: FlaskClient, path: str, body: dict[str, Any], bad: Any
) -> None:
    for changed in variants(body, bad):
        answer = shared_client.post(path, data=json.dumps(changed))
        assert refused(answer) == (400, "invalid_request"), changed
        assert "field" in answer.json["error"]["details"]


@pytest.mark.parametrize(("path", "body"), [post for post in POSTS if not post[0].startswith(SANDBOXES)])
@pytest.mark.parametrize(
    "wrong", [None, True, 7, -1, 1.5, "", " ", "x", "🦆" * 300, [], [[]], {}, {"": {}}], ids=repr
)
def test_wrong_types_anywhere(
    shared_client: FlaskClient, path: str, body: dict[str, Any], wrong: Any
) -> None:
    for changed in variants(body, wrong):
        if path == CANCEL and not (changed or {}):
            continue  # cancels everything, as it should
        answer = shared_client.post(path, data=json.dumps(changed))
        if answer.status_code == 200:  # what is lenient: "5" for 5, null for nothing, names that nobody knows
            answer.close()
        else:
            assert refused(answer)[0] in {400, 404}, changed


BODIES = {
    "cut off": b'{"instruction": "x"',
    "followed by more": b'{"instruction": "x"} {}',
    "single quotes": b"{'instruction': 'x'}",
    "a form": b"instruction=x",
    "a list": b'[{"instruction": "x"}]',
    "a text": b'"instruction"',
    "a number": b"7",
    "null": b"null",
    "NUL": b"\x00",
    "Latin-1": b'{"instruction": "caf\xe9"}',
    "half a UTF-16": b"\xff\xfe{",
    "a raw surrogate": b'{"instruction": "\xed\xa0\x80"}',
    "an overlong slash": b'{"instruction": "\xc0\xaf"}',
    "NaN": b'{"instruction": "x", "max_steps": NaN}',
    "minus infinity": b'{"instruction": "x", "max_steps": -Infinity}',
    "too large": b'{"instruction": "x", "max_steps": 1e999}',
    "a million digits": b'{"instruction": "x", "unknown": ' + b"9" * 1_000_000 + b"}",
    "a name twice": b'{"instruction": "x", "instruction": "y"}',
    "a bad name twice": b'{"instruction": "x", "\\ud800": 1, "\\ud800": 2}',
    "a name twice below": b'{"instruction": "x", "metadata": {"a": 1, "a": 2}}',
    "too deep": b'{"instruction": "x", "unknown": ' + b"[" * 16 + b"]" * 16 + b"}",
    "lists without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000,
    "deep and closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
}


@pytest.mark.parametrize("path", [path for path, _ in POSTS])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_request(shared_client: FlaskClient, path: str, body: bytes) -> None:
    assert refused(shared_client.post(path, data=body)) == (400, "invalid_request")


def names(count: int, value: str) -> str:
    return ",".join(f'"k{number}":{value}' for number in range(count))


@pytest.mark.parametrize(
    "body",
    [
        f'{{{names(70_000, "1")},"last":1,"last":1}}',
        f'{{"instruction":"x","metadata":{{{names(70_000, "[]")}}}}}',
        f'{{"instruction":"x","metadata":{{"{"k" * 1_000_000}":1}}}}',
        f'{{"instruction":"x","{"k" * 1_000_000}":NaN}}',
        f'{{"instruction":"{"x" * 1_000_000}"}}',
        f'{{"tasks":[{",".join(["{}"] * 300_000)}]}}',
        f'{{"tasks":[{",".join([r"""{"metadata":{"a":[],"b":[],"c":[]}}"""] * 1000)}]}}',
    ],
    ids=["a name twice", "labels", "a long label", "a long name", "a long text", "tasks", "bad tasks"],
)
def test_a_full_body_costs_little_and_is_answered_briefly(shared_client: FlaskClient, body: str) -> None:
    assert len(body) < LARGEST_BODY_BYTES
    begun = time.process_time()
    answer = shared_client.post(BATCH if '"tasks"' in body else SUBMIT, data=body)
    assert refused(answer) == (400, "invalid_request")
    assert len(answer.data) < 10_000
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("path", [path for path, _ in POSTS])
def test_a_huge_body(shared_client: FlaskClient, path: str) -> None:
    huge = b" " * (LARGEST_BODY_BYTES + 1)
    assert refused(shared_client.post(path, data=huge)) == (413, "request_entity_too_large")
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = shared_client.post(path, input_stream=BytesIO(huge), environ_overrides=chunked)
    assert refused(answer) == (413, "request_entity_too_large")
    for length, expected in (("9" * 12, 413), ("1000", 400)):
        lied = shared_client.post(path, data=b"{}", environ_overrides={"CONTENT_LENGTH": length})
        assert refused(lied)[0] == expected


def test_a_body_as_large_as_may_be(shared_client: FlaskClient) -> None:
    padded = json.dumps(GOOD).encode().ljust(LARGEST_BODY_BYTES)
    assert shared_client.post(SUBMIT, data=padded).status_code == 200
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = shared_client.post(SUBMIT, input_stream=BytesIO(padded), environ_overrides=chunked)
    assert answer.status_code == 200


CONTENT_TYPES = (
    "application/json; charset=bogus",
    "text/plain; charset=utf-16",
    "multipart/form-data",
    ";",
    "\xff",
)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_the_content_type_changes_nothing(shared_client: FlaskClient, content_type: str) -> None:
    answer = shared_client.post(SUBMIT, data=json.dumps(GOOD), headers={"Content-Type": content_type})
    assert answer.status_code == 200


# --- ids, queries, headers ------------------------------------------------------------------------------

ODD_IDS = (
    *("%00", "..", "%2e%2e", "%ff", "%ed%a0%80", "%0d%0aX: y", "💩", "'--", "{{7*7}}", "a" * 5000),
    *(
        "-" * 36,
        "0" * 31,
        f"{UNKNOWN}%00",
        f"{UNKNOWN}%0a",
        f"{{{UNKNOWN}}}",
        f"urn:uuid:{UNKNOWN}",
        "１" * 32,
    ),
)


@pytest.mark.parametrize("task_id", ODD_IDS)
def test_odd_ids_name_no_task(shared_client: FlaskClient, task_id: str) -> None:
    for method, path in (
        ("GET", "status/{}"),
        ("GET", "{}/steps"),
        ("GET", "{}/events"),
        ("POST", "{}/resume"),
        ("POST", "{}/takeover"),
    ):
        answer = shared_client.open(f"{API}/task/{path.format(task_id)}", method=method)
        assert refused(answer) == (404, "task_not_found")
        assert len(answer.data) < 2000


@pytest.mark.parametrize(
    "sandbox_id", ["../../x", "a/b", "a?b#c", "%2e%2e", "..;", "a\r\nb", "🦆", " ", "x" * 200]
)
def test_a_sandbox_id_may_be_any_text_but_a_step_in_a_path(
    shared_client: FlaskClient, sandbox_id: str
) -> None:
    task_id = submit(shared_client, sandbox_id=sandbox_id)
    shown = shared_client.get(f"{API}/task/status/{task_id}").json
    assert shown["sandbox_info"] == {"sandbox_id": sandbox_id}
    for bad in (".", "..", "", "x" * 201):
        assert refused(shared_client.post(SUBMIT, json=GOOD | {"sandbox_id": bad}))[0] == 400


@pytest.mark.parametrize("key", ["sk\r\nX-Evil: 1", "sk\nx", "sk x", "schlüssel", "", "x" * 1001, "\x7f"])
def test_a_secret_that_would_break_a_header(shared_client: FlaskClient, key: str) -> None:
    for path in (SUBMIT, CANCEL, CREATE):
        body = GOOD | {"authentication": AUTHENTICATION | {"api_key": key}}
        assert refused(shared_client.post(path, json=body)) == (400, "invalid_request")
    assert refused(shared_client.post(SUBMIT, json=GOOD | {"ark_apikey": key})) == (400, "invalid_request")


QUERIES = {
    "task/list": ("status", "metadata", "limit", "offset", "cursor"),
    "tasks": ("limit",),
    "task/status/{}": ("fields",),
    "task/{}/steps": ("after", "limit"),
    "task/{}/events": ("after",),
}
ODD_VALUES = (
    *("", "%00", "%ff", "%ed%a0%80", "%0d%0aSet-Cookie:a=b", "-1", "1e999", "NaN", "1.0", "９", "null", "[]"),
    *(
        "9" * 19,
        "9" * 25,
        "9" * 3000,
        "a:" + "x" * 3000,
        "a:NaN",
        "a:%00",
        ":",
        "'; DROP TABLE jobs; --",
        "%",
    ),
)


@pytest.mark.parametrize(
    ("path", "parameter"), [(path, one) for path, many in QUERIES.items() for one in many]
)
def test_odd_queries(shared_client: FlaskClient, path: str, parameter: str) -> None:
    url = f"{API}/{path.format(submit(shared_client))}"
    for value in ODD_VALUES:
        for query in (f"{parameter}={value}", f"{value}={value}&{parameter}"):
            answer = shared_client.get(f"{url}?{query}", headers={"Accept": "application/json"})
            if answer.status_code != 200:
                assert refused(answer) == (400, "invalid_request"), query
            assert "Set-Cookie" not in answer.headers


ODD_HEADERS = (
    *(
        "",
        " ",
        "\xff",
        "a\x7f",
        "%0d%0aX: y",
        "x" * 8000,
        "\t",
        ",,;;==",
        '"',
        "a=b; c*=utf-8''%ff",
        "bytes=0-",
    ),
    *(
        "Bearer",
        "Bearer a=b",
        "Basic !",
        "Basic /w==",
        "Digest a*=x''%ff",
        "*/*;q=nan",
        "gzip;q=1e999",
        "9" * 30,
    ),
)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "X-Request-Id",
            "Idempotency-Key",
            "Last-Event-ID",
            "Authorization",
            "X-API-Key",
            "Accept",
            "Origin",
        ),
        *(
            "Cookie",
            "Range",
            "If-None-Match",
            "X-Forwarded-Host",
            "X-HTTP-Method-Override",
            "Content-Encoding",
        ),
    ],
)
def test_odd_headers(shared_client: FlaskClient, name: str) -> None:
    task_id = submit(shared_client)
    for value in (*ODD_HEADERS, "a\r\nX-Evil: 1"):
        sent = {f"HTTP_{name.upper().replace('-', '_')}": value}
        for answer in (
            shared_client.get(f"{API}/task/{task_id}/events", environ_overrides=sent),
            shared_client.get(f"{API}/info", environ_overrides=sent),
            shared_client.post(SUBMIT, json=GOOD, environ_overrides=sent),
        ):
            if answer.status_code != 200:
                assert refused(answer)[0] in {400, 403}, value
            assert "X-Evil" not in str(answer.headers)
            answer.close()


@pytest.mark.parametrize("sent", ["good-id_1.2:3", "a\r\nX-Evil: 1", "a b", "<script>", "é", "x" * 101, ""])
def test_only_a_harmless_request_id_is_taken_over(shared_client: FlaskClient, sent: str) -> None:
    answer = shared_client.get("/api/nothing", environ_overrides={"HTTP_X_REQUEST_ID": sent})
    error(answer)
    assert (answer.headers["X-Request-Id"] == sent) == (sent == "good-id_1.2:3")
    assert answer.headers["X-Request-Id"]


# --- names and origins ----------------------------------------------------------------------------------


def serve_with(serve: Serve, settings: Settings, **api: Any) -> FlaskClient:
    return serve(settings.model_copy(update={"api": ApiSettings(**api)}))


LOCAL = ("localhost", "localhost:5000", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]", "[::1]:5000")
FOREIGN = (
    "evil.example",
    "localhost.evil.example",
    "evil.example:5000",
    "localhost@evil",
    "[::2]",
    "a b",
    "[::1",
    "\xff",
    "",
)


def test_on_loopback_only_names_of_this_machine_lead_here(serve: Serve, settings: Settings) -> None:
    client = serve_with(serve, settings)
    for host in LOCAL:
        assert client.get("/api/health", headers={"Host": host}).status_code == 200, host
    for host in FOREIGN:
        answer = client.post(SUBMIT, json=GOOD, headers={"Host": host})
        assert refused(answer) == (400, "bad_request"), host
        assert "API_TRUSTED_HOSTS" in answer.text


def test_with_keys_or_on_a_network_any_name_leads_here(serve: Serve, settings: Settings) -> None:
    for api in ({"keys": "required"}, {"host": "0.0.0.0", "keys": "off"}):
        client = serve_with(serve, settings, **api)
        for host in (*LOCAL, *FOREIGN):
            assert client.get("/api/health", headers={"Host": host}).status_code == 200, host


def test_trusted_hosts_are_those_of_the_settings(serve: Serve, settings: Settings) -> None:
    client = serve_with(
        serve, settings, keys="required", trusted_hosts="API.example.com, .example.org, [::1]"
    )
    for host in ("api.example.com", "api.example.com:443", "example.org", "a.b.example.org", "[::1]:5000"):
        assert client.get("/api/health", headers={"Host": host}).status_code == 200, host
    for host in ("www.api.example.com", "badexample.org", "example.org.evil", "localhost", ""):
        assert client.get("/api/health", headers={"Host": host}).status_code == 400, host


ORIGINS = ("http://evil.example", "null", "http://localhost:6000", "http://[", "file://", "", "http://", "x")


def test_pages_of_other_origins_may_not_post(serve: Serve, settings: Settings) -> None:
    client = serve_with(serve, settings, cors_origins="https://app.example.com")
    for origin in ORIGINS:
        for path, body in POSTS:
            answer = client.post(path, json=body, headers={"Origin": origin})
            assert refused(answer) == (403, "forbidden"), origin
            assert "API_CORS_ORIGINS" in answer.text
            assert answer.headers.get("Access-Control-Allow-Origin") not in {"*", origin}
    for origin in ("https://app.example.com", "http://localhost"):
        assert client.post(SUBMIT, json=GOOD, headers={"Origin": origin}).status_code == 200, origin


def test_with_a_star_every_page_may_post(serve: Serve, settings: Settings) -> None:
    client = serve_with(serve, settings, cors_origins="*")
    answer = client.post(SUBMIT, json=GOOD, headers={"Origin": "http://any.example"})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] in {"*", "http://any.example"}
    assert "Access-Control-Allow-Credentials" not in answer.headers


PREFLIGHT = {
    "Origin": "https://app.example.com",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, x-api-key",
}


@pytest.mark.parametrize("keys", ["off", "required"])
def test_a_preflight_is_answered_where_the_origin_may_call(
    serve: Serve, settings: Settings, keys: str
) -> None:
    client = serve_with(serve, settings, keys=keys, cors_origins="https://app.example.com")
    answer = client.options(SUBMIT, headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = {one.strip().lower() for one in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert allowed == set(PREFLIGHT["Access-Control-Request-Headers"].split(", "))
    refusal = client.post(SUBMIT, data=b"[]", headers=PREFLIGHT)
    assert 400 <= refusal.status_code < 500
    assert refusal.headers["Access-Control-Allow-Origin"] == "https://app.example.com", "its page reads why"
    assert "Retry-After" in refusal.headers["Access-Control-Expose-Headers"]
    stranger = client.options(SUBMIT, headers=PREFLIGHT | {"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


def test_without_origins_nothing_is_said_of_them(shared_client: FlaskClient) -> None:
    for answer in (
        shared_client.options(SUBMIT, headers=PREFLIGHT),
        shared_client.get("/api/health", headers=PREFLIGHT),
        shared_client.post(SUBMIT, json=GOOD, headers=PREFLIGHT),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


# --- what every answer carries --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/health", 200),
        ("GET", "/api/openapi.json", 200),
        ("GET", "/api/docs", 200),
        ("GET", "/api/swagger/css/swagger-ui.css", 200),
        ("GET", "/api/swagger/%2e%2e/%2e%2e/__init__.py", 404),
        ("GET", "/api/swagger/%00", 404),
        ("GET", f"{API}/task/list", 200),
        ("HEAD", f"{API}/task/list", 200),
        ("GET", f"{API}/task/{{}}/events", 200),
        ("HEAD", f"{API}/task/{{}}/events", 200),
        ("POST", RUN, 400),
        ("OPTIONS", RUN, 200),
        ("DELETE", RUN, 405),
        ("GET", "/nowhere", 404),
        ("GET", "/api/health/", 404),
        ("GET", f"{API}/task/status/{UNKNOWN}", 404),
        ("POST", SUBMIT, 400),
    ],
)
def test_security_headers(shared_client: FlaskClient, method: str, path: str, status: int) -> None:
    with shared_client.open(path.format(submit(shared_client)), method=method) as answer:
        assert answer.status_code == status
        for name in POLICY:
            assert answer.headers.getlist(name), name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Request-Id"]
        assert "unsafe-eval" not in answer.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in answer.headers
        if status >= 400:
            error(answer)


def test_an_error_of_ours_tells_nothing_but_the_log(
    serve: Serve, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(settings)

    def fail() -> None:
        raise RuntimeError("planted")

    client.application.add_url_rule("/fail", view_func=fail)
    answer = client.get("/fail")
    assert error(answer)[:2] == (500, "internal")
    assert "planted" not in answer.text
    assert set(POLICY) <= set(answer.headers.keys())
    assert "planted" in caplog.text
