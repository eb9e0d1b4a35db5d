"""Text that came from elsewhere, made fit for a terminal."""

import re

# What moves the cursor, changes the order of what is read, or can't be written. Tabs and newlines may stay.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """The text, with � for each character that a terminal would take for a command."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, most: int | None = None) -> str:
    """The same in one line, of at most so many characters."""
    line = " ".join(plain(text).split())
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def safe_json(document: str) -> str:
    """A JSON document with those characters escaped. Between its strings there are none."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
