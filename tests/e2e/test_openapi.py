"""The OpenAPI document: valid, whole, and true of the live system, whatever is asked."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, checks

from api.answers import EventView
from tests.application import application
from tests.conftest import wait_until
from tests.e2e.conftest import System

HTTP_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


APP = application()
API = schemathesis.openapi.from_dict(APP.api_doc)
API.config.generation.update(allow_x00=False)  # valid JSON, but nothing that could be stored
API.config.max_stream_events = 1
API.config.checks.update(
    included_check_names=[
        *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
        *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
    ]
)
# Two checks are left out: of what is lenient on purpose (no body is an empty one, "5" is 5), and of what no
# schema can tell (cursors are the server's own, endpoints stand on a list).
FEW = settings(max_examples=12, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(system: System) -> Iterator[None]:
    """No later test finds tasks of these under way."""
    yield
    system.http.post("/api/agent/cancel", json={})
    wait_until(lambda: system.http.get("/api/agent/tasks").json()["total"] == 0)


def ask(system: System, case: Case) -> None:
    """Sends the request and compares the answer with the document. Of a stream the first event is enough."""
    # A stream may have nothing to tell for long; whatever else takes long is at fault.
    answer = case.call(base_url=system.stack.plan.url, timeout=0.5 if "/events" in case.path else 10)
    if answer.status_code == 414:
        return  # gunicorn's own, for a URL of more than 4 kB
    left_out = []
    if "text/event-stream" in str(answer.headers.get("content-type")):
        left_out = [checks.response_schema_conformance]  # which takes the schema of the whole for an event's
        for event in re.findall(r"^data: (.*)$", answer.text, re.MULTILINE):
            EventView.model_validate_json(event)
    if answer.status_code == 502 and case.path.startswith("/api/sandbox/"):
        left_out = [checks.not_a_server_error]  # Lybic knows no such shape or key
    case.validate_response(answer, excluded_checks=left_out)


@API.parametrize()
@FEW
def test_answers_are_as_described(case: Case, system: System) -> None:
    ask(system, case)


@pytest.fixture(scope="module")
def task_ids(system: System) -> list[str]:
    """A task that has ended, and one that waits for a human."""
    ended, human = system.done("Open notepad and type Hello"), system.submit("script> call_user(content='?')")
    system.wait(human, "human_intervention")
    return [ended["task_id"], human]


@API.include(path_regex="task_id").parametrize()
@FEW
def test_answers_about_tasks_are_as_described(case: Case, system: System, task_ids: list[str]) -> None:
    for task_id in task_ids:
        case.path_parameters = {**case.path_parameters, "task_id": task_id}
        ask(system, case)


def test_the_document_is_valid_and_the_one_that_is_served(system: System) -> None:
    served = system.http.get("/api/openapi.json").json()
    assert served == APP.api_doc
    assert served["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(served).validate()
    named = re.findall(r"'#/components/schemas/(\w+)'", str(served))
    assert set(named) == served["components"]["schemas"].keys()


def test_every_route_is_described(system: System) -> None:
    described = {
        (method.upper(), path)
        for path, operations in system.http.get("/api/openapi.json").json()["paths"].items()
        for method in operations
    }
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in APP.url_map.iter_rules()
        for method in (rule.methods or set()) & HTTP_METHODS
        if not rule.endpoint.startswith(("docs.", "playground."))
    }
    assert described == routes
    for path, operations in APP.api_doc["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], f"{method} {path}"
            assert operation["tags"], f"{method} {path}"


def test_the_docs_page_and_all_that_it_loads_come_from_us(system: System) -> None:
    page = system.http.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 4
    for asset in assets:
        answer = system.http.get(urljoin("/api/docs", asset))
        assert answer.status_code == 200, asset
        assert "@import" not in answer.text[:1000]
    assert '{"validatorUrl": null}' in page.text, "or it would ask a site elsewhere for its verdict"
