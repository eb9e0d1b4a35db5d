"""What is submitted for a row, and what makes submitting it again harmless."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from client.batch.rows import FIELDS, MOST_BYTES, Row, Rows
from client.batch.templates import MissingColumn, Template, TooLong
from client.text import one_line

CREDENTIALS = frozenset({"authentication", "ark_apikey", "webhook_secret"})
"""Fields that may be renewed while a batch is under way, and that no instruction should repeat."""
PARTED = frozenset({"authentication", "metadata", "model"})
"""Fields whose parts may be columns of their own, such as `metadata.team`."""
BATCH_LABEL, ROW_LABEL = "batch", "row"
LONGEST_ID = 200


class BadRow(Exception):
    """Nothing can be submitted for the row; the message says why."""


@dataclass(frozen=True)
class Request:
    """What is submitted for a row of a batch."""

    row: int
    id: str
    fields: Mapping[str, Any]

    def key(self, attempt: int) -> str:
        """The idempotency key: the same for the same row of the same batch, whoever submits it when."""
        return f"{self.digest}-{attempt}"

    @cached_property
    def digest(self) -> str:
        """Of all that makes this request what it is; credentials may be renewed."""
        kept = {name: value for name, value in self.fields.items() if name not in CREDENTIALS}
        return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """How rows become requests: `fields` and `labels` are for those that do not have them."""

    template: Template | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def make(self, row: Row, batch: str) -> Mapping[str, Any]:
        """What is submitted for a row of the batch. Raises `BadRow`, and `MissingColumn` of the template."""
        if row.problem is not None:
            raise BadRow(row.problem)
        fields = {**self.fields, **request_fields(row.columns)}
        if self.template is not None:
            fields["instruction"] = self._instruction(self.template, row)
        if not isinstance(fields.get("instruction"), str) or not fields["instruction"].strip():
            raise BadRow("it has no instruction")
        fields["metadata"] = self._labelled(fields.get("metadata"), row, batch)
        _check(fields)
        return fields

    def _instruction(self, template: Template, row: Row) -> str:
        shown = {name: row.columns[name] for name in row.columns if name.partition(".")[0] not in CREDENTIALS}
        try:
            return template.fill(shown)
        except TooLong as error:
            raise BadRow(error.message) from None
        except MissingColumn as error:
            raise MissingColumn(f"row {row.number}: {error.message}") from None

    def _labelled(self, own: object, row: Row, batch: str) -> dict[str, Any]:
        """The row's labels, and those by which its task is found."""
        if not isinstance(own, dict | None):
            raise BadRow("metadata must be an object")
        ours = {BATCH_LABEL: batch, ROW_LABEL: row.number}
        if own and (taken := own.keys() & ours):
            raise BadRow(f"metadata.{min(taken)} is for this command to set")
        return {**self.labels, **(own or {}), **ours}


def is_field(name: str) -> bool:
    """Whether a column is a field of a request, or a part of one."""
    whole, _, part = name.partition(".")
    return name in FIELDS or (bool(part) and whole in PARTED)


def request_fields(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that the columns make. Raises `BadRow`."""
    fields = {name: value for name, value in columns.items() if name in FIELDS}
    for name in filter(is_field, columns.keys() - fields.keys()):
        whole, _, part = name.partition(".")
        parts = fields.setdefault(whole, {})
        if not isinstance(parts, dict):
            raise BadRow(f"{whole} must be an object")
        fields[whole] = {**parts, part: columns[name]}
    return fields


def _check(fields: Mapping[str, Any]) -> None:
    """Raises `BadRow` for what can't be sent."""
    try:
        size = len(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise BadRow("it holds a text or a number that can't be sent as JSON") from None
    if size > MOST_BYTES:
        raise BadRow(f"the request would be longer than {MOST_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row for which nothing can be submitted, and why."""

    row: int
    id: str
    problem: str


class Batch:
    """Rows, and the name under which they are submitted."""

    def __init__(self, name: str, rows: Rows, recipe: Recipe) -> None:
        self.name = name
        self._rows = rows
        self._recipe = recipe

    def requests(self) -> Iterator[Request | Refusal]:
        """One for each row, in order, read anew. Raises `UnreadableInput` and `MissingColumn`."""
        for row in self._rows:
            name = one_line(row.id, LONGEST_ID)
            try:
                yield Request(row.number, name, self._recipe.make(row, self.name))
            except BadRow as error:
                yield Refusal(row.number, name, str(error))
