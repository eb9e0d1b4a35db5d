"""A request's JSON body, whatever its `Content-Type` says; without anything that can't be stored."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from api.services import LARGEST_BODY_BYTES
from shared.errors import InvalidRequest

DEEPEST = 16
"""Levels of nesting; the contract's own requests need five."""
LONGEST_INTEGER = 20
"""Characters: all that 64 bits need, sign included."""
LARGEST_INTEGER = 2**63 - 1


class JsonRequest(Request):
    """A request whose body is JSON, since several of the manual's clients do not say so."""

    def get_json(self, *_: object, **__: object) -> Any:
        """The body's object; an empty body is an empty one. Raises `InvalidRequest`."""
        try:
            body = self.get_data()
        except ParseException:
            raise InvalidRequest("the body's chunks can't be read", field="body") from None
        # One without a length is not refused by Werkzeug, but cut off a byte later.
        if len(body) > LARGEST_BODY_BYTES:
            raise RequestEntityTooLarge
        return read_object(body)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `InvalidRequest` that names what is wrong with it."""
    try:
        value = json.loads(body or b"{}", object_pairs_hook=_unique, parse_int=_integer)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at {where}", field="body") from None
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON", field="body") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", field="body")
    _check(value, "", 1)
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        _check(twice, "", 1)
        raise InvalidRequest(f"{twice[:100]}: stands in one object twice", field=twice[:100])
    return found


def _integer(text: str) -> float:
    return int(text) if len(text) <= LONGEST_INTEGER else math.inf


def _check(value: Any, where: str, depth: int) -> None:
    """Raises `InvalidRequest` for what PostgreSQL or JSON can't hold, and for bottomless nesting."""
    named = where or "body"
    if depth > DEEPEST:
        raise InvalidRequest(f"{named}: nested more than {DEEPEST} levels deep", field=named)
    if isinstance(value, str) and not storable(value):
        raise InvalidRequest(f"{named}: must not hold NUL or lone surrogates", field=named)
    if isinstance(value, int | float) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:  # NaN, too
        raise InvalidRequest(f"{named}: must be a number of at most 64 bits", field=named)
    if isinstance(value, dict):
        for name, inner in value.items():
            _check(name, where, depth)
            _check(inner, f"{where}.{name[:100]}" if where else name[:100], depth + 1)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]", depth + 1)


def storable(text: str) -> bool:
    """Whether PostgreSQL and JSON can hold the text."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
