"""`lybic-guiagent parse`: the parser of model answers for other programs, by standard input and output.

It reads bytes, whatever they are, and writes one line of ASCII for each answer.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Final

import typer

from shared.errors import GuiAgentError, InvalidRequest
from worker import uitars
from worker.uitars import Dialect, Vocabulary

MOST_BYTES = 2**22
"""An answer, or a line with one, may be so long: memory stays bounded whatever is sent."""
MOST_PIXELS = 100_000
_CHOICES: Final = {"dialect": uitars.DIALECTS, "vocabulary": uitars.VOCABULARIES}
_SIZE = re.compile(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", re.ASCII)

Screen = tuple[int, int]


def parse(
    *,
    dialect: Annotated[Dialect, typer.Option(help="How the model writes places.")] = "doubao",
    vocabulary: Annotated[Vocabulary, typer.Option(help="Which calls the model was offered.")] = "computer",
    screen: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Size of the screenshot that the model saw; needed by ui-tars-1.5, which counts its pixels.",
        ),
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="Read many answers: JSON objects, one a line, with text, dialect, vocabulary and screen, a "
            "list of two numbers. What an object leaves out is taken from the options.",
        ),
    ] = False,
) -> None:
    """Read a model's answer from standard input; print what it says as one line of JSON.

    The line holds the thought, the Lybic actions, the control call, and the error if the answer is unusable.
    """
    needed = dialect == "ui-tars-1.5" and not jsonl
    options = {"dialect": dialect, "vocabulary": vocabulary, "screen": _size(screen, needed=needed)}
    if jsonl:
        for line in _lines(sys.stdin.buffer):
            _print(_result(line, options, is_line=True))
    else:
        _print(_result(sys.stdin.buffer.read(MOST_BYTES + 1), options, is_line=False))


def _size(screen: str | None, *, needed: bool) -> Screen | None:
    if screen is None and not needed:
        return None
    size = _SIZE.fullmatch(screen or "")
    if not size or max(map(int, size.groups())) > MOST_PIXELS:
        raise typer.BadParameter("give the size as WIDTHxHEIGHT, such as 1920x1080", param_hint="--screen")
    return int(size[1]), int(size[2])


def _print(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines, those that are too long cut to one byte more than is allowed."""
    while line := stream.readline(MOST_BYTES + 1):
        yield line
        while len(line) > MOST_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MOST_BYTES + 1)


def _result(data: bytes, options: dict[str, Any], *, is_line: bool) -> dict[str, Any]:
    """What one answer says, or what is wrong with it."""
    try:
        text = _text(data)
        asked = _asked(text, options) if is_line else {"text": text, **options}
        return {**uitars.parse(**asked).as_json(), "error": None}
    except GuiAgentError as error:
        said = {"code": error.code, "message": error.message}
        return {"thought": "", "actions": [], "control": None, "error": said}


def _text(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise InvalidRequest(f"longer than {MOST_BYTES} bytes")
    return data.decode("utf-8-sig", "replace")


def _asked(line: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """What one line asks for. Raises `InvalidRequest`."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidRequest("the line is not JSON") from None
    if not isinstance(given, dict):
        raise InvalidRequest("the line is not a JSON object")
    options = {"text": None, **defaults}
    options |= {name: given[name] for name in options if given.get(name) is not None}
    if not isinstance(options["text"], str):
        raise InvalidRequest("text must be a string")
    for name, known in _CHOICES.items():
        if options[name] not in known:
            raise InvalidRequest(f"{name} must be one of: {', '.join(known)}")
    options["screen"] = _checked_screen(options["screen"], needed=options["dialect"] == "ui-tars-1.5")
    return options


def _checked_screen(screen: Any, *, needed: bool) -> Screen | None:
    match screen:
        case None if not needed:
            return None
        case [int(width), int(height)] if {type(width), type(height)} == {int}:
            if min(width, height) >= 1 and max(width, height) <= MOST_PIXELS:
                return width, height
    raise InvalidRequest(f"screen must be [width, height], each from 1 to {MOST_PIXELS}")
