"""What clients write, read back: bodies, cursors, ids, labels. All of it is understood or refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api.body import DEEPEST, LARGEST_INTEGER, read_object, storable
from api.requests import cursor, idempotency, job_id, labels, position
from api.schemas import (
    BatchRequest,
    EventsHeaders,
    EventsQuery,
    ListQuery,
    RunAgentRequest,
    last_seen,
    refuse,
)
from shared.errors import InvalidRequest, JobNotFound
from shared.listing import Position
from shared.summary import timestamp

GOOD_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(-1e18, 1e18)
    | GOOD_TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(GOOD_TEXT, inner), max_leaves=12)
JSON_OBJECTS = st.dictionaries(GOOD_TEXT, JSON)


def attempt(read: Callable[[Any], Any], written: Any) -> Any:
    """What is read, or how it is refused."""
    try:
        return read(written)
    except (InvalidRequest, JobNotFound) as refusal:
        return refusal


# --- bodies ---------------------------------------------------------------------------------------------


@given(JSON_OBJECTS, st.sampled_from(["utf-8", "utf-8-sig"]), st.booleans())
def test_any_object_of_json_is_read_as_it_was_written(
    written: dict[str, Any], encoding: str, ensure_ascii: bool
) -> None:
    assert read_object(json.dumps(written, ensure_ascii=ensure_ascii).encode(encoding)) == written


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"":' * 100_000)
@example(b'{"a": 1e999}')
@example(b'{"a": 1, "a": 2}')
@example(b'{"\\ud800": 1, "\\ud800": 2}')
@example(b'{"\\u0000": 1}')
def test_any_bytes_are_an_object_or_refused_with_words_that_can_be_sent(body: bytes) -> None:
    found = attempt(read_object, body)
    if isinstance(found, InvalidRequest):
        assert storable(f"{found.message}{found.details['field']}")
        assert len(found.message) < 2000
    else:
        assert_storable(found)


@given(st.recursive(SCALARS | st.floats() | st.integers() | st.text(), st.lists, max_leaves=20), GOOD_TEXT)
def test_what_is_read_can_be_stored(value: Any, name: str) -> None:
    found = attempt(read_object, json.dumps({name: value}).encode())
    if isinstance(found, InvalidRequest):
        assert found.details["field"].startswith(name[:100] or ("body", "["))
    else:
        assert found == {name: value}
        assert_storable(found)


def assert_storable(value: Any) -> None:
    """PostgreSQL's JSON and ours can hold it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert storable(text)
    assert "\\u0000" not in text or "\\\\u0000" in text
    text.encode()


@pytest.mark.parametrize("depth", range(DEEPEST - 2, DEEPEST + 3))
def test_nesting_has_an_end(depth: int) -> None:
    body = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if depth <= DEEPEST:
        read_object(body)
    else:
        with pytest.raises(InvalidRequest, match="levels deep"):
            read_object(body)


@given(st.integers() | st.floats())
def test_numbers_have_64_bits(number: float) -> None:
    found = attempt(read_object, json.dumps({"n": number}).encode())
    if abs(number) <= LARGEST_INTEGER:  # NaN is not
        assert found == {"n": number}
    else:
        assert isinstance(found, InvalidRequest)


@given(JSON_OBJECTS)
def test_any_object_is_a_request_or_refused_by_field(body: dict[str, Any]) -> None:
    for model in (RunAgentRequest, BatchRequest):
        try:
            model.model_validate(body)
        except ValidationError as error:
            with pytest.raises(InvalidRequest) as refused:
                refuse(error)
            assert refused.value.message.startswith(refused.value.details["field"])


# --- cursors, ids, places -------------------------------------------------------------------------------


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_leads_back_to_its_place(moment: datetime, job: UUID) -> None:
    place = Position(moment, job)
    text = cursor(place)
    assert position(text) == place
    assert text.isascii()
    assert len(text) <= 200
    assert TypeAdapter(ListQuery).validate_python({"cursor": text}).cursor == text


@given(st.text() | st.from_regex(r"[A-Za-z0-9_=-]+", fullmatch=True))
@example("")
@example("MjAyMC0wMS0wMVQwMDowMDowMCAwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDA")  # of no time zone
def test_any_other_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^cursor"):
        position(text)


@given(st.text())
@example("0" * 32)
@example("１" * 32)
@example("\ud800" * 36)
def test_any_text_is_an_id_or_names_no_task(text: str) -> None:
    found = attempt(job_id, text)
    if isinstance(found, JobNotFound):
        assert text[:100] in found.message
        assert len(found.message) < 200
    else:
        assert isinstance(found, UUID)


@given(st.uuids())
def test_an_id_is_read_as_it_is_written(job: UUID) -> None:
    assert job_id(str(job)) == job


@given(st.none() | st.text() | st.integers().map(str), st.none() | st.text() | st.integers().map(str))
def test_what_a_client_has_seen_is_a_number_or_refused(header: str | None, after: str | None) -> None:
    try:
        headers = EventsHeaders.model_validate({"Last-Event-ID": header})
        query = EventsQuery.model_validate({"after": after})
    except ValidationError:
        assert not all(
            one is None or (one.isascii() and one.isdigit() and len(one) < 10) for one in (header, after)
        )
    else:
        assert last_seen(headers, query) == int(header or after or 0)


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_times_are_shown_in_utc(moment: datetime) -> None:
    shown = timestamp(moment)
    assert shown.endswith("Z")
    assert abs((datetime.fromisoformat(shown) - moment).total_seconds()) < 0.001


# --- labels ---------------------------------------------------------------------------------------------


LABEL_NAMES = GOOD_TEXT.map(lambda text: text.replace(":", "")).filter(bool)


@given(st.lists(st.tuples(LABEL_NAMES, GOOD_TEXT), max_size=32))
def test_a_label_means_its_text_and_at_most_one_scalar_more(wanted: list[tuple[str, str]]) -> None:
    query = ListQuery.model_validate({"metadata": [":".join(one) for one in wanted]})
    found = labels(query.metadata)
    assert [(name, values[0]) for name, values in found] == wanted
    for _, values in found:
        assert len(values) <= 2
        assert all(value is None or isinstance(value, int | float | bool) for value in values[1:])


@given(st.none() | st.booleans() | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER) | st.floats(-1e18, 1e18))
def test_a_label_that_is_no_text_is_found_by_its_json(value: Any) -> None:
    text = json.dumps(value)
    assert labels([f"run:{text}"]) == [("run", [text, value])]


@pytest.mark.parametrize(
    "text", ['7, "value": 8', '7, "x": 8', "7}", '"7"', "[7]", "{}", "", "1e999", "NaN", "9" * 30]
)
def test_other_labels_are_text(text: str) -> None:
    assert labels([f"run:{text}"]) == [("run", [text])]


# --- requests that are sent again -----------------------------------------------------------------------


def digest(**body: Any) -> bytes:
    found = idempotency("key", RunAgentRequest.model_validate({"instruction": "x", **body}))
    assert found is not None
    return found.digest


@given(
    st.integers(1, 500),
    GOOD_TEXT.filter(str.strip),
    st.dictionaries(GOOD_TEXT.filter(lambda name: 0 < len(name) <= 100), st.integers(0, 9), max_size=3),
)
def test_a_repeat_is_known_by_all_but_its_secrets(steps: int, prompt: str, metadata: dict[str, int]) -> None:
    body = {"max_steps": steps, "user_system_prompt": prompt, "metadata": metadata}
    assert digest(**body) == digest(**dict(reversed(body.items())), ark_apikey=None, unknown=1)
    assert digest(**body, ark_apikey="one") == digest(**body, ark_apikey="two") != digest(**body)
    assert digest(**body) != digest(**body | {"max_steps": steps % 500 + 1})


def test_new_fields_make_no_other_request() -> None:
    asked = digest(max_steps=50)
    assert asked == digest(), "what is said to be the default is left to it"
    assert asked == sha256(b'{"instruction":"x"}').digest(), "whatever other fields there may be one day"


def test_without_a_key_nothing_is_a_repeat_and_parts_of_a_batch_differ() -> None:
    request = RunAgentRequest(instruction="x")
    assert idempotency(None, request) is None
    parts = [idempotency("key", request, index) for index in range(3)]
    assert len({part.key for part in parts if part}) == 3
