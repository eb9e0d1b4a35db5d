"""The simulated phone: what hits has its effect, and what misses has none."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.model.screen import Screen
from local.sandbox import actions, apps, paint, phone_paint, touches
from local.sandbox import layout as desktop_layout
from local.sandbox import phone as screen
from local.sandbox import phone_layout as layout
from local.sandbox.layout import Point, Rect
from local.sandbox.phone import NOTES, SETTINGS, Phone
from local.standin import Refused

SIZE = layout.SIZE
MIDDLE = (360, 640)
NOWHERE = (700, 400)  # on the home screen


def perform(phone: Phone, kind: str, **action: Any) -> Phone:
    """The action as it comes over HTTP."""
    return actions.perform(phone, actions.read(phone, {"type": kind, **action}))


def px(x: int, y: int) -> dict[str, Any]:
    return {"x": {"type": "px", "value": x}, "y": {"type": "px", "value": y}}


def opened(app: str) -> Phone:
    return screen.start(Phone(), app)


def typed(phone: Phone, text: str) -> Phone:
    return screen.write(phone, text, enter=True)


def writing() -> Phone:
    return screen.tap(opened("notes"), layout.ADD_BUTTON.centre)


def chosen(phone: Phone, point: Point, number: int) -> Phone:
    """A finger stays there, and then takes that entry of the menu."""
    held = screen.hold(phone, point, 1000)
    assert held.menu is not None
    return screen.tap(held, layout.menu_row(held.menu.rect, number).centre)


# The home screen and its buttons.


def test_a_tap_on_an_icon_opens_its_app_and_beside_it_does_not() -> None:
    phone = screen.tap(Phone(), layout.icon("settings").centre)
    assert (phone.view, phone.running) == ("settings", ("settings",))
    assert screen.tap(Phone(), NOWHERE).view == "home"


def test_a_swipe_to_the_side_turns_the_page() -> None:
    assert screen.tap(Phone(), layout.icon("browser").centre).view == "notes"
    turned = perform(Phone(), "touch:swipe", **px(*MIDDLE), direction="left", distance=third())
    assert turned.page == 1
    assert screen.tap(turned, layout.icon("browser").centre).view == "browser"
    assert screen.drag(turned, MIDDLE, (660, 640)).page == 0
    assert screen.drag(turned, (660, 640), MIDDLE).page == 1
    for end in ((300, 640), (200, 200)):  # too short, and rather upwards
        assert screen.drag(Phone(), MIDDLE, end).page == 0
    assert screen.home(turned).page == 0


def third() -> dict[str, Any]:
    return {"type": "/", "numerator": 1, "denominator": 3}


@pytest.mark.parametrize("app", layout.APPS)
def test_an_app_is_left_by_back_and_home_in_either_way(app: str) -> None:
    phone = opened(app)
    for way in (
        lambda: perform(phone, "android:back"),
        lambda: perform(phone, "android:home"),
        lambda: screen.tap(phone, layout.BACK_BUTTON.centre),
        lambda: screen.tap(phone, layout.HOME_BUTTON.centre),
    ):
        assert way().view == "home"
        assert way().running == (app,)


def test_back_closes_one_thing_after_the_other() -> None:
    phone = typed(writing(), "kept")
    assert phone.keyboard
    phone = screen.back(phone)
    assert (phone.view, phone.keyboard) == ("note", False)
    phone = screen.back(phone)
    assert phone.view == "notes"
    phone = screen.back(screen.hold(phone, row(phone, 1), 1000))
    assert (phone.view, phone.menu) == ("notes", None)
    assert screen.back(phone).view == "home"
    page = typed(screen.tap(opened("browser"), layout.ADDRESS_BAR.centre), "python\n")
    assert screen.back(page) == replace(opened("browser"), address="")


def row(phone: Phone, number: int) -> Point:
    return phone.row(number).centre


# Apps by their names.


def test_apps_by_their_names_and_packages() -> None:
    for name in ("Notes", "notes ", "备忘录"):
        assert perform(Phone(), "os:startAppByName", name=name).view == "notes"
    package = layout.APPS["notes"].package
    phone = perform(Phone(), "os:startApp", packageName=package)
    assert phone.view == "notes"
    assert perform(phone, "os:closeAppByName", name="Notes") == perform(
        phone, "os:closeApp", packageName=package
    )
    behind = perform(screen.start(phone, "settings"), "os:closeAppByName", name="Notes")
    assert (behind.view, behind.running) == ("settings", ("settings",))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("os:startAppByName", "name"), ("os:closeAppByName", "name"), ("os:startApp", "packageName")],
)
def test_an_app_that_is_not_there(kind: str, name: str) -> None:
    with pytest.raises(Refused, match="no app is named 'Camera'"):
        perform(Phone(), kind, **{name: "Camera"})


def test_the_list_of_apps_is_in_the_answer_only() -> None:
    action = actions.read(Phone(), {"type": "os:listApps"})
    assert actions.perform(Phone(), action) == Phone()
    listed = touches.result(action)["apps"]
    assert {"name": "Notes", "packageName": "com.simulated.notes"} in listed
    assert [screen.packaged(app["packageName"]) for app in listed] == list(layout.APPS)
    assert touches.result(actions.read(Phone(), {"type": "screenshot"})) == {}


def test_an_app_goes_on_where_it_was_left_until_it_is_closed() -> None:
    phone = typed(writing(), "half")
    again = screen.start(screen.home(phone), "notes")
    assert (again.view, again.text, again.keyboard) == ("note", "half", False)
    closed = screen.start(screen.close(again, "notes"), "notes")
    assert (closed.view, closed.notes[0]) == ("notes", "half")


# Notes.


def test_a_new_note_is_written_and_an_empty_one_is_not_kept() -> None:
    phone = typed(writing(), "first\nsecond")
    assert phone.notes == ("first\nsecond", *NOTES)
    assert screen.back(screen.back(phone)).rows[0] == "first"
    assert screen.back(screen.back(writing())).notes == NOTES
    another = typed(screen.tap(phone, layout.ADD_BUTTON.centre), "another")
    assert another.notes == ("another", "first\nsecond", *NOTES)


def test_a_note_is_opened_by_its_row_and_goes_on_at_its_end() -> None:
    phone = screen.tap(opened("notes"), row(opened("notes"), 1))
    assert (phone.text, phone.keyboard) == (NOTES[1], False)
    assert typed(phone, "lost").notes == NOTES
    phone = typed(screen.tap(phone, MIDDLE), ": hike")
    assert phone.notes[1] == f"{NOTES[1]}: hike"


def test_typing_where_nothing_is_to_be_written_changes_nothing() -> None:
    for phone in (Phone(), opened("notes"), opened("settings"), opened("browser")):
        assert typed(phone, "lost\n") == phone


def test_the_keys_of_the_keyboard_write() -> None:
    phone = writing()
    for character in "hi,\b \n.":
        phone = screen.tap(phone, layout.key(character).centre)
    assert phone.text == "hi \n."
    key = layout.key("q")
    assert screen.tap(phone, (key.x - 1, key.y - 1)).text == "hi \n."
    assert screen.tap(screen.back(phone), key.centre).text == "hi \n."


def test_a_finger_that_stays_opens_a_menu_that_is_left_by_any_other_touch() -> None:
    phone = opened("notes")
    for way in (screen.tap(phone, row(phone, 2)), screen.hold(phone, row(phone, 2), screen.HOLD_MS - 1)):
        assert way.note == 2
    held = perform(phone, "touch:longPress", **px(*row(phone, 2)), duration=800)
    assert screen.truth(held)["menu"] == ("Open", "Delete")
    assert screen.tap(held, (10, 700)).menu is None
    assert screen.tap(held, (10, 700)).view == "notes"
    assert chosen(phone, row(phone, 2), 0).note == 2
    deleted = chosen(phone, row(phone, 2), 1)
    assert deleted.notes == NOTES[:2] + NOTES[3:]
    assert chosen(typed(writing(), "gone"), MIDDLE, 0).text == ""
    assert screen.hold(opened("settings"), MIDDLE, 1000).menu is None


def test_an_icon_s_menu_opens_and_closes() -> None:
    phone = screen.home(opened("notes"))
    icon = layout.icon("notes").centre
    assert chosen(phone, icon, 0).view == "notes"
    assert chosen(phone, icon, 1).running == ()
    assert screen.hold(phone, NOWHERE, 1000).menu is None


def test_a_menu_stays_on_the_screen() -> None:
    phone = opened("notes")
    for x in (2, SIZE[0] - 2):
        held = screen.hold(phone, (x, phone.row(9).y + 50), 1000)
        assert held.menu is not None
        assert 0 <= held.menu.rect.x <= held.menu.rect.x + held.menu.rect.w <= SIZE[0]
        assert held.menu.rect.y + held.menu.rect.h <= SIZE[1]


# Scrolling.


def test_lists_follow_the_finger_as_far_as_they_go() -> None:
    phone = opened("settings")
    down = perform(phone, "touch:swipe", **px(*MIDDLE), direction="up", distance=third())
    assert down.scroll == 427
    assert perform(down, "touch:swipe", **px(*MIDDLE), direction="down", distance=third()).scroll == 0
    assert screen.drag(phone, (360, 900), (360, 800)).scroll == 100
    assert screen.drag(phone, (360, 100), (360, 5)).scroll == 0
    end = down
    for _ in range(9):
        end = screen.drag(end, (360, 1100), (360, 200))
    assert end.row(len(SETTINGS) - 1).y + layout.ROW == layout.BACK_BUTTON.y
    assert screen.tap(end, row(end, len(SETTINGS) - 1)).on == {"Wi-Fi", "About phone"}
    assert screen.start(screen.home(end), "settings").scroll == 0


def test_a_setting_is_switched_by_its_row() -> None:
    phone = screen.tap(opened("settings"), row(opened("settings"), 1))
    assert screen.truth(phone)["settings"]["Bluetooth"]
    assert not screen.truth(screen.tap(phone, row(phone, 1)))["settings"]["Bluetooth"]
    assert screen.tap(phone, (360, 80)).on == phone.on


def test_a_long_note_keeps_its_end_in_view_while_one_writes() -> None:
    phone = typed(writing(), "\n".join(f"line {number}" for number in range(40)))
    last = phone.row(len(phone.rows) - 1)
    assert last.y + last.h == phone.area.y + phone.area.h
    up = screen.drag(phone, (360, 300), (360, 500))
    assert up.scroll == phone.scroll - 200
    assert typed(up, "!").scroll == phone.scroll


# The browser.


def test_an_address_and_a_search_and_a_link() -> None:
    bar = layout.ADDRESS_BAR.centre
    page = typed(screen.tap(opened("browser"), bar), "https://wikipedia.org/\n")
    assert (page.address, page.keyboard) == ("wikipedia.org", False)
    results = typed(screen.tap(page, bar), "python tutorials\n")
    assert results.address == "?python tutorials"
    link = next(number for number, text in enumerate(results.rows) if text.startswith(apps.LINK))
    assert screen.tap(results, row(results, link)).address == "encyclopedia.example/python-tutorials"
    assert screen.tap(results, row(results, link - 1)).address == "?python tutorials"
    unsent = screen.write(screen.tap(page, bar), "a\nb", enter=False)
    assert (unsent.entry, unsent.address) == ("ab", "wikipedia.org")
    assert screen.tap(unsent, layout.key("\n").centre).address == "?ab"
    assert screen.tap(unsent, layout.key("\b").centre).entry == "a"


# Lybic's actions.


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"type": "mouse:click", **px(1, 1), "button": 1}, "mouse:click"),
        ({"type": "keyboard:hotkey", "keys": "Return"}, "keyboard:hotkey"),
        ({"type": "key:down", "key": "a"}, "key:down"),
        ({"type": "touch:tap", "x": {"type": "px", "value": 1}}, "y"),
        ({"type": "touch:tap", **px(720, 1)}, "outside"),
        ({"type": "touch:swipe", **px(1, 1), "direction": "north", "distance": third()}, "direction"),
        (
            {"type": "touch:swipe", **px(1, 1), "direction": "up", "distance": {"type": "px", "value": -1}},
            "distance",
        ),
        ({"type": "touch:longPress", **px(1, 1)}, "duration"),
    ],
)
def test_what_a_phone_does_not_do_is_refused(action: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        actions.perform(Phone(), actions.read(Phone(), action))
    assert (caught.value.status, caught.value.code) == (400, "nomos.action.INVALID")


def test_a_finger_ends_at_the_edge_of_the_screen() -> None:
    far = {"type": "px", "value": 5000}
    for direction, end in {"up": (5, 0), "down": (5, 1279), "left": (0, 6), "right": (719, 6)}.items():
        swiped = perform(Phone(), "touch:swipe", **px(5, 6), direction=direction, distance=far)
        assert swiped.trace == ((5, 6), end)


def test_a_finger_keeps_its_caller_waiting() -> None:
    action = actions.read(Phone(), {"type": "touch:longPress", **px(1, 1), "duration": 1500})
    assert actions.seconds(action) == 1.5
    with pytest.raises(Refused):
        actions.seconds(actions.read(Phone(), {"type": "touch:longPress", **px(1, 1), "duration": -1}))


# The picture.


def seen_in(phone: Phone) -> Screen:
    return Screen("data:image/webp;base64," + base64.b64encode(paint.encode(phone)).decode())


def near(found: Rect | None, true: Rect) -> bool:
    return found is not None and all(abs(one - other) <= 8 for one, other in zip(found, true, strict=True))


def test_every_colour_that_is_looked_for_is_only_where_it_should_be() -> None:
    note, results = (
        typed(writing(), "x"),
        typed(screen.tap(opened("browser"), layout.ADDRESS_BAR.centre), "python\n"),
    )
    bottom = screen.drag(screen.drag(opened("settings"), (9, 1100), (9, 200)), (9, 1100), (9, 200))
    views = {
        "home": Phone(),
        "notes": opened("notes"),
        "new": writing(),
        "note": note,
        "settings": opened("settings"),
        "bottom": bottom,
        "browser": opened("browser"),
        "results": results,
    }
    seen = {name: seen_in(replace(phone, trace=())) for name, phone in views.items()}
    for colour, where in {
        layout.DOT: {"home"},
        layout.ADD: {"notes", "new", "note"},
        layout.WRITTEN: {"note"},
        layout.SWITCH: {"settings"},
        layout.LAST: {"bottom"},
        desktop_layout.PAPER: {"new", "note"},
        desktop_layout.ADDRESS: {"browser", "results"},
        desktop_layout.LINK: {"results"},
    }.items():
        assert {name for name, shown in seen.items() if shown.shows(colour)} == where
    assert near(seen["notes"].find(layout.ADD), layout.ADD_BUTTON)
    assert near(seen["browser"].find(desktop_layout.ADDRESS), layout.ADDRESS_BAR)


def test_touches_are_seen() -> None:
    phone = opened("settings")
    pictures = {
        paint.encode(way)
        for way in (phone, screen.hold(phone, MIDDLE, 900), screen.drag(phone, MIDDLE, (360, 700)))
    }
    assert len(pictures) == 3


any_point = st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[1] - 1))
any_app = st.sampled_from(list(layout.APPS))
any_input = st.one_of(
    st.tuples(st.just("tap"), any_point),
    st.tuples(st.just("hold"), any_point, st.sampled_from([1, 1000])),
    st.tuples(st.just("drag"), any_point, any_point),
    st.tuples(st.just("write"), st.text(max_size=40)),
    st.tuples(st.just("back")),
    st.tuples(st.just("home")),
    st.tuples(st.just("start"), any_app),
    st.tuples(st.just("close"), any_app),
)


@given(st.lists(any_input, max_size=25))
def test_whatever_is_done_the_phone_stays_whole(inputs: list[Any]) -> None:
    phone = Phone()
    for name, *values in inputs:
        more = {"enter": True} if name == "write" else {}
        phone = getattr(screen, name)(phone, *values, **more)
        assert phone.note is None or phone.note < len(phone.notes)
        assert not phone.keyboard or phone.view in ("note", "browser")
        assert phone.app in ("", *phone.running)
    assert phone_paint.render(phone).size == SIZE
    assert screen.truth(phone)["view"] == phone.view
