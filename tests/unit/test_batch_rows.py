"""Rows of a batch, as people write them and as nobody should."""

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.batch.rows import MOST_BYTES, Format, Row, Rows, UnreadableInput

JSONL, CSV, YAML = Format


def read(data: bytes, form: Format) -> list[Row]:
    return list(Rows(io.BytesIO(data), form))


def columns(data: bytes, form: Format) -> list[Any]:
    rows = read(data, form)
    assert [row.problem for row in rows] == [None] * len(rows)
    return [row.columns for row in rows]


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (JSONL, b'{"url": "a", "what": "x\\ny"}\n\n{"url": "b", "what": "\xe4\xb8\xad"}'),
        (JSONL, b'\xef\xbb\xbf{"url": "a", "what": "x\\ny"}\r\n{"url": "b", "what": "\xe4\xb8\xad"}\r\n'),
        (CSV, b'url,what\na,"x\ny"\n\nb,\xe4\xb8\xad\n'),
        (CSV, b"\xef\xbb\xbfurl, what\nb,c\n".replace(b"b,c", b'a,"x\ny"\nb,\xe4\xb8\xad')),
        (YAML, b"- url: a\n  what: |-\n    x\n    y\n- {url: b, what: \xe4\xb8\xad}\n"),
        (YAML, b'url: a\nwhat: "x\\ny"\n---\nurl: b\nwhat: \xe4\xb8\xad\n---\n'),
        (YAML, b'--- [{url: a, what: "x\\ny"}]\n--- [{url: b, what: \xe4\xb8\xad}]\n'),
    ],
)
def test_the_same_rows_in_each_format(form: Format, data: bytes) -> None:
    assert columns(data, form) == [{"url": "a", "what": "x\ny"}, {"url": "b", "what": "中"}]
    rows = Rows(io.BytesIO(data), form)
    assert [list(rows), list(rows)] == [read(data, form)] * 2, "they can be read again"


def test_yaml_has_the_values_of_json() -> None:
    plain = b"- {a: no, b: 12:30, c: 2026-01-31, d: 0x10, e: 010, f: 1_000, g: .inf, h: '1', i: <<}"
    (texts,) = columns(plain, YAML)
    assert list(texts.values()) == ["no", "12:30", "2026-01-31", "0x10", "010", "1_000", ".inf", "1", "<<"]
    assert columns(b"- {a: -7, b: 1.5e3, c: true, d: ~, e: }", YAML) == [
        {"a": -7, "b": 1500.0, "c": True, "d": None, "e": None}
    ]


def test_an_empty_cell_leaves_a_field_to_its_default() -> None:
    data = b"id,instruction,max_steps,metadata.team,url\n7,Open it,,,\n"
    assert columns(data, CSV) == [{"id": "7", "instruction": "Open it", "url": ""}]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({}, "9"),
        ({"id": "x"}, "x"),
        ({"id": 7}, "7"),
        ({"id": ""}, "9"),
        ({"id": True}, "9"),
        ({"id": []}, "9"),
    ],
)
def test_a_row_is_called_by_its_id_or_its_number(columns: dict[str, Any], name: str) -> None:
    assert Row(9, columns).id == name


@pytest.mark.parametrize(
    ("form", "bad", "problem"),
    [
        (JSONL, b"{", "line 2 is not JSON"),
        (JSONL, b"[1]", "it is no object"),
        (JSONL, b'{"a": 1, "a": 2}', "a name stands in one object twice"),
        (JSONL, b"[" * 100_000, "line 2 is not JSON"),
        (JSONL, b'{"a":' * 20 + b"1" + b"}" * 20, "nested more than 12 levels deep"),
        (JSONL, b'{"a": ' + b"9" * 5000 + b"}", "line 2 is not JSON"),
        (JSONL, b'{"a": "' + b"x" * (3 * MOST_BYTES) + b'"}', f"line 2 is longer than {MOST_BYTES} bytes"),
        (CSV, b"1,2", "line 2 has 2 cells, the first line 1"),
        (YAML, b"- just text", "it is no object"),
        (YAML, b"- " + b"{a: " * 20 + b"1" + b"}" * 20, "nested more than 12 levels deep"),
    ],
)
def test_a_bad_row_is_told_in_its_place(form: Format, bad: bytes, problem: str) -> None:
    good = {JSONL: b'{"a": "1"}', CSV: b"1", YAML: b'- a: "1"'}[form]
    before = b"a" if form is CSV else good
    data = b"\n".join([before, bad, good])
    rows = read(data, form)
    assert problem in str(rows[-2].problem)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1].columns == {"a": "1"}


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghij"
)


@pytest.mark.parametrize(
    ("form", "data", "problem"),
    [
        (JSONL, b'{"a": 1}\n\xff\xfe\n', "line 2 is not UTF-8"),
        (JSONL, '{"a": 1}'.encode("utf-16"), "line 1 is not UTF-8"),
        (CSV, b"\x7fELF\x02\x01\x01\xff", "line 1 is not UTF-8"),
        (CSV, b'a\n"1\n2\n', "line 3: unexpected end of data; is a quote missing?"),
        (CSV, b'a\n"1"2\n', "line 2: ',' expected after '\"'"),
        (CSV, b"a\n" + b"x" * 200_000, "field larger than field limit"),
        (CSV, b"a,a\n1,2\n", "the first line must name each column"),
        (CSV, b"a,\n1,2\n", "the first line must name each column"),
        (YAML, BOMB, "line 1: anchors, aliases and tags can't be used"),
        (YAML, b"- !!python/object/apply:os.system [ls]", "anchors, aliases and tags can't be used"),
        (YAML, b"- {a: 1, a: 2}", "names must be texts, no two in a mapping the same"),
        (YAML, b"- {1: a}", "names must be texts"),
        (YAML, b"- ? [a]\n  : 1", "unhashable"),
        (YAML, b"- a: [\n- b", "line 2"),
        (YAML, b"[" * 100_000, "recursion"),
        (YAML, b"- a: \x00", "not YAML"),
        (YAML, b"- a: \xff", "not YAML"),
        (YAML, b"- a: " + b"9" * 5000, "not YAML"),
    ],
)
def test_an_unreadable_file_is_refused_as_a_whole(form: Format, data: bytes, problem: str) -> None:
    with pytest.raises(UnreadableInput) as refused:
        read(data, form)
    assert problem in refused.value.message


@pytest.mark.parametrize(
    ("form", "start", "piece"),
    [
        (CSV, b'a\n"', b"x"),
        (CSV, b"a,b\n", b'x","\n'),
        (YAML, b'- a: "', b"x"),
        (YAML, b"- a: [", b"x, "),
        (YAML, b"- ", b"- "),
    ],
)
def test_a_row_without_end_is_not_read_to_the_end(form: Format, start: bytes, piece: bytes) -> None:
    stream = io.BytesIO(start + piece * (10 * MOST_BYTES // len(piece)))
    with pytest.raises(UnreadableInput):
        list(Rows(stream, form))
    assert stream.tell() < 2 * MOST_BYTES


def test_a_line_that_is_far_too_long_takes_little_memory() -> None:
    stream = io.BytesIO(b'{"a": "' + b"x" * (40 * MOST_BYTES) + b'"}\n{}')
    tracemalloc.start()
    try:
        assert [row.problem is None for row in Rows(stream, JSONL)] == [False, True]
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_BYTES
    finally:
        tracemalloc.stop()


@given(
    st.binary(max_size=200)
    | st.text('{}[]":,-\n\r\t &*!|>?%@`ab1\0\ufeff\u2028', max_size=200).map(str.encode)
)
@settings(max_examples=150)
def test_whatever_comes_is_rows_or_refused(data: bytes) -> None:
    for form in Format:
        try:
            rows = read(data, form)
        except UnreadableInput:
            continue
        else:
            assert [row.number for row in rows] == list(range(1, len(rows) + 1))
            assert all(isinstance(name, str) for row in rows for name in row.columns)


TEXTS = st.text(
    st.characters(
        codec="utf-8",
        exclude_categories=("Cc", "Cs"),
        exclude_characters="\ufeff\u2028\u2029\ufffe\uffff\x85",
    )
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)


@given(st.lists(st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS, max_size=3), max_size=4), max_size=5))
@settings(max_examples=100)
def test_what_json_writes_json_lines_and_yaml_read(rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    assert columns(b"\n".join(lines), JSONL) == rows
    assert columns(b"".join(b"- %s\n" % line for line in lines), YAML) == rows


@given(st.data())
@settings(max_examples=100)
def test_what_csv_writes_csv_reads(data: st.DataObject) -> None:
    header = data.draw(st.lists(TEXTS.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
    rows = data.draw(
        st.lists(st.fixed_dictionaries({name: TEXTS.filter(bool) for name in header}), max_size=4)
    )
    written = io.StringIO()
    writer = csv.DictWriter(written, header, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    assert columns(written.getvalue().encode(), CSV) == rows
