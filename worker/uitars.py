"""Reads what a UI-TARS model wrote: text in; a `Decision` out, or `UnusableOutput` that says what to mend.

The text is hostile input. It is read token by token and never evaluated, and any string gives one of the two
results in linear time: patterns are bounded, and no stretch is searched twice for the end of a string.

Which calls count. The last `Action:` outside the strings of calls rules; one in the middle of a line is taken
for one only if a call follows it directly. Without any, the calls that begin a line count. Prose between and
after calls is skipped, but a call that begins a line or follows another never is: if it can't be read, or its
name is unknown, the whole answer is unusable, for half a decision is worse than asking again. Only what comes
after an ending call is ignored.

Where a string ends. At its first unescaped quote, if `)` or another argument follows, so that text which is
escaped properly is read as Python would read it. If not, that quote is an apostrophe that should have been
escaped, as in `type(content='don't')`: then the string ends at the first unescaped quote before `)` at the
end of its line, or before `, name=`. This guess never reaches over a line that begins with `Action:` etc.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from math import ceil, floor, sqrt
from typing import Final, Literal, get_args

from shared.errors import UnusableOutput
from worker import actions
from worker.actions import Action, Control, ControlName, Decision, Length, Point

__all__ = [
    "DIALECTS",
    "VOCABULARIES",
    "Dialect",
    "UnusableOutput",
    "Vocabulary",
    "parse",
    "smart_resize",
    "words",
]

Dialect = Literal["doubao", "ui-tars-1.5"]
Vocabulary = Literal["computer", "mobile"]
DIALECTS: Final[tuple[str, ...]] = get_args(Dialect)
VOCABULARIES: Final[tuple[str, ...]] = get_args(Vocabulary)

MAX_CALLS = 50
MAX_ARGUMENTS = 8
MAX_WAIT_MS = 60_000
WAIT_MS = 5_000  # UI-TARS was trained with "wait() #Sleep for 5s"
LONG_PRESS_MS = 1_000

_GAP = r"\s{0,99}+"
_NAME = r"[A-Za-z_][A-Za-z0-9_.]{0,39}+"
_INDENT = r"[ \t>*#`-]{0,9}+"
_COLON = r"[ \t*]{0,4}+[:：]\**"
_ACTION = rf"(?:actions?|动作){_COLON}"
_LABEL = rf"(thought|思考|reflection|action_summary|summary|actions?|动作){_COLON}"
_THINK = re.compile(r"\s*<(think\w{0,60}|thought)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_LABELS = re.compile(rf"(?m)(?:^|(?<=['\"(]\))){_INDENT}{_LABEL}", re.IGNORECASE)
_MARKUP = re.compile(r"(?m)^[ \t]{0,9}+(?:```\w{0,12}|</?\w{1,80}>)[ \t]{0,9}+$|</?think\w{0,60}>")

# Where calls may begin: a marker at the start of a line, one within it (but not quoted), or a call.
_ANCHOR = re.compile(
    rf"(?m)^{_INDENT}(?P<line>{_ACTION})"
    rf"|(?<![A-Za-z0-9_\"'`“‘])(?P<inline>{_ACTION})"
    rf"|^{_INDENT}(?:<\w{{1,20}}>|\d{{1,2}}[.)、][ \t]?)?(?P<name>{_NAME})\(",
    re.IGNORECASE,
)
_FENCE = r"(?:```\w{0,12}\s{1,9}+)?[`*]{0,3}(?:\d[.)、])?"
_FIRST_CALL = re.compile(
    rf"{_GAP}{_FENCE}{_GAP}(?P<name>{_NAME})(?:[ \t]?\(|(?=[ \t`]{{0,9}}+(?:\Z|\n|<\|)))"
)
_NEXT_CALL = re.compile(rf"[\s;,`]*+(?P<name>{_NAME})\(")

_END_OF_CALL = re.compile(rf"{_GAP}(?:,{_GAP})?\)")
_CUT_SHORT = re.compile(rf"[ \t]{{0,99}}+(?:\n|\Z)(?!{_GAP},)")
_COMMA = re.compile(rf"{_GAP},{_GAP}")
_BLANKS = re.compile(_GAP)
_KEYWORD = re.compile(rf"({_NAME}){_GAP}={_GAP}")
_QUOTE = re.compile(r"'''|\"\"\"|'|\"")
_PLACE = (
    r"(?:<point>[\d\s.,+-]{1,99}</point>|<bbox>[\d\s.,+-]{1,99}</bbox>"
    r"|<\|box_start\|>[\d\s.,+()-]{1,99}<\|box_end\|>|\([\d\s.,+-]{1,99}\)|\[[\d\s.,+-]{1,99}\])"
)
# Some models drop the quote after a point, or the quote and the bracket: that is plain at the end of a line.
_PLACE_VALUE = re.compile(
    rf"{_GAP}{_PLACE}[ \t]{{0,9}}+"
    rf"(?=['\"]{{1,3}}{_GAP}[,)]|['\"]{{0,3}}[ \t]{{0,9}}+\)?[ \t]{{0,9}}+(?:\n|\Z))"
)
_BARE_VALUE = re.compile(rf"{_PLACE}|[A-Za-z0-9_.+-]{{1,64}}+")
_SURE_END = re.compile(rf"{_GAP}(?:(?:,{_GAP})?\)(?!['\"])|,{_GAP}(?:{_NAME}{_GAP}=|['\"<(\[\d+-]))")
_LIKELY_END = rf"{_GAP}(?:(?:,{_GAP})?\)[ \t]{{0,99}}+(?:\Z|[\n\r;#`<])|,{_GAP}{_NAME}{_GAP}=)"
# A quote is unescaped after an even number of backslashes.
_UNESCAPED: Final = {quote: rf"(?<!\\)(?:\\\\)*+{quote}" for quote in ("'", '"', "'''", '"""')}
_FIRST_QUOTE: Final = {quote: re.compile(pattern) for quote, pattern in _UNESCAPED.items()}
_LIKELY_QUOTE: Final = {
    quote: re.compile(rf"(?m){pattern}(?={_LIKELY_END})|^{_INDENT}{_LABEL}", re.IGNORECASE)
    for quote, pattern in _UNESCAPED.items()
}
# Prose with a quote and a bracket in the line after a call: its string was torn at an inner quote.
_TORN = re.compile(r"[^\n]{1,300}?['\"]\s{0,9}\)")

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_ESCAPE = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrt'\"\\]))"
)
_WHITESPACE_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_CONTROL_CHARACTERS: Final = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
_COORDINATE_SYNTAX = re.compile(r"</?(?:point|bbox)>|<\|box_(?:start|end)\|>|[()\[\],，\s]+")
_NUMBER = re.compile(r"[+-]?(?:\d{1,7}(?:\.\d{0,40})?|\.\d{1,40})")
_PRECISION = Decimal("0.0001")


def parse(
    text: str, *, dialect: str = "doubao", vocabulary: str = "computer", screen: tuple[int, int] | None = None
) -> Decision:
    """The decision in a model's answer.

    `dialect` says what coordinates mean: thousandths of the screen for `doubao`; for `ui-tars-1.5` pixels of
    the image after `smart_resize`, which needs the `screen` (width, height). `vocabulary` is `computer` or
    `mobile`. Raises `UnusableOutput` for any text without a decision, ValueError only for unknown settings.

    >>> decision = parse("Thought: Save it.\\nAction: hotkey(key='ctrl s')")
    >>> decision.thought, decision.actions
    ('Save it.', ({'type': 'keyboard:hotkey', 'keys': 'ctrl+s'},))

    Several calls are done in order, up to one that ends the task.

    >>> decision = parse("Action: open_app(app_name='Maps')\\nfinished(content='Open')", vocabulary="mobile")
    >>> decision.actions, decision.control
    (({'type': 'os:startAppByName', 'name': 'Maps'},), Control(name='finished', content='Open'))

    Lybic's lengths are fractions: here of the 1932 pixels that the model sees of 1920.

    >>> parse("hover(start_box='(483,0)')", dialect="ui-tars-1.5", screen=(1920, 1080)).actions[0]["x"]
    {'type': '/', 'numerator': 483, 'denominator': 1932}

    What can't be read is said to the model.

    >>> parse("Action: click(point='<point>1200 10</point>')")
    Traceback (most recent call last):
    shared.errors.UnusableOutput: click() points outside the screen: x goes from 0 to 1000. You wrote: \
click(point='<point>1200 10</point>')
    """
    places = _places(dialect, screen)
    if vocabulary not in _VERBS:
        raise ValueError(f"unknown vocabulary {vocabulary!r}")
    raw = _storable(text.removeprefix("\ufeff"))
    think = _THINK.match(raw)
    body = raw[think.end() :] if think else raw
    section = _Reader(body, _VERBS[vocabulary]).ruling_section()
    if not section.calls:
        raise _no_call(section, vocabulary, places)
    said, end = _interpret(body, section.calls, vocabulary, places)
    start = section.calls[0].start
    thought = _thought(body[: start if section.start is None else section.start])
    return Decision(
        thought=thought or (think[2].strip() if think else ""),
        actions=tuple(item for item in said if isinstance(item, dict)),
        notes=tuple(item for item in said if isinstance(item, Control) and not item.ends),
        control=next((item for item in said if isinstance(item, Control) and item.ends), None),
        call=body[start:end].strip(),
        raw=raw,
    )


def words(vocabulary: str) -> dict[str, list[str]]:
    """The names of a vocabulary's calls, and the further names that each of them answers to.

    >>> words("mobile")["click"]
    ['tap', 'left_single', 'left_click']
    """
    return {name: aliases for name, *aliases in map(str.split, _TABLES[vocabulary])}


def smart_resize(width: int, height: int) -> tuple[int, int]:
    """The size at which UI-TARS 1.5 sees an image: multiples of 28, 100·28² to 16384·28² pixels in all.

    As the preprocessor of Qwen2.5-VL does it; Python's `round` takes halves to the even side, as it must.

    >>> smart_resize(1920, 1080)
    (1932, 1092)
    """
    least, most = 100 * 28 * 28, 16384 * 28 * 28
    wide, high = max(28, round(width / 28) * 28), max(28, round(height / 28) * 28)
    if wide * high > most:
        ratio = sqrt(width * height / most)
        wide, high = max(28, floor(width / ratio / 28) * 28), max(28, floor(height / ratio / 28) * 28)
    elif wide * high < least:
        ratio = sqrt(least / (width * height))
        wide, high = ceil(width * ratio / 28) * 28, ceil(height * ratio / 28) * 28
    return wide, high


@dataclass(frozen=True, slots=True)
class _Places:
    """How places are written: in which units of width and height, and what the model is told of it."""

    units: tuple[int, int]
    start: str
    end: str


def _places(dialect: str, screen: tuple[int, int] | None) -> _Places:
    if dialect == "doubao":
        return _Places((1000, 1000), "point='<point>x y</point>'", "end_point='<point>x y</point>'")
    if dialect != "ui-tars-1.5":
        raise ValueError(f"unknown dialect {dialect!r}")
    if screen is None or min(screen) < 1:
        raise ValueError("the dialect ui-tars-1.5 needs the size of the screen")
    return _Places(smart_resize(*screen), "start_box='(x,y)'", "end_box='(x,y)'")


def _storable(text: str) -> str:
    """Without what PostgreSQL and UTF-8 can't hold: no NUL, surrogates joined in pairs or else U+FFFD."""
    return _SURROGATE.sub("\ufffd", _SURROGATES.sub(_join, text.replace("\0", "")))


def _join(pair: re.Match[str]) -> str:
    high, low = map(ord, pair[0])
    return chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)


def _thought(head: str) -> str:
    """The last thought before the calls, or else the summary, the reflection, or the prose as it stands."""
    head = _MARKUP.sub("", head)
    labels = list(_LABELS.finditer(head))
    starts = [label.start() for label in labels] + [len(head)]
    parts = {"": head[: starts[0]].strip()}
    for label, end in zip(labels, starts[1:], strict=True):
        parts[label[1].lower()] = head[label.end() : end].strip()
    order = ("thought", "思考", "action_summary", "summary", "reflection", "")
    return next((parts[label] for label in order if parts.get(label)), "")


def _no_call(section: "_Section", vocabulary: str, places: _Places) -> UnusableOutput:
    if section.stray:
        return _unknown(section.stray, vocabulary)
    return UnusableOutput(
        f"No action found. Write one call after 'Action:', such as Action: click({places.start})"
    )


def _unknown(name: str, vocabulary: str) -> UnusableOutput:
    return UnusableOutput(f"There is no action named {name!r}. Use one of: {', '.join(words(vocabulary))}.")


# Reading: from text to calls, whose arguments are still stretches of the text.


@dataclass(frozen=True, slots=True)
class _Value:
    """The text from `start` to `end`; `after` is where reading goes on. `place` marks coordinate syntax."""

    start: int
    end: int
    after: int
    quoted: bool = False
    place: bool = False


@dataclass(slots=True)
class _Call:
    name: str
    start: int
    end: int
    positional: list[_Value] = field(default_factory=list)
    keywords: dict[str, _Value] = field(default_factory=dict)
    problem: str | None = None


@dataclass(slots=True)
class _Section:
    """The calls after one marker, or those before any. `stray` names a call that may have been prose."""

    start: int | None = None
    calls: list[_Call] = field(default_factory=list)
    stray: str | None = None


class _Reader:
    """One pass over a text. Values are remembered by place: calls that fail may share what follows them."""

    def __init__(self, text: str, verbs: "dict[str, _Verb]") -> None:
        self._text = text
        self._verbs = verbs
        self._read = 0
        self._values: dict[int, _Value | None] = {}
        self._ends: dict[str, list[tuple[int, bool]]] = {}

    def ruling_section(self) -> _Section:
        """The calls after the last marker, or without one those that begin a line and have a known name."""
        section, position = _Section(), 0
        while anchor := _ANCHOR.search(self._text, position):
            position = anchor.end()
            opening = anchor if anchor["name"] else _FIRST_CALL.match(self._text, position)
            known = opening is not None and _plain(opening["name"]) in self._verbs
            if anchor["line"] or (anchor["inline"] and known):
                section = _Section(anchor.start())
            elif anchor["inline"] or not (known or section.start is not None):
                section.stray = section.stray or anchor["name"]
                continue
            position = self._read_calls(opening, section) or position
        return section

    def _read_calls(self, opening: re.Match[str] | None, section: _Section) -> int:
        """Reads a call and those that follow it directly. Returns where to go on, 0 if there was none."""
        position = 0
        while opening:
            self._read += 1
            if self._read > MAX_CALLS:
                raise UnusableOutput(f"More than {MAX_CALLS} calls in one answer. Give only the next step.")
            call = self._read_call(opening)
            section.calls.append(call)
            position = opening.end() if call.problem else call.end
            opening = None if call.problem else _NEXT_CALL.match(self._text, position)
        return position

    def _read_call(self, opening: re.Match[str]) -> _Call:
        call = _Call(opening["name"], opening.start("name"), opening.end())
        try:
            if opening[0].endswith("("):
                self._read_arguments(call)
        except UnusableOutput as error:
            call.problem = error.message
        return call

    def _read_arguments(self, call: _Call) -> None:
        value = None
        while not (closing := _END_OF_CALL.match(self._text, call.end)):
            if value and value.place and _CUT_SHORT.match(self._text, call.end):
                return
            value = self._read_argument(call)
        call.end = closing.end()

    def _read_argument(self, call: _Call) -> _Value:
        count = len(call.positional) + len(call.keywords)
        gap = (_COMMA if count else _BLANKS).match(self._text, call.end)
        if gap is None or count == MAX_ARGUMENTS:
            raise UnusableOutput("is not closed, or lacks a comma")
        keyword = _KEYWORD.match(self._text, gap.end())
        name = _plain(keyword[1]) if keyword else ""
        value = self._value_at(keyword.end() if keyword else gap.end(), may_be_place=name in _PLACES)
        if value is None:
            raise UnusableOutput(
                "has an argument without quotes, or with a quote that is not closed or escaped"
            )
        if name in call.keywords:
            raise UnusableOutput(f"has {name} twice")
        if name:
            call.keywords[name] = value
        else:
            call.positional.append(value)
        call.end = value.after
        return value

    def _value_at(self, position: int, *, may_be_place: bool) -> _Value | None:
        if position not in self._values:
            self._values[position] = self._find_value(position, may_be_place=may_be_place)
        return self._values[position]

    def _find_value(self, position: int, *, may_be_place: bool) -> _Value | None:
        opening = _QUOTE.match(self._text, position)
        quote, start = (opening[0], opening.end()) if opening else ("", position)
        if may_be_place and quote and (place := _PLACE_VALUE.match(self._text, start)):
            closed = len(quote) if self._text.startswith(quote, place.end()) else 0
            return _Value(start, place.end(), place.end() + closed, place=True)
        if not quote:
            bare = _BARE_VALUE.match(self._text, position)
            return _Value(position, bare.end(), bare.end()) if bare else None
        end = self._end_of_string(start, quote)
        return None if end is None else _Value(start, end, end + len(quote), quoted=True)

    def _end_of_string(self, start: int, quote: str) -> int | None:
        first = _FIRST_QUOTE[quote].search(self._text, start)
        if first is None:
            return None
        if _SURE_END.match(self._text, first.end()):
            return first.end() - len(quote)
        ends = self._likely_ends(quote)
        index = bisect_left(ends, (start, False))
        return None if index == len(ends) or ends[index][1] else ends[index][0]

    def _likely_ends(self, quote: str) -> list[tuple[int, bool]]:
        """Where strings may end by a guess, in order, and (True) the labels that no guess reaches over."""
        if quote not in self._ends:
            found = _LIKELY_QUOTE[quote].finditer(self._text)
            self._ends[quote] = [(m.start(), True) if m[1] else (m.end() - len(quote), False) for m in found]
        return self._ends[quote]


# Meaning: from calls to actions and controls.


def _interpret(
    text: str, calls: list[_Call], vocabulary: str, places: _Places
) -> tuple[list[Action | Control], int]:
    """What the calls say, up to one that ends the list, and where that one ends."""
    said: list[Action | Control] = []
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        verb = _VERBS[vocabulary].get(_plain(call.name))
        if verb is None:
            raise _unknown(call.name, vocabulary)
        arguments = _Arguments(text, call, places)
        said.append(arguments.checked(verb, text_end=following.start if following else len(text)))
        if isinstance(said[-1], Control) and said[-1].ends:
            return said, call.end
    return said, calls[-1].end


class _Arguments:
    """The arguments of one call, taken by keyword or else by place, or `UnusableOutput` for what is amiss."""

    def __init__(self, text: str, call: _Call, places: _Places) -> None:
        self._text = text
        self._call = call
        self._places = places
        self._taken = 0
        self._keywords = {name: self._read(value) for name, value in call.keywords.items()}
        self._positional = self._paired(call.positional)

    def error(self, problem: str) -> UnusableOutput:
        end = self._call.start + 80
        excerpt = self._text[self._call.start : end if self._call.problem else min(end, self._call.end)]
        return UnusableOutput(f"{self._call.name}() {problem}. You wrote: {' '.join(excerpt.split())}")

    def checked(self, verb: "_Verb", text_end: int) -> Action | Control:
        """What the verb makes of the arguments, if the call was read without a doubt."""
        if self._call.problem:
            raise self.error(self._call.problem)
        said = verb(self)
        if self._taken < len(self._positional):
            raise self.error("has too many arguments")
        is_text = isinstance(said, Control) or said["type"] == "keyboard:type"
        if is_text and _TORN.match(self._text, self._call.end, text_end):
            raise self.error("has a quote in its text that is not escaped")
        return said

    def optional(self, index: int, *names: str) -> str:
        """The argument with the first of the names that is given, or else at that place, or else empty."""
        for name in map(_plain, names):
            if name in self._keywords:
                return self._keywords[name]
        if index >= len(self._positional):
            return ""
        self._taken = max(self._taken, index + 1)
        return self._positional[index]

    def needed(self, index: int, *names: str) -> str:
        value = self.optional(index, *names)
        if not value.strip():
            raise self.error(f"needs {names[0]}='...'")
        return value

    def start(self, default: str = "") -> Point:
        """The place of the call, or where its way begins."""
        text = self.optional(0, *_START).strip() or default
        if not text and {"x", "y"} <= self._keywords.keys():
            text = f"{self._keywords['x']} {self._keywords['y']}"
        return self._point(text, self._places.start)

    def start_or_middle(self) -> Point:
        x, y = self._places.units
        return self.start(default=f"{Decimal(x) / 2} {Decimal(y) / 2}")

    def end(self, index: int) -> Point:
        return self._point(self.optional(index, *_END).strip(), self._places.end)

    def direction(self) -> str:
        direction = self.needed(1, "direction", "dir", "scroll_direction").strip().lower()
        if direction not in ("up", "down", "left", "right"):
            raise self.error("needs direction='down', or up, left or right")
        return direction

    def keys(self) -> list[str]:
        try:
            return actions.xdotool_keys(self.needed(0, *_KEY))
        except ValueError as error:
            raise self.error(f"can't be used: {error}") from None

    def key(self) -> str:
        keys = self.keys()
        if len(keys) > 1:
            raise self.error("takes one key; use hotkey() for several")
        return keys[0]

    def app(self) -> str:
        return self.needed(0, *_APP).strip()

    def button(self) -> int:
        """The button that a click names by keyword, as other models do."""
        name = self.optional(MAX_ARGUMENTS, "button", "mouse_button").strip().lower()
        if name not in _BUTTONS:
            raise self.error("has an unknown button; there are right_single() and middle_click()")
        return _BUTTONS[name]

    def milliseconds(self, index: int, default: int) -> int:
        """A time given in seconds, at most a minute."""
        text = self.optional(index, *_TIME).strip().removesuffix("s").rstrip()
        if not text:
            return default
        if not _NUMBER.fullmatch(text) or text.startswith("-"):
            raise self.error("needs its time as a number of seconds")
        return min(int(Decimal(text) * 1000), MAX_WAIT_MS)

    def _point(self, text: str, hint: str) -> Point:
        tokens = [token for token in _COORDINATE_SYNTAX.split(text[:200]) if token]
        if len(tokens) not in (2, 4) or len(text) > 200 or not all(map(_NUMBER.fullmatch, tokens)):
            raise self.error(f"needs {hint} with two numbers")
        return self._length(tokens[0::2], 0), self._length(tokens[1::2], 1)

    def _length(self, numbers: list[str], axis: int) -> Length:
        """The middle of the numbers. They must lie on the screen, but for a rounding of one unit."""
        whole = self._places.units[axis]
        values = [Decimal(number).quantize(_PRECISION) for number in numbers]
        if min(values) < -1 or max(values) > whole + 1:
            raise self.error(f"points outside the screen: {'xy'[axis]} goes from 0 to {whole}")
        inside = [min(max(value, Decimal(0)), Decimal(whole)) for value in values]
        return actions.fraction(sum(inside, Decimal(0)) / len(inside), whole)

    def _read(self, value: _Value) -> str:
        text = self._text[value.start : value.end]
        if value.quoted:
            return _unescaped(text)
        return "" if text == "None" else text

    def _paired(self, values: list[_Value]) -> list[str]:
        """`click(10, 20)` is a point: two or four bare numbers are taken in pairs."""
        texts = [self._read(value) for value in values]
        bare = not any(value.quoted for value in values)
        if len(texts) in (2, 4) and bare and all(map(_NUMBER.fullmatch, texts)):
            return [f"{x} {y}" for x, y in zip(texts[0::2], texts[1::2], strict=True)]
        return texts


def _unescaped(text: str) -> str:
    """A string's text: escapes as in Python, unknown ones as they are; no controls but new lines and tabs."""
    if "\\" in text:
        text = _storable(_ESCAPE.sub(_unescape, text))
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL_CHARACTERS)


def _unescape(escape: re.Match[str]) -> str:
    u, long_u, x, plain = escape.groups()
    return _WHITESPACE_ESCAPES.get(plain, plain) if plain else chr(int(u or long_u or x, 16))


def _plain(name: str) -> str:
    """Names compare without case and underscores: left_double, LeftDouble, leftdouble."""
    return name.lower().replace("_", "")


_Verb = Callable[[_Arguments], Action | Control]
_WHERE = ("point", "box", "position", "coordinate", "coordinates")
_START = (*_WHERE, "start", *(f"start_{name}" for name in _WHERE))
_END = ("end", *(f"end_{name}" for name in _WHERE))
_PLACES: Final = {_plain(name) for name in _START + _END}
_CONTENT = ("content", "text", "message", "input_text")
_KEY = ("key", "hotkey", "keys", "press", "release", "key_name", "keyboard_key")
_APP = ("app_name", "name", "app", "application", "content")
_TIME = ("t", "time", "seconds", "duration", "wait_time", "delay")
_BUTTONS: Final = {"": actions.LEFT, "left": actions.LEFT, "right": actions.RIGHT, "middle": actions.MIDDLE}


def _control(name: ControlName, arguments: _Arguments) -> Control:
    return Control(name, arguments.optional(0, *_CONTENT))


def _type(arguments: _Arguments) -> Action:
    content = arguments.optional(0, *_CONTENT)
    if not content:
        raise arguments.error("needs content='...'")
    return actions.type_text(content)


def _touch_scroll(arguments: _Arguments) -> Action:
    if arguments.optional(2, *_END):
        return actions.touch_drag(arguments.start(), arguments.end(2))
    return actions.swipe(arguments.start_or_middle(), arguments.direction())


def _touch_hotkey(arguments: _Arguments) -> Action:
    """Lybic does without hotkeys on phones. What a phone has instead is used."""
    match arguments.keys():
        case ["Return" | "KP_Enter"]:
            return actions.type_text("\n")
        case ["back" | "Back" | "Escape"]:
            return {"type": "android:back"}
        case ["Home"]:
            return {"type": "android:home"}
    raise arguments.error("works for enter, back and home only")


_COMMON: dict[str, _Verb] = {
    "type": _type,
    "wait": lambda a: actions.wait(a.milliseconds(0, WAIT_MS)),
    **{name: partial(_control, name) for name in get_args(ControlName)},
}
# The first name of each is the one that is offered, the others are seen in the wild.
_TABLES: Final[dict[str, dict[str, _Verb]]] = {
    "computer": {
        "click left_single left_click": lambda a: actions.click(a.start(), a.button()),
        "left_double double_click": lambda a: actions.double_click(a.start()),
        "right_single right_click": lambda a: actions.click(a.start(), actions.RIGHT),
        "middle_click middle_single": lambda a: actions.click(a.start(), actions.MIDDLE),
        "triple_click left_triple": lambda a: actions.triple_click(a.start()),
        "hover move_to move mouse_move": lambda a: actions.move(a.start()),
        "drag select left_click_drag": lambda a: actions.drag(a.start(), a.end(1)),
        "scroll": lambda a: actions.scroll(a.start_or_middle(), a.direction()),
        "hotkey": lambda a: actions.hotkey(a.keys()),
        "press key_down": lambda a: actions.key_down(a.key()),
        "release key_up": lambda a: actions.key_up(a.key()),
        **_COMMON,
    },
    "mobile": {
        "click tap left_single left_click": lambda a: actions.tap(a.start()),
        "long_press": lambda a: actions.long_press(a.start(), a.milliseconds(1, LONG_PRESS_MS)),
        "drag select swipe": lambda a: actions.touch_drag(a.start(), a.end(1)),
        "scroll": _touch_scroll,
        "open_app open": lambda a: actions.start_app(a.app()),
        "close_app": lambda a: actions.close_app(a.app()),
        "list_apps": lambda _: {"type": "os:listApps"},
        "press_back back": lambda _: {"type": "android:back"},
        "press_home home": lambda _: {"type": "android:home"},
        "hotkey": _touch_hotkey,
        **_COMMON,
    },
}
_VERBS: Final = {
    vocabulary: {_plain(name): verb for names, verb in table.items() for name in names.split()}
    for vocabulary, table in _TABLES.items()
}
