"""docs/api.md is true: its commands are answered as it shows, and its tables say what the code says."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from typer.main import get_command
from werkzeug.exceptions import BadRequest, MethodNotAllowed, NotFound, RequestEntityTooLarge

from api.answers import EVENT_TYPES, EventView
from api.errors import STATUS
from local.keys import keys
from local.up import setting_names
from shared import events
from shared.errors import JOB_CODES, GuiAgentError
from shared.events import NewEvent
from shared.states import JobStatus, StepStatus
from tests.e2e.api_examples import CUT, DOCUMENT, Reader, block, examples, understood
from tests.e2e.conftest import System
from tests.e2e.curl import FENCE, HEADING

Json = dict[str, Any]

TEXT = DOCUMENT.read_text(encoding="utf-8")
PROSE = FENCE.sub("", TEXT)
# Values that are the same whenever an example is run.
KEPT = frozenset({"code", "error_code", "stage", "status", "success", "type"})


# --- the answers ----------------------------------------------------------------------------------------


def differences(real: Any, shown: Any, where: str = "") -> Iterator[str]:
    """Where the real answer has another shape than the one that is shown."""
    if type(real) is not type(shown):
        yield f"{where}: {real!r} is not of the type of {shown!r}"
    elif isinstance(real, dict):
        if real.keys() != shown.keys():
            yield f"{where}: {sorted(real.keys() ^ shown.keys())} stand on one side only"
        for name in real.keys() & shown.keys():
            if name in KEPT and isinstance(real[name], str) and real[name] != shown[name]:
                yield f"{where}.{name}: {real[name]!r} is not {shown[name]!r}"
            yield from differences(real[name], shown[name], f"{where}.{name}")
    elif isinstance(real, list):
        for one in shown:  # the lists of a server that others use, too, hold more
            if one != CUT and not any(not list(differences(other, one)) for other in real):
                yield f"{where}: nothing in {real!r} is like {one!r}"


def test_every_answer_is_as_shown(system: System) -> None:
    reader = Reader(system)
    for example in examples(TEXT):
        real, shown = reader.tries(example), understood(example.shown)
        forms = [(one.status, one.is_stream, one.kind) for one in (real, shown)]
        assert forms[0] == forms[1], f"{example}\n{real.body}"
        if real.is_stream:
            assert [one["type"] for one in real.body] == [one["type"] for one in shown.body], str(example)
            pairs = list(zip(real.body, shown.body, strict=True))
        else:
            pairs = [(real.body, shown.body)]
        for one, other in pairs:
            assert not list(differences(one, other)), f"{example}(make docs-api writes the answers anew)"
        for one in real.body if real.is_stream else []:
            assert set(one) <= ENVELOPE | EVENTS[one["type"]]


@pytest.mark.parametrize(
    ("real", "shown", "same"),
    [
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {"a": None}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {}, False),
        ({"a": {"b": "x"}}, {"a": {"b": 1}}, False),
        ({"code": "x"}, {"code": "y"}, False),
        ([{"a": 1}, {"b": 1}], [{"b": 2}, CUT], True),
        ([{"a": 1}], [{"b": 2}], False),
    ],
)
def test_what_counts_as_the_same_shape(real: Any, shown: Any, same: bool) -> None:
    assert list(differences(real, shown)) is not same


def test_what_is_written_is_understood() -> None:
    """An answer that stands in the document would be written there just so."""
    shown = [understood(example.shown) for example in examples(TEXT)]
    assert [block(one) for one in shown] == [
        TEXT[example.shown.start : example.shown.end] for example in examples(TEXT)
    ]
    assert any(one.is_stream for one in shown)
    assert {one.status for one in shown} > {200, 204, 404}


def test_no_curl_command_is_left_out() -> None:
    words = re.findall(r"\bcurl\b", TEXT)
    assert len(words) == len(list(examples(TEXT)))


# --- the tables -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, up to the next one."""

    title: str
    text: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")

    @property
    def route(self) -> tuple[str, str] | None:
        """Method and path, where the section is about a route."""
        found = re.search(r"^`(GET|POST) (/\S+)`$", self.text, re.MULTILINE)
        return (found[1].lower(), found[2]) if found else None

    @property
    def tables(self) -> dict[str, list[list[str]]]:
        """The rows of its tables, each by the name of its first column."""
        found: dict[str, list[list[str]]] = {}
        for lines in re.findall(r"(?:^\|.*\n)+", self.text, re.MULTILINE):
            head, _, *rows = [
                [cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines()
            ]
            found[head[0]] = rows
        return found

    @property
    def links(self) -> set[str]:
        return set(re.findall(r"\]\(#([\w-]+)\)", self.text))

    def documented(self, kind: str) -> dict[str, list[str]]:
        """The rows of one kind of field by the field's name."""
        return {row[0].strip("`"): row for row in self.tables.get(kind, [])}


def sections() -> Iterator[Section]:
    headings = [found for found in HEADING.finditer(TEXT) if not inside_a_fence(found.start())]
    ends = [found.start() for found in headings[1:]] + [len(TEXT)]
    for heading, end in zip(headings, ends, strict=True):
        yield Section(heading[1], TEXT[heading.end() : end])


def inside_a_fence(position: int) -> bool:
    return any(fence.start() < position < fence.end() for fence in FENCE.finditer(TEXT))


SECTIONS = list(sections())
ROUTES = {section.route: section for section in SECTIONS if section.route}


def rows(column: str) -> list[list[str]]:
    """The rows of the one table whose first column has that name."""
    (found,) = (section.tables[column] for section in SECTIONS if column in section.tables)
    return found


def names(cell: str) -> list[str]:
    """All that stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="session")
def openapi(system: System) -> Json:
    return dict(system.http.get("/api/openapi.json").json())


def resolved(schema: Json, openapi: Json) -> Json:
    """The schema itself: what it refers to, and without the choice of null."""
    if "$ref" in schema:
        found: Json = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return resolved(found, openapi)
    choices = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return {**schema, **resolved(choices[0], openapi)} if len(choices) == 1 else schema


def flat(schema: Json, openapi: Json, within: str = "") -> Iterator[tuple[str, Json, bool]]:
    """The fields of an object and of the objects in it: path, schema, whether it is required."""
    for name, inner in schema["properties"].items():
        whole = resolved(inner, openapi)
        yield within + name, whole, name in schema.get("required", [])
        if "properties" in whole:
            yield from flat(whole, openapi, f"{within}{name}.")


def operations(openapi: Json) -> dict[tuple[str, str], Json]:
    return {
        (method, path): one for path, methods in openapi["paths"].items() for method, one in methods.items()
    }


def expected(operation: Json, openapi: Json) -> dict[str, dict[str, tuple[Json, bool]]]:
    """What an operation takes, apart from its path, by the kind of field."""
    found: dict[str, dict[str, tuple[Json, bool]]] = {"body": {}, "query": {}, "header": {}}
    for one in operation.get("parameters", []):
        if one["in"] != "path":
            found[one["in"]][one["name"]] = (resolved(one["schema"], openapi), one.get("required", False))
    body = operation.get("requestBody")
    if body:
        schema = resolved(body["content"]["application/json"]["schema"], openapi)
        found["body"] = {name: (one, required) for name, one, required in flat(schema, openapi)}
    return found


def test_each_route_has_a_section_and_an_example(openapi: Json) -> None:
    assert ROUTES.keys() == operations(openapi).keys()
    shown = {example.command.section for example in examples(TEXT)}
    assert {section.title for section in ROUTES.values()} <= shown
    for (method, path), section in ROUTES.items():
        (first, *_) = (one for one in examples(TEXT) if one.command.section == section.title)
        asked = path.replace("{task_id}", "$TASK_ID").replace("{name}", "$NAME")
        assert re.search(rf"localhost:5000{re.escape(asked)}(?:[\s\"?]|$)", first.command.text), section.title
        assert (" -d " in first.command.text or "-X POST" in first.command.text) == (method == "post")


def test_each_request_field_is_documented_as_it_is(openapi: Json) -> None:
    by_anchor = {section.anchor: section for section in SECTIONS}
    for route, operation in operations(openapi).items():
        section = ROUTES[route]
        for kind, fields in expected(operation, openapi).items():
            own = section.documented(kind)
            elsewhere = {
                name for anchor in section.links for name in by_anchor[anchor].documented(kind)
            }  # such as all of submit's for run
            assert own.keys() <= fields.keys(), (route, own.keys() - fields.keys())
            assert fields.keys() <= own.keys() | elsewhere, (route, fields.keys() - own.keys())
            for name, row in own.items():
                assert_row_fits(row, *fields[name])


def assert_row_fits(row: Sequence[str], schema: Json, required: bool) -> None:
    """Default, limits and choices stand in the field's row."""
    _, kind, default, _ = row
    if required:
        assert default == "required", row
    elif schema.get("default") is not None:
        assert default == f"`{json.dumps(schema['default'])}`", row
    else:
        assert default in ("none", "`{}`"), row
    limits = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties")
    for limit in limits:
        number = schema.get(limit)
        if number is not None and (limit, number) != ("minLength", 0):
            assert re.search(rf"(?<![\d,]){int(number):,}(?![\d,])", kind), (row, limit)
    for choice in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]:
        assert choice in names(kind), row


def test_each_answer_field_is_documented(openapi: Json) -> None:
    """Where an answer has a table, that has all fields: of the answer, and of the lists that it goes into."""
    for route, section in ROUTES.items():
        told = section.documented("answer")
        if not told:
            continue
        schema = operations(openapi)[route]["responses"]["200"]["content"]["application/json"]["schema"]
        schema = resolved(schema, openapi)
        assert {name for name in told if "[]" not in name} == schema["properties"].keys() - {"success"}
        for outer in {name.partition("[]")[0] for name in told if "[]" in name}:
            items = resolved(schema["properties"][outer]["items"], openapi)
            inner = {name.removeprefix(f"{outer}[].") for name in told if name.startswith(f"{outer}[].")}
            assert inner == items["properties"].keys()


def test_every_link_leads_somewhere() -> None:
    anchors = [section.anchor for section in SECTIONS]
    assert len(set(anchors)) == len(anchors)
    assert set().union(*(section.links for section in SECTIONS)) <= set(anchors)


def test_each_setting_exists() -> None:
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", PROSE)) - {"TASK_ID", "SANDBOX_ID"}
    assert named <= setting_names()


def test_the_commands_about_keys_exist() -> None:
    known = get_command(keys).commands
    for name, rest in re.findall(r"^lybic-guiagent keys (\w+)(.*)$", TEXT, re.MULTILINE):
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= options


# --- the words ------------------------------------------------------------------------------------------


def with_kinds(error: type[GuiAgentError]) -> Iterator[type[GuiAgentError]]:
    yield error
    for kind in error.__subclasses__():
        yield from with_kinds(kind)


def test_each_error_code_is_documented() -> None:
    """All that `api.errors` makes an answer of, the web framework's own among them."""
    ours = {
        (kind.code, next(STATUS[one] for one in kind.__mro__ if one in STATUS))
        for error in STATUS
        for kind in with_kinds(error)
    }
    http = (BadRequest(), NotFound(), MethodNotAllowed(), RequestEntityTooLarge())
    werkzeug = {(one.name.lower().replace(" ", "_"), one.code) for one in http}
    documented = [(row[0].strip("`"), int(row[1])) for row in rows("code")]
    assert sorted(documented) == sorted(ours | werkzeug | {(GuiAgentError.code, 500)})


def test_errors_of_the_web_framework(system: System) -> None:
    route = "/api/agent/task/submit"
    answers = {
        "bad_request": system.http.get(route, headers={"Host": "example.com"}),
        "not_found": system.http.get("/api/nothing"),
        "method_not_allowed": system.http.get(route),
        "request_entity_too_large": system.http.post(route, content=b" " * (2**20 + 1)),
    }
    documented = {row[0].strip("`"): int(row[1]) for row in rows("code")}
    for code, answer in answers.items():
        assert (answer.status_code, answer.json()["error"]["code"]) == (documented[code], code)


def test_each_error_code_of_tasks_is_documented() -> None:
    assert sorted(row[0].strip("`") for row in rows("error code")) == sorted(JOB_CODES)


def test_each_status_is_documented() -> None:
    assert [row[0].strip("`") for row in rows("status of a task")] == list(JobStatus)
    assert [row[0].strip("`") for row in rows("status of a step")] == list(StepStatus)


ENVELOPE = {"type", "task_id", "taskId", "seq", "timestamp", "stage", "message"}
EVENTS = {row[0].strip("`"): set(names(row[1])) for row in rows("type")}


def test_each_event_is_documented() -> None:
    told = [
        events.status(JobStatus.RUNNING, run=1, worker="one"),
        events.status(JobStatus.PENDING, resumed=True, content="go on"),
        events.observation("https://pictures.example/1", 1),
        events.thinking("hm", 1),
        events.action("wait()", [], 1),
        events.result("7", 1),
        events.human_intervention(events.TAKEN_OVER, taken_over=True),
        events.finished("done"),
        events.cancelled(),
        events.error("timeout", "too late"),
    ]
    fields: dict[str, set[str]] = {}
    for one in told:
        fields.setdefault(one.type, set()).update(one.payload)
    assert fields == EVENTS
    assert tuple(EVENTS) == EVENT_TYPES
    assert EventView.model_fields.keys() == ENVELOPE.union({"taken_over"}, *EVENTS.values())
    makers = [
        one for one in vars(events).values() if getattr(one, "__annotations__", {}).get("return") is NewEvent
    ]
    assert len(makers) == len(EVENTS)
