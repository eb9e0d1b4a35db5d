"""Instructions from columns: plain substitution, once, and nothing else."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from client.errors import ClientError

LONGEST_TEXT = 2**20
"""Characters of a template, and of what becomes of it: more than a server takes."""
_PARTS = re.compile(r"\{\{|\}\}|\{\s*([^{}]*?)\s*\}|[{}]")
_BRACES = {"{{": "{", "}}": "}"}


class InvalidTemplate(ClientError):
    """The template can't be read."""

    code = "invalid_template"


class MissingColumn(ClientError):
    """A row has no value for a column that the template names."""

    code = "missing_column"


class TooLong(ClientError):
    """The values make a text out of all proportion."""

    code = "too_long"


class Template:
    """A text with columns in braces, such as `Open {url}`. `{{` and `}}` are the braces themselves."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST_TEXT:
            raise InvalidTemplate(f"a template has at most {LONGEST_TEXT} characters")
        self._parts = list(_parts(text))

    def fill(self, columns: Mapping[str, Any]) -> str:
        """The text with the values in their places; braces in them mean nothing.

        Texts as they are, all else as JSON. Raises `MissingColumn`, also for null, and `TooLong`.
        """
        texts, length = [], 0
        for text, column in self._parts:
            texts.append(text if column is None else _value(columns, column))
            length += len(texts[-1])
            if length > LONGEST_TEXT:
                raise TooLong(f"the template makes a text of more than {LONGEST_TEXT} characters")
        return "".join(texts)


def _parts(text: str) -> Iterator[tuple[str, str | None]]:
    """Texts, and the columns between them: `("", "url")`."""
    end = 0
    for found in _PARTS.finditer(text):
        yield text[end : found.start()], None
        end = found.end()
        if found[0] in _BRACES:
            yield _BRACES[found[0]], None
        elif found[1]:
            yield "", found[1]
        else:
            raise InvalidTemplate(
                f"character {found.start() + 1} of the template: a brace without a column's name; "
                "write {{ or }} for the brace itself"
            )
    yield text[end:], None


def _value(columns: Mapping[str, Any], name: str) -> str:
    value = columns.get(name)
    if value is None:
        raise MissingColumn(f"there is no value for {{{name}}}")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
