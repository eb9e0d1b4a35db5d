"""The simulated desktop: what hits has its effect, and what misses has none."""

import base64
import io
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lybic import action as lybic
from PIL import Image, ImageDraw

from local.model.screen import Screen
from local.sandbox import actions, apps, keys, layout, paint
from local.sandbox import desktop as screen
from local.sandbox.desktop import Desktop
from local.sandbox.layout import Point, Rect
from local.sandbox.text import FONT
from local.standin import Refused

SIZE = (1280, 720)
WALLPAPER = (1200, 30)


def px(value: int) -> lybic.PixelLength:
    return lybic.PixelLength(value=value)


def part(numerator: int, denominator: int = 1000) -> lybic.FractionalLength:
    return lybic.FractionalLength(numerator=numerator, denominator=denominator)


def perform(desktop: Desktop, **action: Any) -> Desktop:
    """The action as it comes over HTTP."""
    return actions.perform(desktop, actions.read(desktop, action))


def opened(app: str) -> Desktop:
    return screen.click(Desktop(), layout.taskbar_entry(SIZE, app).centre)


def typed(desktop: Desktop, text: str) -> Desktop:
    return screen.write(desktop, text, enter=True)


def front(desktop: Desktop) -> apps.Window:
    assert desktop.front is not None
    return desktop.front


def text(desktop: Desktop) -> str:
    return front(desktop).text.value


def press(desktop: Desktop, *combinations: str) -> Desktop:
    for combination in combinations:
        desktop = screen.press(desktop, keys.parts(combination))
    return desktop


# Opening, focusing, closing.


@pytest.mark.parametrize("app", layout.APPS)
def test_the_taskbar_opens_with_one_click_and_an_icon_with_two(app: str) -> None:
    assert front(opened(app)).app == app
    icon = layout.icon(app).centre
    assert screen.click(Desktop(), icon).windows == ()
    assert front(screen.click(Desktop(), icon, count=2)).app == app


def test_a_click_beside_the_taskbar_entry_opens_nothing() -> None:
    x, y = layout.taskbar_entry(SIZE, "notepad").centre
    assert screen.click(Desktop(), (x - 60, y)).windows == ()
    assert screen.click(Desktop(), (x, y - 60)).windows == ()


def test_an_app_has_one_window_and_opening_it_again_keeps_its_text() -> None:
    desktop = typed(opened("notepad"), "kept")
    desktop = screen.click(desktop, layout.taskbar_entry(SIZE, "browser").centre)
    desktop = screen.click(desktop, layout.taskbar_entry(SIZE, "notepad").centre)
    assert len(desktop.windows) == 2
    assert text(desktop) == "kept"


def test_typing_without_a_focused_field_changes_nothing() -> None:
    assert typed(Desktop(), "lost") == Desktop()
    away = screen.click(opened("notepad"), WALLPAPER)
    assert typed(away, "lost").windows == away.windows


def test_the_close_box_closes_and_beside_it_does_not() -> None:
    desktop = opened("notepad")
    x, y = layout.close_box(front(desktop).rect).centre
    assert len(screen.click(desktop, (x - 50, y)).windows) == 1
    assert screen.click(desktop, (x, y)).windows == ()


def test_the_keyboard_closes_a_window() -> None:
    assert front(press(screen.start(opened("notepad"), "calculator"), "alt+F4")).app == "notepad"


def test_a_click_raises_the_window_that_is_on_top_there() -> None:
    desktop = screen.start(opened("browser"), "notepad")
    behind = desktop.windows[0].rect
    assert front(screen.click(desktop, (behind.x + 5, behind.y + 5))).app == "browser"
    both = front(desktop).rect.centre
    assert behind.has(both)
    assert front(screen.click(desktop, both)).app == "notepad"


def test_dragging_the_title_moves_a_window_and_dragging_elsewhere_does_not() -> None:
    desktop = opened("notepad")
    rect = front(desktop).rect
    grip = (rect.x + 100, rect.y + 10)
    moved = screen.drag(desktop, grip, (grip[0] + 50, grip[1] + 70))
    assert front(moved).rect == (rect.x + 50, rect.y + 70, rect.w, rect.h)
    assert moved.cursor == (grip[0] + 50, grip[1] + 70)
    assert front(screen.drag(desktop, rect.centre, WALLPAPER)).rect == rect
    thrown = front(screen.drag(desktop, grip, (0, 719))).rect
    assert thrown.y <= SIZE[1] - layout.TASKBAR - layout.TITLE


# The editor.


def test_editing_at_the_caret() -> None:
    desktop = press(typed(opened("notepad"), "one three"), "Home", *["Right"] * 4)
    desktop = typed(desktop, "two ")
    assert text(desktop) == "one two three"
    desktop = press(desktop, "End", "BackSpace", "BackSpace", "Home", "Delete")
    assert text(desktop) == "ne two thr"
    assert text(typed(press(desktop, "ctrl+a"), "new")) == "new"


def test_lines_and_the_arrows_between_them() -> None:
    desktop = typed(opened("notepad"), "first\nsecond")
    assert text(desktop) == "first\nsecond"
    assert text(typed(press(desktop, "Up", "End"), "!")) == "first!\nsecond"
    assert text(typed(press(desktop, "Up", "Up", "Home", "Down"), "> ")) == "first\n> second"


def test_a_new_line_that_is_no_enter_is_a_character_of_the_document_only() -> None:
    assert text(screen.write(opened("notepad"), "a\nb", enter=False)) == "a\nb"
    browser = screen.write(opened("browser"), "a\nb", enter=False)
    assert front(browser).entry.value == "ab"
    assert front(browser).name == ""


def test_the_clipboard() -> None:
    desktop = press(typed(opened("notepad"), "copy "), "ctrl+a", "ctrl+c", "End", "ctrl+v")
    assert text(desktop) == "copy copy "
    desktop = press(desktop, "ctrl+a", "ctrl+x")
    assert (text(desktop), desktop.clipboard) == ("", "copy copy ")
    assert press(desktop, "ctrl+c").clipboard == "copy copy "


def test_shift_selects_and_typing_replaces_what_is_selected() -> None:
    desktop = press(typed(opened("notepad"), "hello world"), *["shift+Left"] * 5)
    assert front(desktop).text.selected == "world"
    assert text(typed(desktop, "you")) == "hello you"


def test_a_modifier_that_is_held_down_works_until_it_is_released() -> None:
    desktop = perform(typed(opened("notepad"), "abc"), type="key:down", key="ctrl")
    selected = perform(desktop, type="key:down", key="a")
    assert front(selected).text.selected == "abc"
    released = perform(selected, type="key:up", key="Control_L")
    assert text(perform(released, type="key:down", key="a")) == "a"
    shifted = perform(opened("notepad"), type="key:down", key="shift")
    assert text(perform(shifted, type="keyboard:hotkey", keys="a")) == "A"


def spot(desktop: Desktop, row: int, before: str) -> Point:
    """The pixel in the document that follows these letters of a row."""
    rect = front(desktop).area("text")
    return rect.x + round(FONT.getlength(before)), rect.y + row * layout.LINE + 8


def test_a_click_places_the_caret() -> None:
    desktop = typed(opened("notepad"), "alpha beta\ngamma")
    assert text(typed(screen.click(desktop, spot(desktop, 0, "alpha")), "!")) == "alpha! beta\ngamma"
    below = screen.click(desktop, spot(desktop, 9, ""))
    assert text(typed(below, "> ")) == "alpha beta\n> gamma"


def test_dragging_over_text_selects_it() -> None:
    desktop = typed(opened("notepad"), "drag over me")
    desktop = screen.drag(desktop, spot(desktop, 0, "drag "), spot(desktop, 0, "drag over"))
    assert front(desktop).text.selected == "over"
    middle = screen.drag(desktop, spot(desktop, 0, ""), spot(desktop, 0, "drag"), button=4)
    assert front(middle).text.selected == "over"


def test_shift_and_a_click_extend_the_selection() -> None:
    desktop = press(typed(opened("notepad"), "from here"), "Home")
    x, y = spot(desktop, 0, "from")
    desktop = perform(
        desktop,
        type="mouse:click",
        x={"type": "px", "value": x},
        y={"type": "px", "value": y},
        button=1,
        holdKey="shift",
    )
    assert front(desktop).text.selected == "from"


def test_long_texts_scroll_with_the_caret_and_the_wheel() -> None:
    desktop = typed(opened("notepad"), "\n".join(f"line {number}" for number in range(40)))
    top = front(desktop).scroll
    assert top > 10
    up = screen.wheel(desktop, front(desktop).rect.centre, 5)
    assert front(up).scroll == top - 15
    assert front(screen.wheel(up, front(up).rect.centre, 50)).scroll == 0
    assert front(screen.wheel(up, WALLPAPER, 5)) == front(up)
    clicked = typed(screen.click(up, spot(up, 0, "")), ">")
    assert text(clicked).split("\n")[top - 15].startswith(">")
    assert front(press(up, "Down")).scroll == top


def test_long_lines_wrap_after_a_blank() -> None:
    desktop = typed(opened("notepad"), "word " * 60 + "x" * 300)
    rows = front(desktop).rows("text")
    assert "".join(row.text for row in rows) == text(desktop)
    assert all(FONT.getlength(row.text) <= front(desktop).area("text").w + 1 for row in rows)
    assert {row.text[:5] for row in rows[:3]} == {"word "}
    caret = front(press(desktop, "Up", "End")).text.caret
    assert caret == rows[-2].last == rows[-1].first - 1


def test_saving_asks_for_a_name_and_keeps_the_file() -> None:
    desktop = press(typed(opened("notepad"), "notes"), "ctrl+s")
    assert front(desktop).typing == "entry"
    assert typed(desktop, "\n").files == {}
    desktop = typed(desktop, "report.txt\n")
    assert desktop.files == {"report.txt": "notes"}
    assert front(desktop).title == "report.txt - Notepad"
    desktop = typed(desktop, "!")
    assert desktop.files == {"report.txt": "notes"}
    assert typed(press(desktop, "ctrl+s"), "\n").files == {"report.txt": "notes!"}


def test_the_name_can_be_given_by_the_mouse_and_left() -> None:
    desktop = typed(opened("notepad"), "notes")
    rect = front(desktop).rect
    name = layout.fields("notepad", rect)["entry"].centre
    asked = screen.write(screen.click(desktop, name), "a.txt", enter=False)
    assert press(asked, "KP_Enter").files == {"a.txt": "notes"}
    assert front(press(asked, "Escape")).typing == "text"
    assert front(screen.click(asked, rect.centre)).typing == "text"


# The calculator.


@pytest.mark.parametrize(
    ("calculation", "result"),
    [
        *(
            ("123*456", "56088"),
            ("2+2", "4"),
            ("2+3*4", "14"),
            ("7/2", "3.5"),
            ("-5+2", "-3"),
            ("2*-3", "-6"),
        ),
        *((".5+.25", "0.75"), ("0.1+0.2", "0.3"), ("1/3", "0.333333333333333"), ("1e5", "Error")),
        *(("1/0", "Error"), ("", "Error"), ("2+", "Error"), ("(1)", "Error"), ("__import__", "Error")),
        *(("1" * 20 + "x", "Error"), ("9" * 40 + "*" + "9" * 40, "1e+80"), ("0*-1", "0"), ("100", "100")),
        *(("1/30000*30000", "1"), ("3.5e-05*2", "7e-05"), ("1+2-3*4/6", "1"), ("2--2", "Error")),
    ],
)
def test_calculations(calculation: str, result: str) -> None:
    assert apps.evaluate(calculation) == result


@given(st.text(string.digits + ".+-*/", max_size=60))
def test_any_calculation_gives_a_number_or_an_error(calculation: str) -> None:
    result = apps.evaluate(calculation)
    assert result == "Error" or float(result) == pytest.approx(float(result))


def test_the_calculator_by_its_buttons_and_by_the_keyboard() -> None:
    desktop = opened("calculator")
    rect = front(desktop).rect
    for label in "12+30=":
        desktop = screen.click(desktop, layout.button(rect, label).centre)
    assert text(desktop) == "42"
    desktop = press(desktop, "asterisk", "2", "Return")
    assert text(desktop) == "84"
    desktop = press(typed(desktop, "1.5"), "BackSpace", "KP_Add", "KP_2", "equal")
    assert text(desktop) == "3"
    assert text(press(desktop, "Escape")) == ""
    between = layout.button(rect, "7")
    assert text(screen.click(desktop, (between.x - 2, between.y - 2))) == "3"


# The browser.


def test_an_address_opens_its_page_and_words_are_searched() -> None:
    page = typed(opened("browser"), "https://wikipedia.org/\n")
    assert front(page).title == "wikipedia.org - Browser"
    results = typed(press(page, "ctrl+l"), "python tutorials\n")
    assert front(results).title == "Results for python tutorials - Browser"
    assert typed(results, "a page is not written on") == results
    assert press(results, "ctrl+a", "ctrl+x").windows == press(results, "ctrl+a").windows


def test_a_result_opens_by_a_click_on_its_text_only() -> None:
    desktop = typed(opened("browser"), "python\n")
    link = "https://encyclopedia.example/python"
    area, row = front(desktop).area("text"), text(desktop).split("\n").index(link)
    x, y = area.x + round(FONT.getlength(link)) - 6, area.y + row * layout.LINE + 10
    assert front(screen.click(desktop, (x, y))).name == "encyclopedia.example/python"
    for miss in ((x + 12, y), (x, y - layout.LINE), (x, y + layout.LINE)):
        assert front(screen.click(desktop, miss)).name == "?python"
    scrolled = screen.wheel(desktop, area.centre, -1)
    assert front(screen.click(scrolled, (x, y - 3 * layout.LINE))).name == "encyclopedia.example/python"
    assert screen.drag(desktop, (x, y), (x - 90, y)).windows[0].text.selected in link


def test_a_page_scrolls_no_further_than_it_goes() -> None:
    desktop = typed(opened("browser"), "wikipedia.org\n")
    there = front(desktop).rect.centre
    assert front(screen.wheel(desktop, there, 3)).scroll == 0
    assert front(screen.wheel(desktop, there, -2)).scroll == 6
    end = front(screen.wheel(desktop, there, -1000)).scroll
    assert 0 < end < len(front(desktop).rows("text"))
    assert front(press(desktop, *["Page_Down"] * 9)).scroll == end


# The context menu.


def test_a_right_click_opens_a_menu_that_closes_elsewhere() -> None:
    desktop = screen.click(Desktop(), (1279, 719), screen.RIGHT)
    assert desktop.menu is not None
    assert desktop.menu.has((1279, 719))
    assert screen.truth(desktop)["menu"] == ["Cut", "Copy", "Paste", "Select all"]
    assert screen.click(desktop, (300, 300)).menu is None
    assert press(desktop, "Escape").menu is None


def test_the_menu_edits_what_is_focused() -> None:
    desktop = typed(opened("notepad"), "abc")
    for row in (3, 0):
        asked = screen.click(desktop, front(desktop).rect.centre, screen.RIGHT)
        assert asked.menu is not None
        desktop = screen.click(asked, layout.menu_row(asked.menu, row).centre)
    assert (text(desktop), desktop.clipboard) == ("", "abc")


# Lybic's actions.


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({}, "type"),
        ({"type": "mouse:fly"}, "mouse:fly"),
        ({"type": "mouse:click", "x": {"type": "px", "value": 1}}, "y"),
        (
            {"type": "touch:tap", "x": {"type": "px", "value": 1}, "y": {"type": "px", "value": 1}},
            "touch:tap",
        ),
        ({"type": "os:listApps"}, "os:listApps"),
        ({"type": "keyboard:hotkey", "keys": "ctrl+Enter"}, "Enter"),
        ({"type": "keyboard:hotkey", "keys": "ctrl c"}, "ctrl c"),
        ({"type": "keyboard:hotkey", "keys": ""}, "no key"),
        ({"type": "key:down", "key": "ctrl+a"}, "exactly one"),
        ({"type": "keyboard:type", "content": 5}, "content"),
    ],
)
def test_what_is_no_action_is_refused(action: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason.replace("+", r"\+")) as caught:
        perform(Desktop(), **action)
    assert (caught.value.status, caught.value.code) == (400, "nomos.action.INVALID")


@pytest.mark.parametrize(
    ("x", "y", "where"),
    [
        (px(0), px(719), (0, 719)),
        (part(1000), part(0), (1279, 0)),
        (part(500), part(500), (640, 360)),
        (part(1, 3), part(1, 3), (427, 240)),
    ],
)
def test_lengths_are_pixels_or_fractions(x: Any, y: Any, where: Point) -> None:
    assert actions.perform(Desktop(), lybic.MouseMoveAction(x=x, y=y)).cursor == where


@pytest.mark.parametrize("x", [px(-1), px(1280), part(1001), part(-1), part(1, 0), part(1, -1)])
def test_what_is_outside_of_the_screen_is_refused(x: Any) -> None:
    with pytest.raises(Refused):
        actions.perform(Desktop(), lybic.MouseMoveAction(x=x, y=px(1)))


def test_relative_coordinates() -> None:
    start = replace(Desktop(), cursor=(100, 100))
    move = lybic.MouseMoveAction(x=px(-20), y=px(30), relative=True)
    assert actions.perform(start, move).cursor == (80, 130)
    rect = front(opened("notepad")).rect
    at = replace(opened("notepad"), cursor=(rect.x + 90, rect.y + 9))
    drag = lybic.MouseDragAction(
        startX=px(1), startY=px(1), endX=px(40), endY=px(0), startRelative=True, endRelative=True, button=1
    )
    moved = actions.perform(at, drag)
    assert front(moved).rect.x == rect.x + 40
    assert moved.cursor == (rect.x + 131, rect.y + 10)


@pytest.mark.parametrize("button", [0, 32, -1])
def test_a_button_is_a_sum_of_flags(button: int) -> None:
    with pytest.raises(Refused):
        actions.perform(Desktop(), lybic.MouseClickAction(x=px(1), y=px(1), button=button))


@pytest.mark.parametrize(("duration", "good"), [(0, False), (1, True), (5000, True), (5001, False)])
def test_a_key_is_held_for_up_to_five_seconds(duration: int, *, good: bool) -> None:
    action = lybic.KeyboardHotkeyAction(keys="ctrl", duration=duration)
    if good:
        assert actions.seconds(action) == duration / 1000
    else:
        with pytest.raises(Refused):
            actions.seconds(action)


def test_a_wait_is_a_minute_at_most() -> None:
    assert actions.seconds(lybic.WaitAction(duration=10**9)) == 60
    with pytest.raises(Refused):
        actions.seconds(lybic.WaitAction(duration=-1))


# The picture.


def test_every_colour_that_is_looked_for_is_only_where_it_should_be() -> None:
    calculator = opened("calculator")
    rect, seen = front(calculator).rect, seen_in(calculator)
    assert near(seen.find(layout.EQUALS), layout.button(rect, "="))
    assert near(seen.find(layout.CLEAR), layout.button(rect, "C"))
    desktop = typed(screen.start(calculator, "browser"), "python\n")
    desktop = screen.click(screen.start(desktop, "notepad"), WALLPAPER)
    rects = {window.app: window.rect for window in desktop.windows}
    assert near(seen_in(desktop).find(layout.PAPER), layout.fields("notepad", rects["notepad"])["text"])
    browser = seen_in(screen.start(desktop, "browser"))
    assert near(browser.find(layout.ADDRESS), layout.fields("browser", rects["browser"])["entry"])
    assert len(browser.rows(layout.LINK)) == 6
    nothing = seen_in(Desktop())
    for colour in (layout.PAPER, layout.LINK, layout.EQUALS, layout.CLEAR, layout.ADDRESS):
        assert nothing.find(colour) is None


def near(found: Rect | None, true: Rect) -> bool:
    return found is not None and all(abs(one - other) <= 8 for one, other in zip(found, true, strict=True))


def seen_in(desktop: Desktop) -> Screen:
    return Screen("data:image/webp;base64," + base64.b64encode(paint.encode(desktop)).decode())


def test_both_forms_show_the_same_picture() -> None:
    desktop = typed(opened("notepad"), "same")
    pictures = [Image.open(io.BytesIO(paint.encode(desktop, form))) for form in ("webp", "png")]
    assert pictures[0].size == SIZE
    assert pictures[0].convert("RGB").tobytes() == pictures[1].convert("RGB").tobytes()


def test_every_state_can_be_drawn() -> None:
    desktop = Desktop((1024, 720))
    for app in layout.APPS:
        desktop = screen.start(desktop, app)
    desktop = typed(screen.start(desktop, "notepad"), "你好 世界 🙂\t\x00 " * 200)
    desktop = press(desktop, "ctrl+a", "ctrl+c", "ctrl+s", "ctrl+v")
    desktop = screen.click(desktop, (1020, 500), screen.RIGHT)
    assert ImageDraw.Draw(paint.render(desktop)) is not None


any_point = st.tuples(st.integers(0, 1279), st.integers(0, 719))
any_input = st.one_of(
    st.tuples(st.just("click"), any_point, st.sampled_from([1, 2, 4, 31]), st.integers(1, 3)),
    st.tuples(st.just("drag"), any_point, any_point, st.just(1)),
    st.tuples(st.just("wheel"), any_point, st.integers(-9, 9)),
    st.tuples(st.just("write"), st.text(max_size=40)),
    st.tuples(
        st.just("press"),
        st.lists(st.sampled_from(["ctrl", "shift", "alt", *"acsvxlw", "Return", "Up", "End"])),
    ),
)


@given(st.lists(any_input, max_size=25))
def test_whatever_is_done_the_desktop_stays_whole(inputs: list[Any]) -> None:
    desktop = Desktop()
    for name, *values in inputs:
        more = {"enter": True} if name == "write" else {}
        desktop = getattr(screen, name)(desktop, *values, **more)
    assert paint.render(desktop).size == SIZE
    told = screen.truth(desktop)
    assert len(told["windows"]) == len({window["kind"] for window in told["windows"]})
