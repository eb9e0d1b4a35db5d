"""What users do with a phone: real processes and HTTP; only the phone is drawn and the model scripted."""

from typing import Any

import pytest

from local.sandbox import phone_layout as layout
from local.sandbox.layout import Rect
from local.sandbox.phone import NOTES
from local.sandbox.sandboxes import PHONE_SHAPE
from tests.e2e.conftest import System
from worker import uitars

CONTROLS = {"finished", "call_user", "failed", "output", "save_memory"}


def script(*lines: str) -> str:
    return "\n".join(f"script> {line}" for line in lines)


def at(rect: Rect) -> str:
    """The middle of a rectangle, in thousandths of the screen."""
    (x, y), (width, height) = rect.centre, layout.SIZE
    return f"<point>{1000 * x // width} {1000 * y // height}</point>"


@pytest.fixture
def phone(system: System) -> str:
    """A new phone, and that the API says so."""
    made = system.http.post("/api/sandbox/create", json={"shape": PHONE_SHAPE, "maxLifeSeconds": 600})
    assert made.status_code == 200, made.text
    assert (made.json()["os"], made.json()["shape"]) == ("Android", PHONE_SHAPE)
    return str(made.json()["sandbox_id"])


ROW = layout.body(keyboard=False).part(0, 3 * layout.ROW, 0, 0)._replace(h=layout.ROW)
DELETE = layout.menu_row(layout.menu(ROW.centre, 2), 1)
# Every word that a phone has, each with the action that it becomes: its type, and what else it must hold.
STORY: list[tuple[str, dict[str, Any]]] = [
    ("list_apps()", {"type": "os:listApps"}),
    ("open_app(app_name='Settings')", {"type": "os:startAppByName", "name": "Settings"}),
    (
        "scroll(point='<point>500 600</point>', direction='down')",
        {
            "type": "touch:swipe",
            "direction": "up",
            "distance": {"type": "/", "numerator": 1, "denominator": 3},
        },
    ),
    (
        "drag(start_point='<point>500 400</point>', end_point='<point>500 480</point>')",
        {"type": "touch:drag", "endY": {"type": "/", "numerator": 480, "denominator": 1000}},
    ),
    ("press_back()", {"type": "android:back"}),
    ("close_app(app_name='Settings')", {"type": "os:closeAppByName", "name": "Settings"}),
    (f"click(point='{at(layout.icon('notes'))}')", {"type": "touch:tap"}),
    (f"long_press(point='{at(ROW)}', time='0.6')", {"type": "touch:longPress", "duration": 600}),
    (f"click(point='{at(DELETE)}')", {"type": "touch:tap"}),
    (f"click(point='{at(layout.ADD_BUTTON)}')", {"type": "touch:tap"}),
    (r"type(content='it\'s done')", {"type": "keyboard:type", "content": "it's done"}),
    ("hotkey(key='enter')", {"type": "keyboard:type", "content": "\n", "treatNewLineAsEnter": True}),
    ("wait(t='0.1')", {"type": "wait", "duration": 100}),
    ("press_home()", {"type": "android:home"}),
]


def test_every_word_of_a_phone_is_carried_out_once_and_in_order(system: System, phone: str) -> None:
    words = {call.partition("(")[0] for call, _ in STORY}
    assert words == uitars.words("mobile").keys() - CONTROLS
    calls = (call for call, _ in STORY)
    result = system.done(script(*calls, "finished(content='all of it')"), sandbox_id=phone)
    assert (result["status"], result["finished_output"]) == ("finished", "all of it"), result
    assert result["sandbox_info"]["sandbox_id"] == phone
    done = system.executed(phone)
    assert len(done) == len(STORY)
    for action, (_, wanted) in zip(done, STORY, strict=True):
        assert action.items() >= wanted.items()
    state = system.desktop(phone)
    assert state["notes"] == ["it's done\n", *NOTES[:3], *NOTES[4:]]
    assert (state["view"], state["running"]) == ("home", ["notes"])


def test_a_note_is_written_and_the_stream_tells_of_it(system: System, phone: str) -> None:
    task = system.submit("Open notes and write Buy milk", sandbox_id=phone)
    events = system.events(task)
    actions = [event["content"] for event in events if event["type"] == "action"]
    assert actions[0] == "open_app(app_name='Notes')"
    assert events[-1]["type"] == "finished"
    assert "Buy milk" in events[-1]["output"]
    assert system.desktop(phone)["notes"] == ["Buy milk", *NOTES]


def test_a_follow_up_stays_on_the_phone(system: System, phone: str) -> None:
    first = system.done("Open settings and scroll to the end", sandbox_id=phone)
    more = {"continue_context": True, "task_id": first["task_id"]}
    second = system.done("Open browser and go to wikipedia.org", **more)
    assert (first["status"], second["status"]) == ("finished", "finished")
    assert second["sandbox_info"]["sandbox_id"] == phone
    assert system.desktop(phone)["address"] == "wikipedia.org"


def test_what_a_phone_can_t_do_is_told_to_the_model_and_does_not_end_the_task(
    system: System, phone: str
) -> None:
    lines = (
        "open_app(app_name='Camera')",
        "raw Action: left_double(point='<point>5 5</point>')",
        "press_home()",
    )
    result = system.done(script(*lines), sandbox_id=phone)
    assert result["status"] == "finished"
    assert [action["type"] for action in system.executed(phone)] == ["android:home"]
    told = "\n".join(str(message["content"]) for message in result["llm_context"]["messages"])
    assert "no app is named" in told
    assert "left_double" in told
