"""What is submitted for a row: templates, labels, and keys that make it harmless to submit it again."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batch.attempts import ABOUT_THE_ROW, ERROR_CODES, PASSING
from client.batch.requests import BadRow, Batch, Recipe, Refusal, Request
from client.batch.results import Beginning
from client.batch.rows import Format, Row, Rows
from client.batch.survey import InputRefused, Survey, survey
from client.batch.templates import LONGEST_TEXT, InvalidTemplate, MissingColumn, Template, TooLong
from shared.errors import JOB_CODES

DOCS = Path(__file__).parents[2] / "docs"


def made(columns: dict[str, Any], recipe: Recipe | None = None) -> dict[str, Any]:
    return dict((recipe or Recipe()).make(Row(7, columns), "b"))


def batch(*rows: dict[str, Any] | str, recipe: Recipe | None = None, name: str = "b") -> Batch:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return Batch(name, Rows(io.BytesIO("\n".join(lines).encode()), Format.JSONL), recipe or Recipe())


# --- templates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "columns", "text"),
    [
        ("Open {url} and find {what}", {"url": "a", "what": "b"}, "Open a and find b"),
        ("{ url }{url}", {"url": "{what}", "what": "b"}, "{what}{what}"),
        ("{{{url}}} {{}}", {"url": "a"}, "{a} {}"),
        (
            "{n} {f} {b} {list} {o}",
            {"n": 1, "f": 1.5, "b": True, "list": ["中"], "o": {}},
            '1 1.5 true ["中"] {}',
        ),
        (
            "{a.b} {a[0]} {a!r} {a:>9} {0} {中}",
            dict.fromkeys(["a.b", "a[0]", "a!r", "a:>9", "0", "中"], "x"),
            "x x x x x x",
        ),
        ("", {}, ""),
    ],
)
def test_columns_stand_in_their_places(template: str, columns: dict[str, Any], text: str) -> None:
    assert Template(template).fill(columns) == text


@pytest.mark.parametrize(
    "name", ["what", "__class__", "url.__class__", "url[0]", "url!r", "url:>9", "0", "none"]
)
def test_a_name_in_braces_is_a_column_and_nothing_else(name: str) -> None:
    with pytest.raises(MissingColumn, match=re.escape(f"{{{name}}}")):
        Template(f"{{{name}}}").fill({"url": "x", "none": None})


@pytest.mark.parametrize("text", ["{", "a } b", "{}", "{ }", "{a{b}}", "{a", "x" * (LONGEST_TEXT + 1)])
def test_a_template_that_can_t_be_read(text: str) -> None:
    with pytest.raises(InvalidTemplate):
        Template(text)


def test_a_template_does_not_multiply_without_end() -> None:
    with pytest.raises(TooLong):
        Template("{a}" * 50_000).fill({"a": "x" * LONGEST_TEXT})


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="{}"), min_size=1).filter(
    lambda name: name == name.strip() != ""
)


@given(st.lists(st.text() | NAMES.map(lambda name: (name,))), st.data())
def test_filling_is_putting_together(parts: list[str | tuple[str]], data: st.DataObject) -> None:
    columns = {part[0]: data.draw(st.text()) for part in parts if isinstance(part, tuple)}
    template = "".join(
        part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else f"{{{part[0]}}}"
        for part in parts
    )
    wanted = "".join(part if isinstance(part, str) else columns[part[0]] for part in parts)
    assert Template(template).fill(columns) == wanted


# --- requests -------------------------------------------------------------------------------------------


def test_columns_that_are_fields_are_sent_and_the_others_are_not() -> None:
    row = {
        "id": "x",
        "url": "a",
        "instruction": "Open it",
        "max_steps": 3,
        "metadata.team": "docs",
        "model.name": "m",
    }
    assert made(row) == {
        "instruction": "Open it",
        "max_steps": 3,
        "metadata": {"team": "docs", "batch": "b", "row": 7},
        "model": {"name": "m"},
    }


def test_what_a_row_lacks_is_taken_from_the_options() -> None:
    recipe = Recipe(Template("Open {url}"), {"max_steps": 9, "priority": 7}, {"team": "docs", "kind": "x"})
    sent = made({"url": "a", "max_steps": 3, "instruction": "no", "metadata": {"team": "mine"}}, recipe)
    assert sent == {
        "instruction": "Open a",
        "max_steps": 3,
        "priority": 7,
        "metadata": {"team": "mine", "kind": "x", "batch": "b", "row": 7},
    }


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({}, "it has no instruction"),
        ({"instruction": " \n"}, "it has no instruction"),
        ({"instruction": 5}, "it has no instruction"),
        ({"instruction": "\ud800"}, "can't be sent"),
        ({"instruction": "x", "max_steps": float("nan")}, "can't be sent"),
        ({"instruction": "x" * 2**20}, "longer than"),
        ({"instruction": "x", "metadata": []}, "metadata must be an object"),
        ({"instruction": "x", "metadata": 1, "metadata.a": 1}, "metadata must be an object"),
        ({"instruction": "x", "metadata.batch": "mine"}, "metadata.batch is for this command to set"),
    ],
)
def test_a_row_that_can_t_be_submitted(columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRow, match=problem):
        made(columns)


def test_no_instruction_repeats_credentials() -> None:
    row = {
        "ark_apikey": "secret",
        "authentication": {"api_key": "secret"},
        "authentication.api_key": "secret",
    }
    for name in row:
        with pytest.raises(MissingColumn, match=f"row 7: there is no value for {{{name}}}"):
            made(row, Recipe(Template(f"Say {{{name}}}")))


def test_the_key_is_that_of_the_row_of_the_batch_and_of_the_attempt() -> None:
    row = {"instruction": "Open it", "ark_apikey": "old", "url": "a"}

    def key(*rows: dict[str, Any], attempt: int = 1, **options: Any) -> str:
        *_, last = batch(*rows, **options).requests()
        assert isinstance(last, Request)
        return last.key(attempt)

    assert key(row) == key(row | {"ark_apikey": "new", "url": "b"})
    others = [
        key(row),
        key(row, attempt=2),
        key(row, row),
        key(row, name="c"),
        key(row | {"instruction": "Open that"}),
        key(row | {"max_steps": 3}),
        key(row, recipe=Recipe(labels={"team": "docs"})),
    ]
    assert len(set(others)) == len(others)
    assert all(re.fullmatch(r"[\x21-\x7e]{1,255}", one) for one in others)


def test_a_bad_row_keeps_its_place() -> None:
    rows = list(batch({"instruction": "a"}, "nonsense", {"id": "c", "instruction": ""}).requests())
    assert [type(row) for row in rows] == [Request, Refusal, Refusal]
    assert [(row.row, row.id) for row in rows] == [(1, "1"), (2, "2"), (3, "c")]


# --- the survey -----------------------------------------------------------------------------------------

GOOD = {"instruction": "a"}


def begun(*rows: dict[str, Any] | str, recipe: Recipe | None = None) -> Beginning:
    found = survey(batch(*rows, recipe=recipe), None)
    return Beginning(name="b", rows=found.rows, digest=found.digest)


def check(
    before: Beginning | None, *rows: dict[str, Any] | str, strict: bool = False, **options: Any
) -> Survey:
    found = survey(batch(*rows, **options), before)
    found.check(before, strict=strict)
    return found


def test_a_batch_goes_on_with_the_same_rows_and_with_more() -> None:
    before = begun(GOOD, "bad")
    assert check(before, GOOD, "bad").digest == before.digest
    assert check(before, GOOD, "bad", GOOD).rows == 3


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([GOOD], {}),
        ([], {}),
        (["bad", GOOD], {}),
        ([GOOD, GOOD], {}),
        ([{"instruction": "b"}, "bad"], {}),
        ([GOOD | {"id": "x"}, "bad"], {}),
        ([GOOD, "bad"], {"recipe": Recipe(fields={"max_steps": 3})}),
    ],
)
def test_a_batch_does_not_go_on_with_other_rows(rows: list[Any], options: dict[str, Any]) -> None:
    with pytest.raises(InputRefused, match="restore them, or choose another --out"):
        check(begun(GOOD, "bad"), *rows, **options)


def test_rows_of_which_none_can_be_used_are_no_batch() -> None:
    with pytest.raises(InputRefused, match="there are no rows"):
        check(None)
    with pytest.raises(InputRefused, match=r"(?s)7 of 7 rows.*row 1: it has.*row 5: it has.*\n… and 2 more"):
        check(None, *[{}] * 7)
    assert check(None, GOOD, {}).bad == 1
    with pytest.raises(InputRefused, match=r"1 of 2 rows can't be used:\nrow 2: it has no instruction"):
        check(None, GOOD, {}, strict=True)


# --- codes ----------------------------------------------------------------------------------------------


def test_the_codes_are_those_of_the_contract() -> None:
    assert ERROR_CODES == JOB_CODES
    assert PASSING < ERROR_CODES
    documented = set(re.findall(r"^\| `(\w+)` \| 4\d\d \|", (DOCS / "api.md").read_text(), re.MULTILINE))
    assert ABOUT_THE_ROW.issubset(documented)
