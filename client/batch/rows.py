"""The rows of a file: JSON lines, CSV or YAML, one after the other and in bounded memory.

What is wrong with one row is told in its place, and the others are read on. Where it can't be known any more
where a row begins, the file as a whole is refused.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Any

import yaml

from client.calls import TaskRequest
from client.errors import ClientError
from client.text import one_line

FIELDS = frozenset(TaskRequest.__annotations__)
"""What a request may have; every other column is for templates."""
MOST_BYTES = 2**20
"""Of a row, which is as much as the server takes."""
AHEAD_BYTES = 2**16
"""So far a reader may be ahead of the row."""
DEEPEST = 12
"""Levels of nesting; the request itself needs some of those that the server takes."""
MOST_NODES = 10_000
LONGEST_EXCERPT = 60


class Format(StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    CSV = "csv"
    YAML = "yaml"


SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".yaml": Format.YAML,
    ".yml": Format.YAML,
}


class UnreadableInput(ClientError):
    """The file as a whole can't be used; the message says where it goes wrong."""

    code = "unreadable_input"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input, the first of which is number 1: its columns, or what is wrong with it."""

    number: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def id(self) -> str:
        """Its own name if it has one, else its number."""
        named = self.columns.get("id")
        is_name = isinstance(named, str | int) and not isinstance(named, bool) and named != ""
        return str(named) if is_name else str(self.number)


class Rows:
    """The rows of a file, which can be rewound, to be read as often as is needed."""

    def __init__(self, stream: IO[bytes], form: Format) -> None:
        self._stream = stream
        self._read = READERS[form]

    def __iter__(self) -> Iterator[Row]:
        """Raises `UnreadableInput`."""
        self._stream.seek(0)
        for number, found in enumerate(self._read(_Meter(self._stream)), 1):
            yield _row(number, found)


class _Bad(str):
    """What is wrong with a row, where its value would be."""

    __slots__ = ()


def _row(number: int, found: object) -> Row:
    if isinstance(found, _Bad):
        return Row(number, problem=str(found))
    if not isinstance(found, dict):
        return Row(number, problem="it is no object")
    if _deeper(found, DEEPEST):
        return Row(number, problem=f"it is nested more than {DEEPEST} levels deep")
    return Row(number, found)


def _deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper(one, levels - 1) for one in inner)


class _Meter:
    """Bytes from a stream, refused where a row does not end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._since = 0

    def next_row(self) -> None:
        """The row before has ended."""
        self._since = 0

    def read(self, size: int = MOST_BYTES) -> bytes:
        """What there is, at most so many bytes. Raises `UnreadableInput`."""
        return self._counted(self._stream.read(size))

    def readline(self) -> bytes:
        """A line, or the beginning of one that is too long. Raises `UnreadableInput`."""
        return self._counted(self._stream.readline(MOST_BYTES + 1))

    def _counted(self, data: bytes) -> bytes:
        self._since += len(data)
        if self._since > MOST_BYTES + AHEAD_BYTES:
            raise UnreadableInput(f"a row does not end within {MOST_BYTES} bytes")
        return data


def _lines(meter: _Meter) -> Iterator[tuple[int, str | None]]:
    """The numbered lines; None for one that is too long. Raises `UnreadableInput`."""
    number, goes_on = 1, False
    while line := meter.readline():
        whole, first = line.endswith(b"\n") or len(line) <= MOST_BYTES, not goes_on
        if first:
            yield number, _text(line, number) if whole else None
        number, goes_on = number + whole, not whole
        meter.next_row()


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UnreadableInput(f"line {number} is not UTF-8") from None


# --- JSON lines -----------------------------------------------------------------------------------------


def _read_json_lines(meter: _Meter) -> Iterator[object]:
    for number, line in _lines(meter):
        if line is None:
            yield _Bad(f"line {number} is longer than {MOST_BYTES} bytes")
        elif line.strip():
            yield _json(number, line)


def _json(number: int, line: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return _Bad(f"line {number} is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return _Bad(f"line {number} is not JSON: {one_line(str(error), LONGEST_EXCERPT)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in one object twice")
    return found


# --- CSV ------------------------------------------------------------------------------------------------


def _read_csv(meter: _Meter) -> Iterator[object]:
    reader = csv.reader(_csv_lines(meter), strict=True)
    header: list[str] | None = None
    try:
        for record in reader:
            if record and header is None:
                header = _header(record)
            elif record and header is not None:
                yield _record(header, record, reader.line_num)
            meter.next_row()
    except csv.Error as error:
        raise UnreadableInput(f"line {reader.line_num}: {error}; is a quote missing?") from None


def _csv_lines(meter: _Meter) -> Iterator[str]:
    number = 0
    while line := meter.readline():
        number += 1
        yield _text(line, number)


def _header(record: list[str]) -> list[str]:
    names = [name.strip() for name in record]
    if "" in names or len(set(names)) < len(names):
        raise UnreadableInput("the first line must name each column, no two the same")
    return names


def _record(header: list[str], record: list[str], line: int) -> object:
    if len(record) != len(header):
        return _Bad(f"line {line} has {len(record)} cells, the first line {len(header)}")
    # An empty cell leaves a field of the request to its default; for a template it is an empty text.
    cells = zip(header, record, strict=True)
    return {name: cell for name, cell in cells if cell or name.partition(".")[0] not in FIELDS}


# --- YAML -----------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Values as JSON has them: `no`, `12:30` and `2026-01-31` are texts.

    Anchors, which may expand without end, and tags are refused; so are very many values in a row, which take
    far more memory than they have bytes.
    """

    nodes = 0
    """In the row so far."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor or getattr(event, "tag", None):
            raise _refused("anchors, aliases and tags can't be used", event.start_mark)
        self.nodes = 1 if parent is None else self.nodes + 1
        if self.nodes > MOST_NODES:
            raise _refused(f"a row has more than {MOST_NODES} values", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        found = super().construct_mapping(node, *args, **kwargs)
        if len(found) < len(node.value) or not all(isinstance(name, str) for name in found):
            raise _refused("names must be texts, no two in a mapping the same", node.start_mark)
        return found


_Loader.yaml_implicit_resolvers = {}
for kind, pattern, first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"-?(0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), first)


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _read_yaml(meter: _Meter) -> Iterator[object]:
    try:
        for found in _documents(_Loader(meter)):
            meter.next_row()
            yield found
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UnreadableInput(f"line {line}: {one_line(str(error.problem), LONGEST_EXCERPT)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableInput(f"not YAML: {one_line(str(error), LONGEST_EXCERPT)}") from None


def _documents(loader: yaml.SafeLoader) -> Iterator[object]:
    """The values of all documents; of a list its items, each as soon as it is read."""
    loader.get_event()
    while not loader.check_event(yaml.StreamEndEvent):
        loader.get_event()
        if loader.check_event(yaml.SequenceStartEvent):
            loader.get_event()
            while not loader.check_event(yaml.SequenceEndEvent):
                yield _value(loader)
            loader.get_event()
        elif (value := _value(loader)) is not None:  # an empty one is no row
            yield value
        loader.get_event()


def _value(loader: yaml.SafeLoader) -> object:
    value: object = loader.construct_document(loader.compose_node(None, 0))
    return value


READERS: Mapping[Format, Callable[[_Meter], Iterator[object]]] = {
    Format.JSONL: _read_json_lines,
    Format.CSV: _read_csv,
    Format.YAML: _read_yaml,
}
