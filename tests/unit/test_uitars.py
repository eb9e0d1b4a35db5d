"""The parser of UI-TARS answers: a table of what it reads, and properties that hold for any text."""

import doctest
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lybic.action import ComputerUseAction, MobileUseAction
from pydantic import TypeAdapter

from shared.errors import UnusableOutput
from shared.sandboxes import build_action
from worker import actions, uitars
from worker.actions import Control, Decision, xdotool_keys
from worker.uitars import DIALECTS, VOCABULARIES, parse, smart_resize, words

LYBIC: dict[str, TypeAdapter[Any]] = {
    "computer": TypeAdapter(ComputerUseAction),
    "mobile": TypeAdapter(MobileUseAction),
}


def frac(value: int, whole: int = 1000) -> dict[str, Any]:
    return {"type": "/", "numerator": value, "denominator": whole}


def click_at(x: int, y: int, button: int = 1) -> dict[str, Any]:
    return {"type": "mouse:click", "x": frac(x), "y": frac(y), "button": button}


def typed(content: str) -> dict[str, Any]:
    return {"type": "keyboard:type", "content": content, "treatNewLineAsEnter": "\n" in content}


def keys(combination: str) -> dict[str, Any]:
    return {"type": "keyboard:hotkey", "keys": combination}


def one(call: str, **options: Any) -> dict[str, Any]:
    """The only action of an answer that consists of one call."""
    decision = parse(f"Thought: do it\nAction: {call}", **options)
    assert decision.thought == "do it"
    assert decision.raw == f"Thought: do it\nAction: {decision.call}"
    assert (decision.notes, decision.control) == ((), None)
    (action,) = decision.actions
    return action


def outcome(text: str, **options: Any) -> Decision | UnusableOutput:
    try:
        return parse(text, **options)
    except UnusableOutput as error:
        return error


# The vocabulary


POINT = "<point>500 300</point>"
START, END = "<point>10 20</point>", "<point>30 40</point>"
DRAG = {"startX": frac(10), "startY": frac(20), "endX": frac(30), "endY": frac(40)}
AT = {"x": frac(500), "y": frac(300)}

COMPUTER = [
    (f"click(point='{POINT}')", click_at(500, 300)),
    (f"left_single(point='{POINT}')", click_at(500, 300)),
    (f"left_click(point='{POINT}')", click_at(500, 300)),
    (f"right_single(point='{POINT}')", click_at(500, 300, 2)),
    (f"right_click(point='{POINT}')", click_at(500, 300, 2)),
    (f"click(point='{POINT}', button='Right')", click_at(500, 300, 2)),
    (f"click(point='{POINT}', mouse_button='middle')", click_at(500, 300, 4)),
    (f"click(button='left', coordinates='{POINT}')", click_at(500, 300)),
    (f"click(start_position='{POINT}')", click_at(500, 300)),
    (f"middle_click(point='{POINT}')", click_at(500, 300, 4)),
    (f"left_double(point='{POINT}')", {"type": "mouse:doubleClick", **AT, "button": 1}),
    (f"double_click(point='{POINT}')", {"type": "mouse:doubleClick", **AT, "button": 1}),
    (f"DoubleClick(point='{POINT}')", {"type": "mouse:doubleClick", **AT, "button": 1}),
    (f"triple_click(point='{POINT}')", {"type": "mouse:tripleClick", **AT, "button": 1}),
    (f"hover(point='{POINT}')", {"type": "mouse:move", **AT}),
    (f"mouse_move(coordinate='{POINT}')", {"type": "mouse:move", **AT}),
    (f"move_to(point='{POINT}')", {"type": "mouse:move", **AT}),
    (f"drag(start_point='{START}', end_point='{END}')", {"type": "mouse:drag", **DRAG, "button": 1}),
    (f"drag(end_box='{END}', start_box='{START}')", {"type": "mouse:drag", **DRAG, "button": 1}),
    (f"select(start_box='{START}', end_box='{END}')", {"type": "mouse:drag", **DRAG, "button": 1}),
    (
        f"scroll(point='{POINT}', direction='down')",
        {"type": "mouse:scroll", **AT, "stepVertical": -5, "stepHorizontal": 0},
    ),
    (
        f"scroll(direction='up', start_box='{POINT}')",
        {"type": "mouse:scroll", **AT, "stepVertical": 5, "stepHorizontal": 0},
    ),
    (
        f"scroll(point='{POINT}', direction='right')",
        {"type": "mouse:scroll", **AT, "stepVertical": 0, "stepHorizontal": 5},
    ),
    (
        f"drag(start_coordinate='{START}', end_coordinate='{END}')",
        {"type": "mouse:drag", **DRAG, "button": 1},
    ),
    (
        f"scroll(scroll_direction='up', point='{POINT}', amount=3)",
        {"type": "mouse:scroll", **AT, "stepVertical": 5, "stepHorizontal": 0},
    ),
    (
        "scroll(point=None, direction='up')",
        {"type": "mouse:scroll", "x": frac(500), "y": frac(500), "stepVertical": 5, "stepHorizontal": 0},
    ),
    (
        "scroll(direction=' Left ')",
        {"type": "mouse:scroll", "x": frac(500), "y": frac(500), "stepVertical": 0, "stepHorizontal": -5},
    ),
    ("hotkey(key='ctrl c')", keys("ctrl+c")),
    ("hotkey(hotkey='ctrl c')", keys("ctrl+c")),
    ("hotkey(keyboard_key='enter')", keys("Return")),
    ("press(key='Shift')", {"type": "key:down", "key": "shift"}),
    ("keydown(key='a')", {"type": "key:down", "key": "a"}),
    ("release(key='Shift')", {"type": "key:up", "key": "shift"}),
    ("keyup(key='a')", {"type": "key:up", "key": "a"}),
    ("type(content='hello')", typed("hello")),
    ("type(text='hello', start_box='(300,400)')", typed("hello")),
    (r"type(content='hello\n')", typed("hello\n")),
    ("wait()", {"type": "wait", "duration": 5000}),
    ("wait", {"type": "wait", "duration": 5000}),
    ("wait(t=1.5)", {"type": "wait", "duration": 1500}),
    ("wait(time='2')", {"type": "wait", "duration": 2000}),
    ("wait(3)", {"type": "wait", "duration": 3000}),
    ("wait(0)", {"type": "wait", "duration": 0}),
    ("wait(5s)", {"type": "wait", "duration": 5000}),
    ("wait(wait_time='2 s')", {"type": "wait", "duration": 2000}),
    ("wait(t=99999)", {"type": "wait", "duration": 60000}),
]

MOBILE = [
    (f"click(point='{POINT}')", {"type": "touch:tap", **AT}),
    (f"tap(point='{POINT}')", {"type": "touch:tap", **AT}),
    (f"long_press(point='{POINT}')", {"type": "touch:longPress", **AT, "duration": 1000}),
    (f"long_press(point='{POINT}', time='2')", {"type": "touch:longPress", **AT, "duration": 2000}),
    (f"drag(start_point='{START}', end_point='{END}')", {"type": "touch:drag", **DRAG}),
    (f"scroll(start_box='{START}', end_box='{END}')", {"type": "touch:drag", **DRAG}),
    (
        f"scroll(point='{POINT}', direction='down')",
        {"type": "touch:swipe", **AT, "direction": "up", "distance": frac(1, 3)},
    ),
    (
        f"scroll(point='{POINT}', direction='left')",
        {"type": "touch:swipe", **AT, "direction": "right", "distance": frac(1, 3)},
    ),
    ("type(content='hi')", typed("hi")),
    ("hotkey(key='enter')", typed("\n")),
    ("hotkey(key='back')", {"type": "android:back"}),
    ("hotkey(key='home')", {"type": "android:home"}),
    ("back()", {"type": "android:back"}),
    ("home()", {"type": "android:home"}),
    ("open(app='Chrome')", {"type": "os:startAppByName", "name": "Chrome"}),
    ("open_app(content='Chrome')", {"type": "os:startAppByName", "name": "Chrome"}),
    ("open_app(app_name='Google Maps')", {"type": "os:startAppByName", "name": "Google Maps"}),
    ("close_app(app_name='Chrome')", {"type": "os:closeAppByName", "name": "Chrome"}),
    ("list_apps()", {"type": "os:listApps"}),
    ("press_home()", {"type": "android:home"}),
    ("press_back", {"type": "android:back"}),
    ("wait(t='1')", {"type": "wait", "duration": 1000}),
]


@pytest.mark.parametrize(
    ("vocabulary", "call", "action"),
    [("computer", *row) for row in COMPUTER] + [("mobile", *row) for row in MOBILE],
)
def test_vocabulary(vocabulary: str, call: str, action: dict[str, Any]) -> None:
    assert one(call, vocabulary=vocabulary) == action
    _assert_lybic_takes(action, vocabulary)


def _assert_lybic_takes(action: dict[str, Any], vocabulary: str) -> None:
    """Lybic's own model of that type accepts it and keeps every field; nothing is null."""
    model = LYBIC[vocabulary].validate_python(action)
    assert model.model_dump(exclude_none=True).items() >= action.items()
    assert None not in action.values()


@pytest.mark.parametrize("name", ["finished", "call_user", "failed", "output", "save_memory"])
@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        ("content='It\\'s done'", "It's done"),
        ("'done'", "done"),
        ('text="done"', "done"),
        ("", ""),
        ("content=None", ""),
        ("content='None'", "None"),
    ],
)
@pytest.mark.parametrize("vocabulary", ["computer", "mobile"])
def test_controls(name: Any, arguments: str, content: str, vocabulary: str) -> None:
    decision = parse(f"Action: {name}({arguments})", vocabulary=vocabulary)
    control = Control(name, content)
    ends = name not in ("output", "save_memory")
    assert decision.actions == ()
    assert decision.control == (control if ends else None)
    assert decision.notes == (() if ends else (control,))


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("click()", "needs point="),
        ("click(start_box='')", "needs point="),
        ("click(start_box='=')", "needs point="),
        ("click(start_box='[]')", "needs point="),
        ("click(point='<point>1 2 3</point>')", "two numbers"),
        ("click(point='<point>a b</point>')", "two numbers"),
        ("click(point='<point>nan inf</point>')", "two numbers"),
        ("click(point='<point>1e999 1</point>')", "two numbers"),
        (f"click(point='<point>{'9' * 5000} 1</point>')", "two numbers"),
        (f"click(point='<point>0.{'0' * 5000}1 1</point>')", "two numbers"),
        (f"click(point='<point>500 {'(' * 5000}300</point>')", "two numbers"),
        ("click(point='<point>1002 1</point>')", "outside the screen: x goes from 0 to 1000"),
        ("click(point='<point>1 -2</point>')", "outside the screen: y"),
        ("click(start_box='[990, 0, 1003, 10]')", "outside"),
        ("click(start_box=__import__('os').system('id'))", "is not closed, or lacks a comma"),
        ("click(point=point)", "two numbers"),
        (f"click(point='{POINT}', point='{POINT}')", "twice"),
        (f"click('{POINT}', 'more')", "too many arguments"),
        (f"click(point='{POINT}', button='wheel')", "unknown button"),
        ("click(point=None)", "needs point="),
        (f"drag(start_point='{START}')", "needs end_point="),
        (f"drag(start_point='{START}'", "needs end_point="),
        (f"scroll(point='{POINT}')", "needs direction="),
        (f"scroll(point='{POINT}', direction='down or up')", "needs direction="),
        ("type()", "needs content="),
        ("type(content='')", "needs content="),
        ("type(content='half of a long te", "not closed or escaped"),
        ("type(content='half' of it)", "not closed or escaped"),
        ("type(content=half of it)", "lacks a comma"),
        ("type(content='the users') go on')", "not escaped"),
        ("type('a', 'b')", "too many arguments"),
        ("hotkey()", "needs key="),
        ("hotkey(key='a b c d e f')", "1 to 5 keys"),
        ("hotkey(key='ctrl é!')", "no key is named"),
        ("press(key='ctrl c')", "takes one key"),
        ("wait(t='soon')", "number of seconds"),
        ("wait(t=-1)", "number of seconds"),
        ("wait(1, 2, 3, 4, 5, 6, 7, 8, 9)", "not closed"),
        ("open_app(app_name='Maps')", "no action named 'open_app'. Use one of: click,"),
        ("Continue", "no action named 'Continue'"),
        ("os.system('id')", "no action named 'os.system'"),
        ("click the button", "No action found"),
        ("", "No action found"),
    ],
)
def test_a_bad_call_says_how_to_mend_it(call: str, hint: str) -> None:
    error = outcome(f"Thought: try\nAction: {call}")
    assert isinstance(error, UnusableOutput)
    assert hint in error.message
    quoted = error.message.partition("You wrote: ")[2]
    assert len(quoted) <= 80


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("hotkey(key='ctrl c')", "works for enter, back and home only"),
        ("left_double(point='1 2')", "Use one of: click, long_press,"),
        ("open_app(app_name=' ')", "needs app_name="),
    ],
)
def test_a_bad_call_on_a_phone(call: str, hint: str) -> None:
    error = outcome(call, vocabulary="mobile")
    assert isinstance(error, UnusableOutput)
    assert hint in error.message


ARGUMENTS = {
    "drag select swipe left_click_drag": "{start}, {end}",
    "scroll": "{point}, direction='left'",
    "hotkey press key_down release key_up": "key='enter'",
    "type": r"content='a\n'",
    "open_app open close_app": "app_name='Maps'",
    "list_apps press_back back press_home home wait": "",
}
WRITTEN = {
    "doubao": {
        "point": f"point='{POINT}'",
        "start": f"start_point='{START}'",
        "end": f"end_point='{END}'",
    },
    "ui-tars-1.5": {
        "point": "start_box='<|box_start|>(500,300)<|box_end|>'",
        "start": "start_box='<|box_start|>(10,20)<|box_end|>'",
        "end": "end_box='(30,40)'",
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("vocabulary", "first", "name"),
    [
        (vocabulary, first, name)
        for vocabulary in VOCABULARIES
        for first, aliases in words(vocabulary).items()
        for name in (first, *aliases)
    ],
)
def test_lybic_takes_what_every_word_becomes(dialect: str, vocabulary: str, first: str, name: str) -> None:
    options: dict[str, Any] = {"dialect": dialect, "vocabulary": vocabulary, "screen": (1920, 1080)}
    arguments = next((given for names, given in ARGUMENTS.items() if name in names.split()), "{point}")
    written = arguments.format(**WRITTEN[dialect])
    decision = parse(f"Action: {name}({written})", **options)
    assert len(decision.actions) + len(decision.notes) + bool(decision.control) == 1
    for action in decision.actions:
        _assert_lybic_takes(action, vocabulary)
        built = build_action(action).model_dump(mode="json", exclude_none=True)
        assert built.items() >= action.items()
    alike = parse(f"Action: {first}({written})", **options)
    assert (alike.actions, alike.notes, alike.control) == (decision.actions, decision.notes, decision.control)


# Coordinates


@pytest.mark.parametrize(
    ("place", "x", "y"),
    [
        ("'<point>510 150</point>'", frac(510), frac(150)),
        ("'<point>510, 150</point>'", frac(510), frac(150)),
        ("' <point> 510\n150 </point> '", frac(510), frac(150)),
        ("'<point>510 150'", frac(510), frac(150)),
        ('"<point>510 150</point>"', frac(510), frac(150)),
        ("'<bbox>500 140 520 160</bbox>'", frac(510), frac(150)),
        ("'<bbox>510 150</bbox>'", frac(510), frac(150)),
        ("'[500, 140, 520, 160]'", frac(510), frac(150)),
        ("'[500,140,521,160]'", frac(5105, 10000), frac(150)),
        ("'(510,150)'", frac(510), frac(150)),
        ("'510 150'", frac(510), frac(150)),
        ("'<|box_start|>(510,150)<|box_end|>'", frac(510), frac(150)),
        ("'<|box_start|>(500,140)<|box_end|>(520,160)<|box_end|>'", frac(510), frac(150)),
        ("(510, 150)", frac(510), frac(150)),
        ("[510, 150]", frac(510), frac(150)),
        ("<point>510 150</point>", frac(510), frac(150)),
        ("'<point>0 0</point>'", frac(0), frac(0)),
        ("'<point>1000 1000</point>'", frac(1000), frac(1000)),
        ("'<point>-1 1001</point>'", frac(0), frac(1000)),
        ("'<point>-0.5 1000.5</point>'", frac(0), frac(1000)),
        ("'<point>0.5 12.25</point>'", frac(5, 10_000), frac(1225, 100_000)),
        ("'<point>500.0 .5</point>'", frac(500), frac(5, 10_000)),
    ],
)
def test_places(place: str, x: dict[str, Any], y: dict[str, Any]) -> None:
    for parameter in ("point=", "start_box=", "start_point=", ""):
        assert one(f"click({parameter}{place})") == {"type": "mouse:click", "x": x, "y": y, "button": 1}


def test_bare_numbers_are_points() -> None:
    assert one("click(500, 300)") == one("click(x=500, y=300)") == click_at(500, 300)
    assert one("drag(10, 20, 30, 40)") == {"type": "mouse:drag", **DRAG, "button": 1}


@pytest.mark.parametrize(
    ("screen", "seen"),
    [
        ((1920, 1080), (1932, 1092)),
        ((1280, 720), (1288, 728)),
        ((2560, 1440), (2548, 1428)),
        ((28 * 40 + 14, 28 * 41 + 14), (28 * 40, 28 * 42)),  # halves go to the even side
        ((100, 100), (280, 280)),
        ((10000, 10000), (3556, 3556)),
        ((1, 1), (280, 280)),
    ],
)
def test_smart_resize(screen: tuple[int, int], seen: tuple[int, int]) -> None:
    assert smart_resize(*screen) == seen


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_smart_resize_keeps_its_bounds(width: int, height: int) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    wide, high = smart_resize(width, height)
    assert (wide % 28, high % 28) == (0, 0)
    assert 100 <= wide // 28 * (high // 28) <= 16384


@pytest.mark.parametrize("place", ["(966,546)", "<|box_start|>(966,546)<|box_end|>", "[956, 546, 976, 546]"])
def test_ui_tars_15_counts_pixels_of_the_resized_image(place: str) -> None:
    action = one(f"click(start_box='{place}')", dialect="ui-tars-1.5", screen=(1920, 1080))
    assert action == {"type": "mouse:click", "x": frac(966, 1932), "y": frac(546, 1092), "button": 1}


def test_ui_tars_15_knows_the_edges_of_its_image() -> None:
    options: dict[str, Any] = {"dialect": "ui-tars-1.5", "screen": (1920, 1080)}
    assert one("click(start_box='(1933,0)')", **options)["x"] == frac(1932, 1932)
    assert one("scroll(direction='down')", **options)["y"] == frac(546, 1092)
    with pytest.raises(UnusableOutput, match="y goes from 0 to 1092"):
        parse("Action: click(start_box='(0,1094)')", **options)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("I click.", "such as Action: click(start_box='(x,y)')"),
        ("Action: click()", "needs start_box='(x,y)' with two numbers"),
        ("Action: drag(start_box='(1,2)')", "needs end_box='(x,y)' with two numbers"),
    ],
)
def test_hints_are_in_the_models_own_dialect(answer: str, hint: str) -> None:
    error = outcome(answer, dialect="ui-tars-1.5", screen=(1920, 1080))
    assert isinstance(error, UnusableOutput)
    assert hint in error.message
    assert "<point>" not in error.message


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "gpt"},
        {"vocabulary": "watch"},
        {"dialect": "ui-tars-1.5"},
        {"dialect": "ui-tars-1.5", "screen": (0, 100)},
    ],
)
def test_wrong_settings_are_not_the_models_fault(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown|needs the size"):
        parse("Action: wait()", **options)


# Strings


@pytest.mark.parametrize(
    ("literal", "content"),
    [
        (r"'plain'", "plain"),
        (r'"double"', "double"),
        (r"'It\'s \"quoted\"'", 'It\'s "quoted"'),
        (r"'a\nb\tc\\d'", "a\nb\tc\\d"),
        ("'raw\nline'", "raw\nline"),
        ("'dos\r\nline\rmac'", "dos\nline\nmac"),
        (r"'a\r\nb'", "a\nb"),
        (r"'\u4f60\u597d \x41 \U0001F600'", "你好 A 😀"),
        (r"'\ud83d\ude00'", "😀"),
        (r"'lone \ud83d half'", "lone \ufffd half"),
        ("'raw \ud83d\ude00 \ud83d'", "raw 😀 \ufffd"),
        (r"'C:\Users\public\docs'", r"C:\Users\public\docs"),
        (r"'C:\\new\\table'", r"C:\new\table"),
        (r"'\d+\.\w \xZZ \u12 \U00110000 \q'", r"\d+\.\w \xZZ \u12 \U00110000 \q"),
        (r"'ends in a backslash\\'", "ends in a backslash\\"),
        ("'nul\0 bell\a del\x7f csi\x9b kept\t'", "nul bell del csi kept\t"),
        (r"'nul \x00\u0000 esc \x1b'", "nul  esc "),
        ("'finished(content=\\'x\\')'", "finished(content='x')"),
        ("'a, b'", "a, b"),
        ("'f(\\'x\\')'", "f('x')"),
        ("' spaces '", " spaces "),
        ("'(1, 2), (3, 4)'", "(1, 2), (3, 4)"),
        ("'<point>1 2</point> is the syntax'", "<point>1 2</point> is the syntax"),
        ("'()()'", "()()"),
        ("'Action: wait()'", "Action: wait()"),
        ("'one\nAction: wait()\nThought: two'", "one\nAction: wait()\nThought: two"),
        ("'one\nclick(x)'", "one\nclick(x)"),
        ("'# no comment; wait()'", "# no comment; wait()"),
        ("'''triple ' and \" and\nlines'''", "triple ' and \" and\nlines"),
        ('"""it\'s "so" """', 'it\'s "so" '),
        ("bareword", "bareword"),
        # An apostrophe that should have been escaped.
        ("'don't stop'", "don't stop"),
        ("'don't'", "don't"),
        ("'f('x')'", "f('x')"),
        ("'['a', 'b']'", "['a', 'b']"),
        ("'')'", "')"),
        ("'(the users')'", "(the users')"),
        ("'the users', and the boys' toys'", "the users', and the boys' toys"),
        ("'it's\ntwo lines'", "it's\ntwo lines"),
        ('"say "hi" to him"', 'say "hi" to him'),
        (r"'it's \\ \' it'", "it's \\ ' it"),
    ],
)
def test_strings(literal: str, content: str) -> None:
    decision = parse(f"Action: type(content={literal})\n\nhotkey(key='enter')")
    assert decision.actions == (typed(content), keys("Return"))
    assert one(f"type( content = {literal} , )") == typed(content)
    if literal != "'don't stop'":
        assert one(f"type(content={literal}, submit='no')")["content"] == content


def _python_literal(text: str, quote: str) -> str:
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    return quote + escaped + quote


def _typeable(text: str) -> str:
    """What is left of a text that is typed: no control characters but tabs and new lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


AWKWARD = st.lists(
    st.sampled_from(
        [*"'\"\\(), \n=tnux{}[]<>:é😀", "Action: ", "\nThought: ", "wait()", "')", "')\n", "', a="]
    )
).map("".join)


@given(st.text() | AWKWARD, st.sampled_from("'\""))
@example("\\", "'")
@example("')", "'")
@example("\nAction: finished()", '"')
def test_escaped_text_comes_back_as_it_was(text: str, quote: str) -> None:
    content = _typeable(text)
    assume(content)
    call = f"type(content={_python_literal(text, quote)})"
    wait = {"type": "wait", "duration": 5000}
    assert parse(f"Thought: it's\nAction: {call}").actions == (typed(content),)
    assert parse(f"Thought: it's\n{call}; wait()").actions == (typed(content), wait)
    assert parse(f"Action: wait()\n\n{call}\nfinished()").actions == (wait, typed(content))


@given(st.text(st.characters(categories=["L", "N"], include_characters=" .!?'"), min_size=1))
def test_an_apostrophe_between_letters_never_ends_a_string(text: str) -> None:
    assume(not text.endswith("'") and not text.startswith("'"))
    assert one(f"type(content='{text}')") == typed(text)


# Answers


CLICK = f"click(point='{POINT}')"


@pytest.mark.parametrize(
    ("answer", "thought"),
    [
        (f"Thought: think\nAction: {CLICK}", "think"),
        (f"thought: think\naction: {CLICK}", "think"),
        (f"THOUGHT : think\nACTION : {CLICK}", "think"),
        (f"Thought：think\nAction：{CLICK}", "think"),
        (f"思考：think\n动作：{CLICK}", "think"),
        (f"**Thought:** think\n\n**Action:** {CLICK}", "think"),
        (f"Thought: think Action: {CLICK}", "think"),
        (f"Thought: think\n\n{CLICK}", "think"),
        (f"Reflection: bad\nAction_Summary: think\nAction: {CLICK}", "think"),
        (f"Reflection: think\nAction: {CLICK}", "think"),
        (f"Action_Summary: think\nAction: {CLICK}", "think"),
        (f"Action_Summary: think\n{CLICK}", "think"),
        (f"Summary: think\nAction: {CLICK}", "think"),
        (f"think\n\nAction：{CLICK}", "think"),
        (f"1. first\n2. then\n\nAction: {CLICK}", "1. first\n2. then"),
        (f"\n\nAction：{CLICK}", ""),
        (CLICK, ""),
        (f"  {CLICK}  ", ""),
        (f"<think>think</think>\n{CLICK}", "think"),
        (f"<think>think</think>{CLICK}", "think"),
        (f"<think>long</think>\nThought: think\nAction: {CLICK}", "think"),
        (
            f"<think_never_5>think</think_never_5>\n<computer_env>\nAction: {CLICK}\n</computer_env>",
            "think",
        ),
        (f"<think>Action: wait()\nfinished()</think>Action: {CLICK}", "Action: wait()\nfinished()"),
        (f"think</think>\n\n{CLICK}", "think"),
        (f"<Thought>long</Thought>\nAction_Summary: think\nAction: {CLICK}\n</Output>", "think"),
        (f"```\nThought: think\nAction: {CLICK}\n```", "think"),
        (f"Thought: think\nAction:\n```python\n{CLICK}\n```", "think"),
        (f"Thought: think\nAction: ```{CLICK}```", "think"),
        (f"Thought: think\nAction: `{CLICK}`", "think"),
        (f"Thought: think\nAction: **{CLICK}**", "think"),
        (f"Thought: think\r\nAction: {CLICK}\r\n", "think"),
        (f"Thought: think\n```\n{CLICK}\n```", "think"),
        (f"Thought: think\n<action>{CLICK}</action>", "think"),
        (f"Thought: think\nAction:\n\n1. {CLICK}", "think"),
        (f"Thought: think\nAction: {CLICK}<|im_end|>", "think"),
        (f"Thought: think\nAction: {CLICK}[EOS]", "think"),
        (f"Thought: think\nAction: {CLICK} # Opens the menu.", "think"),
        (f"Thought: think\nAction: {CLICK} then wait()", "think"),
        (f"Thought: think\nAction: {CLICK}\n\nThis opens the menu; I'd wait() then.", "think"),
        (f"Thought: think\nAction: I'll open the menu.\n{CLICK}", "think"),
        (f"Thought: the users' menu\nAction: {CLICK}", "the users' menu"),
        (f'Thought: the "menu\nAction: {CLICK}', 'the "menu'),
        (f'Thought: no "Action: wait()" here\nAction: {CLICK}', 'no "Action: wait()" here'),
        (f"Thought: the next action: a click\nAction: {CLICK}", "the next action: a click"),
        (f"Thought: not\nwait() yet\nAction: {CLICK}", "not\nwait() yet"),
        (f"Thought: not\ntype(content='x yet\nAction: {CLICK}", "not\ntype(content='x yet"),
        (f"Thought: old\nAction: hotkey(key='esc')Thought: think\nAction: {CLICK}", "think"),
        (f"Thought: old\nAction: wait()\n\nThought: think\nAction: {CLICK}", "think"),
        (f"Thought: old\nAction: type(content='torn\nThought: think\nAction: {CLICK}", "think"),
        (f"think\nAction: wait()\nAction: {CLICK}", "think"),
        (f"Action: wait() Action: {CLICK}", ""),
    ],
)
def test_answers_around_one_call(answer: str, thought: str) -> None:
    decision = parse(answer)
    assert decision.actions == (click_at(500, 300),)
    assert decision.thought == thought
    assert decision.call == CLICK
    assert decision.raw == answer
    assert (decision.notes, decision.control) == ((), None)


def test_a_byte_order_mark_is_no_thought() -> None:
    for answer in (CLICK, f"Action: {CLICK}", f"Thought: think\nAction: {CLICK}"):
        assert parse("\ufeff" + answer) == parse(answer)


@pytest.mark.parametrize(
    "answer",
    [
        # Doubao 1.6 is known to drop what follows a point.
        "Action: click(point='<point>500 300</point>",
        "Action: click(point='<point>500 300</point>)",
        "Action: click(point='<point>500 300</point>'",
        "Action: click(point='<point>500 300</point>')",
        "Action: click(start_box='(500,300)'",
        "Action: click(start_box='<|box_start|>(500,300)<|box_end|>",
    ],
)
def test_a_point_without_its_closing_marks(answer: str) -> None:
    assert parse(answer).actions == (click_at(500, 300),)
    assert parse(f"{answer}\n\ntype(content='x')").actions == (click_at(500, 300), typed("x"))


@pytest.mark.parametrize(
    "separator", ["\n\n", "\n", ";", "; ", " ", "", ",\n", "\n\nThen:\n\n", "\n- ", "\n2. "]
)
def test_several_calls_keep_their_order(separator: str) -> None:
    calls = [CLICK, r"type(content='a\n')", "wait()", "output(content='x')", "hotkey(key='f5')"]
    decision = parse("Action: " + separator.join(calls))
    wait = {"type": "wait", "duration": 5000}
    assert decision.actions == (click_at(500, 300), typed("a\n"), wait, keys("F5"))
    assert decision.notes == (Control("output", "x"),)
    assert decision.control is None
    assert decision.call == separator.join(calls)


def test_an_ending_call_ends_the_list() -> None:
    decision = parse(f"Action: save_memory('k')\n{CLICK}\nfinished(content='ok')\nwait()\nclick(\nunknown()")
    assert decision.actions == (click_at(500, 300),)
    assert decision.notes == (Control("save_memory", "k"),)
    assert decision.control == Control("finished", "ok")
    assert decision.call.endswith("finished(content='ok')")


@pytest.mark.parametrize(
    "rest",
    [
        "click(",
        "click(oops)",
        "unknown()",
        "type(content='torn",
        "- unknown()",
        "and then\nclick()",
        "; wait(x y)",
    ],
)
def test_no_call_is_dropped_silently(rest: str) -> None:
    with pytest.raises(UnusableOutput):
        parse(f"Thought: two\nAction: {CLICK}\n{rest}")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("", "No action found"),
        ("I should wait() until the page is stable.", "No action found"),
        ("Thought: Empty action\nAction:", "No action found"),
        ("Thought: use 'Action: wait()'", "No action found"),
        (f"Action: {CLICK}\nThought: and?\nAction:", "No action found"),
        ("Action: Click on the icon to open it.", "No action found"),
        ("magic(wand='x')", "no action named 'magic'"),
        ("wait()" * 100, "More than 50 calls"),
    ],
)
def test_answers_without_a_decision(answer: str, hint: str) -> None:
    with pytest.raises(UnusableOutput) as caught:
        parse(answer)
    assert hint in caught.value.message


def test_the_public_form_of_a_decision() -> None:
    decision = parse("Thought: t\nAction: output(content='a')\noutput(content='b')\nwait(1)")
    wait = {"type": "wait", "duration": 1000}
    assert decision.as_json() == {
        "thought": "t",
        "actions": [wait],
        "control": {"name": "output", "content": "b"},
    }
    assert parse("output('a')\nfinished('b')").as_json()["control"] == {"name": "finished", "content": "b"}
    assert parse("wait()").as_json()["control"] is None


# Keys


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("enter", "Return"),
        ("Return", "Return"),
        ("esc", "Escape"),
        ("backspace", "BackSpace"),
        ("del", "Delete"),
        ("tab", "Tab"),
        ("space", "space"),
        ("pageup", "Page_Up"),
        ("page down", "Page_Down"),
        ("Page_Down", "Page_Down"),
        ("ctrl page-up", "ctrl Page_Up"),
        ("home", "Home"),
        ("end", "End"),
        ("arrowleft", "Left"),
        ("arrow right", "Right"),
        ("up arrow", "Up"),
        ("down", "Down"),
        ("f5", "F5"),
        ("F24", "F24"),
        ("capslock", "Caps_Lock"),
        ("caps lock", "Caps_Lock"),
        ("printscreen", "Print"),
        ("win", "super"),
        ("cmd shift 4", "super shift 4"),
        ("meta", "super"),
        ("command", "super"),
        ("Control C", "ctrl c"),
        ("option", "alt"),
        ("ctrl -", "ctrl minus"),
        ("ctrl =", "ctrl equal"),
        ("ctrl /", "ctrl slash"),
        ("ctrl ,", "ctrl comma"),
        ("ctrl + c", "ctrl c"),
        ("Ctrl+Shift+S", "ctrl shift s"),
        ("ctrl-alt-del", "ctrl alt Delete"),
        ("ctrl, c", "ctrl c"),
        ("ctrl,shift,esc", "ctrl shift Escape"),
        ("ctrl +", "ctrl plus"),
        ("ctrl++", "ctrl plus"),
        ("+", "plus"),
        ("_", "underscore"),
        ("kp_enter", "KP_Enter"),
        ("KP_0", "KP_0"),
        ("XF86AudioPlay", "XF86AudioPlay"),
        ("Super_L", "Super_L"),
        ("A", "a"),
        ("中", "中"),
    ],
)
def test_keys(text: str, names: str) -> None:
    assert xdotool_keys(text) == names.split()
    assert one(f"hotkey(key={_python_literal(text, chr(34))})") == keys("+".join(names.split()))


@given(st.text())
def test_keys_are_total(text: str) -> None:
    try:
        names = xdotool_keys(text)
    except ValueError:
        return
    assert all(name and "+" not in name and not name.isspace() for name in names)


# What holds for any text


SCRAPS = [
    *[
        "Thought: ",
        "Action: ",
        "Action：",
        "\nAction: ",
        "<think>",
        "</think>",
        "\n",
        "\n\n",
        ";",
        ",",
        ", ",
        "```",
    ],
    *[
        "click(",
        "type(content=",
        "drag(",
        "scroll(",
        "hotkey(key=",
        "wait()",
        "finished(",
        "output(",
        "foo(",
        ")",
    ],
    *[
        "point=",
        "start_box=",
        "end_box=",
        "direction='down'",
        "<point>",
        "</point>",
        "<bbox>",
        "<|box_start|>",
    ],
    *["500 ", "300", "-1", "1e9", "0.5", "[1,2,3,4]", "(1,2)", "(", "x", "don't", " ", "é"],
    *["'", '"', "'''", "\\", "\\'", "\\n", "\\u00", "\\ud83d", "\\ude00", "\ud83d", "\ude00", "\0", "ctrl c"],
]
GRAMMAR = st.lists(st.sampled_from(SCRAPS), max_size=40).map("".join)


@settings(max_examples=400)
@given(
    st.text() | GRAMMAR | AWKWARD, st.sampled_from(["doubao", "ui-tars-1.5"]), st.sampled_from(sorted(LYBIC))
)
def test_any_text_is_a_decision_or_unusable(text: str, dialect: str, vocabulary: str) -> None:
    decision = outcome(text, dialect=dialect, vocabulary=vocabulary, screen=(1920, 1080))
    if isinstance(decision, UnusableOutput):
        assert decision.code == "model_output_invalid"
        assert 0 < len(decision.message) <= 300
        return
    assert decision.actions or decision.notes or decision.control
    assert "\0" not in decision.raw
    decision.raw.encode()
    for action in decision.actions:
        _assert_lybic_takes(action, vocabulary)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 9999))
def test_coordinates_mean_what_they_say(x: int, y: int, decimals: int) -> None:
    action = one(f"click(point='<point>{x} {min(y, 999)}.{decimals:04}</point>')")
    assert action["x"] == frac(x)
    height = Decimal(action["y"]["numerator"]) / action["y"]["denominator"] * 1000
    assert height == min(y, 999) + Decimal(decimals) / 10_000


CANARY = "__import__('worker.actions').actions.__setattr__('canary', 1)"


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f"Action: {CANARY}",
        f"Action: click(point={CANARY})",
        f"Action: click(start_box='[{CANARY}, 1]')",
        f'Action: type(content=f"{{{CANARY}}}")',
        f'Action: type(content="{CANARY}")',
        f"Action: hotkey(key={CANARY})",
    ],
)
def test_nothing_is_evaluated(text: str) -> None:
    outcome(text)
    assert not hasattr(actions, "canary")


UNITS = [
    *"('\"\\\n )[,:;`*<a1_=\ud83d\0",
    "Action: ",
    "Action:f(",
    "\nAction: wait(1,",
    "<point>",
    "<bbox>1 ",
    "wait()",
    "\nfoo(",
    "动作：",
    "Thought:\n",
    "Action: type('",
    "Action: type(\"'",
    "type(content='\n",
    "')",
    "' , a=",
    "'" + " " * 100,
    "\\'",
    "\\ud83d",
    "<think>",
    "</think>",
    "```\n",
]
FRAMES: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: f"Action: type(content='{text}",
    lambda text: f"Action: type(content='{text}')",
    lambda text: f"Action: click(point='{text}')",
    lambda text: f"Action: wait({text})",
    lambda text: f"<think>{text}",
    # Calls that fail and share one long string behind them.
    lambda text: "\nAction:type(a='" * 49 + "', b=\"" + text,
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("frame", FRAMES)
def test_time_grows_with_the_length_only(unit: str, frame: Callable[[str], str]) -> None:
    """Ten times the text may take thirty times as long; anything quadratic takes a hundred times."""
    short, long = (frame(unit * (size // len(unit))) for size in (5_000, 50_000))
    assert _seconds(long) < 30 * _seconds(short) + 0.05


@pytest.mark.parametrize("unit", ["\n", "动作：", "Action:f(", "' , a=", "<point>", "wait()", "a"])
def test_the_longest_answers_take_no_time(unit: str) -> None:
    """100 kB within 50 ms on one core of any server; twice that for a slow machine."""
    for frame in FRAMES:
        assert _seconds(frame(unit * (100_000 // len(unit)))) < 0.1


def _seconds(text: str) -> float:
    """The best of three, since other processes take their share."""
    times = []
    for _ in range(3):
        begin = time.process_time()
        outcome(text)
        times.append(time.process_time() - begin)
    return min(times)


def test_the_examples_in_the_documentation() -> None:
    for module in (actions, uitars):
        results = doctest.testmod(module)
        assert results.attempted > 0
        assert results.failed == 0
