"""The stand-ins as they are used: real processes, the unmodified SDK of Lybic and the `openai` package."""

import asyncio
import base64
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
from lybic import LybicAuth, LybicClient, dto
from lybic import action as lybic
from lybic.exceptions import LybicAPIError
from openai.types.chat import ChatCompletion

from local.sandbox import layout, phone_layout
from local.sandbox.phone import NOTES, SETTINGS
from local.sandbox.sandboxes import PHONE_SHAPE
from shared.prompts import system_prompts
from shared.sandboxes import build_action
from shared.schemas import Vocabulary
from worker import uitars
from worker.actions import ENDING

T = TypeVar("T")
Message = dict[str, Any]
SHAPE = "beijing-2c-4g-cpu"
KEY, ORG = "sk-lybic-test", "org-test"
MODEL_KEY = "ark-test"
SIZE = (1280, 720)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """A stand-in of its own; gives its address."""
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        ready = child.stdout.readline()
        assert ready.startswith("listening on http://127.0.0.1:")
        yield ready.split()[-1]
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == 0
    finally:
        child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[str]:
    more = ["--sandbox", "BOX-123", "--sandbox", "sbx-abc123", "--time-scale", "100"]
    with process("local.sandbox", "--api-key", KEY, "--api-key", "another", *more) as url:
        yield url


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with process("local.model", "--api-key", MODEL_KEY) as url:
        yield url


@pytest.fixture
def aids(sandboxes: str) -> Iterator[httpx.Client]:
    """The test aids of the sandboxes."""
    with httpx.Client(base_url=f"{sandboxes}/simulated", trust_env=False) as client:
        client.delete("/faults")
        yield client


@pytest.fixture
def model_aids(model: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{model}/simulated", trust_env=False) as client:
        client.delete("/faults")
        yield client


@pytest.fixture
def chat(model: str) -> Iterator["Chat"]:
    with openai.OpenAI(api_key=MODEL_KEY, base_url=f"{model}/api/v3", max_retries=0) as client:
        yield Chat(client)


def lybic_call(
    url: str,
    call: Callable[[LybicClient], Awaitable[T]],
    *,
    key: str = KEY,
    org: str = ORG,
    timeout: int = 10,
) -> T:
    async def run() -> T:
        auth = LybicAuth(org_id=org, api_key=key, endpoint=url)
        async with LybicClient(auth, timeout=timeout, max_retries=0) as client:
            return await call(client)

    return asyncio.run(run())


def refused(
    url: str, call: Callable[[LybicClient], Awaitable[Any]], **access: Any
) -> tuple[int | None, str | None]:
    with pytest.raises(LybicAPIError) as caught:
        lybic_call(url, call, **access)
    return caught.value.status_code, caught.value.code


def create(url: str, **wanted: Any) -> str:
    return lybic_call(url, lambda client: client.sandbox.create(**{"shape": SHAPE, **wanted})).id


def execute(url: str, sandbox: str, action: Any, **options: Any) -> dto.SandboxActionResponseDto:
    data = dto.ExecuteSandboxActionDto(action=action, **options)
    return lybic_call(url, lambda client: client.sandbox.execute_sandbox_action(sandbox, data))


def status(url: str, box: str) -> str:
    return str(lybic_call(url, lambda client: client.sandbox.get_status(box)))


def px(value: int) -> lybic.PixelLength:
    return lybic.PixelLength(value=value)


def part(numerator: int, denominator: int) -> lybic.FractionalLength:
    return lybic.FractionalLength(numerator=numerator, denominator=denominator)


# The sandbox service.


def test_the_life_of_a_sandbox(sandboxes: str, aids: httpx.Client) -> None:
    async def story(client: LybicClient) -> None:
        assert SHAPE in [shape.name for shape in await client.sandbox.get_shapes()]
        made = await client.sandbox.create(name="mine", maxLifeSeconds=600, shape=SHAPE)
        assert (made.name, made.status) == ("mine", dto.SandboxStatus.RUNNING)
        assert made.shape is not None
        assert made.shape.os == "Linux"
        found = await client.sandbox.get(made.id)
        assert found.sandbox == made
        assert found.connectDetails.roomId == made.id
        assert made.id in [each.id for each in await client.sandbox.list()]
        assert str(await client.sandbox.get_status(made.id)) == "RUNNING"
        await client.sandbox.extend_life(made.id, 3600)
        assert (await client.sandbox.get(made.id)).sandbox.expiresAt > made.expiresAt
        _, picture, encoded = await client.sandbox.get_screenshot(made.id)
        assert picture.size == SIZE
        assert base64.b64decode(encoded)[:4] == b"RIFF"
        await client.sandbox.delete(made.id)
        assert made.id not in [each.id for each in await client.sandbox.list()]
        witness = aids.get(f"/sandboxes/{made.id}").json()
        assert (witness["gone"], witness["status"]) == (True, "STOPPED")

    lybic_call(sandboxes, story)


COMPUTER = [
    lybic.MouseClickAction(x=px(640), y=px(100), button=1),
    lybic.MouseDoubleClickAction(x=px(62), y=px(60), button=1),
    lybic.MouseTripleClickAction(x=px(600), y=px(160), button=1, holdKey="ctrl"),
    lybic.MouseMoveAction(x=lybic.FractionalLength(numerator=1, denominator=2), y=px(5)),
    lybic.MouseMoveAction(x=px(3), y=px(4), relative=True, holdKey="alt+shift"),
    lybic.MouseScrollAction(x=px(600), y=px(300), stepVertical=-5, stepHorizontal=0),
    lybic.MouseDragAction(startX=px(600), startY=px(90), endX=px(620), endY=px(120), button=1),
    lybic.KeyboardTypeAction(content="Hello, Lybic!\n你好", treatNewLineAsEnter=True),
    lybic.KeyboardHotkeyAction(keys="ctrl+shift+Home", duration=5),
    lybic.KeyDownAction(key="shift"),
    lybic.KeyUpAction(key="shift"),
    lybic.ScreenshotAction(),
    lybic.WaitAction(duration=20),
    lybic.FinishedAction(message="done"),
    lybic.FailedAction(),
    lybic.ClientUserTakeoverAction(),
]
MOBILE = [
    lybic.OsListAppsAction(),
    lybic.OsStartAppByNameAction(name="Settings"),
    lybic.TouchSwipeAction(x=px(360), y=px(900), direction="up", distance=part(1, 3)),
    lybic.TouchDragAction(startX=px(360), startY=px(700), endX=px(360), endY=px(800)),
    lybic.AndroidBackAction(),
    lybic.OsCloseAppByNameAction(name="Settings"),
    lybic.OsStartAppAction(packageName="com.simulated.notes"),
    lybic.TouchLongPressAction(x=px(200), y=px(200), duration=600),
    lybic.TouchTapAction(x=px(660), y=px(900)),
    lybic.TouchTapAction(x=px(660), y=px(96)),
    lybic.KeyboardTypeAction(content="Hello, Lybic!\n你好", treatNewLineAsEnter=True),
    lybic.AndroidHomeAction(),
    lybic.OsStartAppAction(packageName="com.android.browser"),
    lybic.OsCloseAppAction(packageName="com.android.browser"),
    *(lybic.ScreenshotAction(), lybic.WaitAction(duration=20), lybic.FinishedAction(message="done")),
    *(lybic.FailedAction(), lybic.ClientUserTakeoverAction()),
]
EVERYWHERE = {"keyboard:type", "screenshot", "wait", "finished", "failed", "client:user-takeover"}


def test_every_computer_action_is_executed_and_witnessed(sandboxes: str, aids: httpx.Client) -> None:
    box = create(sandboxes)
    for action in COMPUTER:
        answer = execute(sandboxes, box, action)
        assert answer.screenShot is not None
        assert answer.actionResult == {}
    assert answer.cursorPosition is not None
    assert (answer.cursorPosition.screenWidth, answer.cursorPosition.screenHeight) == SIZE
    record = aids.get(f"/sandboxes/{box}/actions").json()
    assert record["count"] == len(COMPUTER)
    assert [entry["action"] for entry in record["actions"]] == [
        action.model_dump(exclude_none=True) for action in COMPUTER
    ]
    assert [entry["index"] for entry in record["actions"]] == list(range(len(COMPUTER)))
    (window,) = aids.get(f"/sandboxes/{box}").json()["windows"]
    assert window["text"] == "Hello, Lybic!\n你好"
    last = aids.get(f"/sandboxes/{box}/actions", params={"after": len(COMPUTER) - 2}).json()
    assert [entry["action"]["type"] for entry in last["actions"]] == ["client:user-takeover"]


def test_every_phone_action_is_executed_and_witnessed(sandboxes: str, aids: httpx.Client) -> None:
    box = create(sandboxes, shape=PHONE_SHAPE)
    for action in MOBILE:
        answer = execute(sandboxes, box, action)
        assert answer.screenShot is not None
        listed = action.type == "os:listApps"
        assert bool(answer.actionResult) == listed
    assert {action.type for action in MOBILE} == sdk_types(lybic.MobileUseAction)
    assert answer.cursorPosition is not None
    assert (answer.cursorPosition.screenWidth, answer.cursorPosition.screenHeight) == phone_layout.SIZE
    record = aids.get(f"/sandboxes/{box}/actions").json()
    assert [entry["action"] for entry in record["actions"]] == [
        action.model_dump(exclude_none=True) for action in MOBILE
    ]
    phone = aids.get(f"/sandboxes/{box}").json()
    assert phone["notes"] == ["Hello, Lybic!\n你好", *NOTES]
    assert (phone["view"], phone["running"]) == ("home", ["notes"])


def sdk_types(union: Any) -> set[str]:
    return {model.model_fields["type"].default for model in union.__args__}


def test_the_apps_of_a_phone_are_told_and_can_be_started(sandboxes: str) -> None:
    box = create(sandboxes, shape=PHONE_SHAPE)
    listed = execute(sandboxes, box, lybic.OsListAppsAction()).actionResult
    assert listed is not None
    for app in listed["apps"]:
        execute(sandboxes, box, lybic.OsStartAppByNameAction(name=app["name"]))
        execute(sandboxes, box, lybic.OsCloseAppAction(packageName=app["packageName"]))


@pytest.mark.parametrize("shape", [PHONE_SHAPE, "acep-shenzhen-enhanced"])
def test_a_shape_tells_what_a_sandbox_is(sandboxes: str, shape: str) -> None:
    async def story(client: LybicClient) -> None:
        assert {each.name: each.os for each in await client.sandbox.get_shapes()}[shape] == "Android"
        made = await client.sandbox.create(shape=shape)
        assert made.shape is not None
        assert (made.shapeName, made.shape.os, made.shape.architecture) == (shape, "Android", "aarch64")
        assert (await client.sandbox.get(made.id)).sandbox == made
        _, picture, _ = await client.sandbox.get_screenshot(made.id)
        assert picture.size == phone_layout.SIZE

    lybic_call(sandboxes, story)


@pytest.mark.parametrize(("shape", "others"), [(SHAPE, MOBILE), (PHONE_SHAPE, COMPUTER)])
def test_a_device_refuses_the_actions_of_the_other(
    sandboxes: str, aids: httpx.Client, shape: str, others: list[Any]
) -> None:
    box = create(sandboxes, shape=shape)
    for action in others:
        if action.type not in EVERYWHERE:
            data = dto.ExecuteSandboxActionDto(action=action)
            code = refused(
                sandboxes, lambda client, data=data: client.sandbox.execute_sandbox_action(box, data)
            )  # type: ignore[misc]
            assert code == (400, "nomos.action.INVALID")
    assert aids.get(f"/sandboxes/{box}/actions").json()["count"] == 0


POINT = "point='<point>500 400</point>'"
WAY = "start_point='<point>500 700</point>', end_point='<point>500 300</point>'"
# What a model may say, each word at least once.
CALLS: dict[Vocabulary, list[str]] = {
    "computer": [
        *(f"{word}({POINT})" for word in ("click", "left_double", "right_single", "middle_click")),
        *(f"triple_click({POINT})", f"hover({POINT})", f"drag({WAY})"),
        *(f"scroll({POINT}, direction='{side}')" for side in ("up", "down", "left", "right")),
        *("scroll(direction='down')", "hotkey(key='ctrl a')", "hotkey(key='alt f4')"),
        *(
            "press(key='shift')",
            "release(key='shift')",
            "type(content='a')",
            r"type(content='a\n')",
            "wait(t=1)",
        ),
    ],
    "mobile": [
        *(f"click({POINT})", f"long_press({POINT})", f"long_press({POINT}, time='0.2')", f"drag({WAY})"),
        *(f"scroll({POINT}, direction='{side}')" for side in ("up", "down", "left", "right")),
        *("scroll(direction='down')", f"scroll({WAY})", "list_apps()", "hotkey(key='enter')"),
        *("open_app(app_name='Notes')", "close_app(app_name='Notes')", "press_back()", "press_home()"),
        *("type(content='a')", r"type(content='a\n')", "wait(t=1)"),
    ],
}


@pytest.mark.parametrize("vocabulary", CALLS)
def test_all_that_a_model_may_say_is_among_the_calls(vocabulary: Vocabulary) -> None:
    controls = {*ENDING, "output", "save_memory"}
    assert {call.partition("(")[0] for call in CALLS[vocabulary]} == set(uitars.words(vocabulary)) - controls


@pytest.fixture(scope="module")
def devices(sandboxes: str) -> dict[Vocabulary, str]:
    """A sandbox for each vocabulary."""
    return {"computer": create(sandboxes), "mobile": create(sandboxes, shape=PHONE_SHAPE)}


@pytest.mark.parametrize(
    ("vocabulary", "call"), [(vocabulary, call) for vocabulary in CALLS for call in CALLS[vocabulary]]
)
def test_what_the_worker_makes_of_a_call_is_carried_out(
    sandboxes: str, aids: httpx.Client, devices: dict[Vocabulary, str], vocabulary: Vocabulary, call: str
) -> None:
    box = devices[vocabulary]
    (action,) = uitars.parse(f"Action: {call}", vocabulary=vocabulary).actions
    count = aids.get(f"/sandboxes/{box}/actions").json()["count"]
    assert execute(sandboxes, box, build_action(action)).screenShot is not None
    (entry,) = aids.get(f"/sandboxes/{box}/actions", params={"after": count - 1}).json()["actions"]
    assert entry["action"].items() >= action.items()


def test_what_an_answer_includes_is_up_to_the_caller(sandboxes: str) -> None:
    action = lybic.MouseMoveAction(x=px(7), y=px(8))
    bare = execute(sandboxes, "BOX-123", action, includeScreenShot=False, includeCursorPosition=False)
    assert (bare.screenShot, bare.cursorPosition) == (None, None)
    full = execute(sandboxes, "BOX-123", action)
    assert full.cursorPosition is not None
    assert (full.cursorPosition.x, full.cursorPosition.y) == (7, 8)


def test_a_screenshot_shows_the_moment_at_which_it_was_taken(sandboxes: str) -> None:
    box = create(sandboxes)
    before = execute(sandboxes, box, lybic.ScreenshotAction()).screenShot
    same = lybic_call(sandboxes, lambda client: client.sandbox.preview(box)).screenShot
    after = execute(sandboxes, box, lybic.MouseMoveAction(x=px(7), y=px(8))).screenShot
    assert before is not None
    assert before == same != after
    with httpx.Client(trust_env=False) as client:
        pictures = [client.get(str(url)) for url in (before, after, str(before).replace("webp", "png"))]
        assert client.get(f"{sandboxes}/screenshots/guessed.webp").status_code == 404
    assert [picture.headers["content-type"] for picture in pictures] == [
        "image/webp",
        "image/webp",
        "image/png",
    ]
    assert pictures[0].content != pictures[1].content
    lybic_call(sandboxes, lambda client: client.sandbox.delete(box))
    assert httpx.get(before, trust_env=False).status_code == 404


def test_who_has_no_known_key_is_turned_away(sandboxes: str) -> None:
    access = {"key": "sk-wrong"}
    assert refused(sandboxes, lambda client: client.sandbox.list(), **access) == (
        401,
        "nomos.auth.UNAUTHORIZED",
    )
    lybic_call(sandboxes, lambda client: client.sandbox.list(), key="another")
    path = f"{sandboxes}/api/orgs/{ORG}/sandboxes"
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}, {"x-api-key": ""}):
        answer = httpx.get(path, headers=headers, trust_env=False)
        assert answer.status_code == 401
        assert "sk-wrong" not in answer.text
    good = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(path, headers=good, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.sandbox.get("BOX-none"),
        lambda client: client.sandbox.get_status("BOX-none"),
        lambda client: client.sandbox.preview("BOX-none"),
        lambda client: client.sandbox.extend_life("BOX-none"),
        lambda client: client.sandbox.delete("BOX-none"),
        lambda client: client.sandbox.execute_sandbox_action("BOX-none", action=lybic.ScreenshotAction()),
    ],
)
def test_an_unknown_sandbox_is_not_found(
    sandboxes: str, call: Callable[[LybicClient], Awaitable[Any]]
) -> None:
    assert refused(sandboxes, call) == (404, "nomos.sandbox.NOT_FOUND")


def test_a_sandbox_belongs_to_its_organisation(sandboxes: str) -> None:
    box = create(sandboxes)
    assert refused(sandboxes, lambda client: client.sandbox.get(box), org="other")[0] == 404
    assert lybic_call(sandboxes, lambda client: client.sandbox.get("sbx-abc123"), org="other")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", b"{", 400),
        ("", b"[]", 400),
        ("", b'{"name": "no shape"}', 400),
        ("", b'{"shape": "moon-base"}', 400),
        ("", b'{"shape": "beijing-2c-4g-cpu", "maxLifeSeconds": 90000}', 400),
        ("", b'{"shape": "beijing-2c-4g-cpu", "maxLifeSeconds": "60"}', 400),
        ("/BOX-123/extend", b'{"maxLifeSeconds": 29}', 400),
        ("/BOX-123/extend", b'{"maxLifeSeconds": 86401}', 400),
        ("/BOX-123/actions/execute", b"", 400),
        ("/BOX-123/actions/execute", b"{}", 400),
        ("/BOX-123/actions/execute", b'{"action": {"type": "mouse:fly"}}', 400),
        ("/BOX-123/actions/execute", b'{"action": {"type": "wait", "duration": "1"}}', 400),
        ("/BOX-123/actions/execute", b'{"action": {"type": "screenshot"}, "includeScreenShot": 1}', 400),
        (
            "/BOX-123/actions/execute",
            b'{"action": {"type": "screenshot"}, "screenShotPutUrl": "http://x/"}',
            400,
        ),
        ("/BOX-123/actions/execute", b"[" * 100_000, 400),
        ("/BOX-123/actions/execute", b'"' + b"x" * (2 << 20) + b'"', 413),
        ("/BOX-123/reboot", b"{}", 404),
    ],
)
def test_nonsense_is_refused_as_json(sandboxes: str, path: str, body: bytes, status: int) -> None:
    url = f"{sandboxes}/api/orgs/{ORG}/sandboxes{path}"
    answer = httpx.post(url, content=body, headers={"x-api-key": KEY}, trust_env=False)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message"}


def test_a_life_that_is_over_and_a_boot_that_is_not(aids: httpx.Client) -> None:
    with process("local.sandbox", "--api-key", KEY, "--boot-seconds", "1", "--screen", "1920x1080") as url:
        short, box = create(url, maxLifeSeconds=1), create(url)
        preview = lambda client: client.sandbox.preview(box)  # noqa: E731
        assert refused(url, preview) == (409, "nomos.sandbox.NOT_RUNNING")
        assert status(url, box) == "PENDING"
        wait_for(lambda: status(url, box) == "RUNNING")
        seen = lybic_call(url, preview)
        assert seen.cursorPosition is not None
        assert seen.cursorPosition.screenWidth == 1920
        wait_for(lambda: len(lybic_call(url, lambda client: client.sandbox.list()).root) == 1)
        code = refused(url, lambda client: client.sandbox.preview(short))
        assert code == (410, "nomos.sandbox.EXPIRED")


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_faults_before_and_after_an_action(sandboxes: str, aids: httpx.Client) -> None:
    box = create(sandboxes)
    move = dto.ExecuteSandboxActionDto(action=lybic.MouseMoveAction(x=px(1), y=px(1)))
    call = lambda client: client.sandbox.execute_sandbox_action(box, move)  # noqa: E731

    def count() -> int:
        return int(aids.get(f"/sandboxes/{box}/actions").json()["count"])

    fault = {"on": "execute", "sandbox_id": box}

    aids.post("/faults", json={**fault, "status": 503, "times": 2}).raise_for_status()
    assert [refused(sandboxes, call) for _ in range(2)] == [(503, "SIMULATED_FAULT")] * 2
    assert count() == 0
    aids.post("/faults", json={**fault, "when": "after", "status": 500})
    assert refused(sandboxes, call)[0] == 500
    assert count() == 1
    for when, executed in (("before", 1), ("after", 2)):
        aids.post("/faults", json={**fault, "when": when, "drop": True})
        with pytest.raises(httpx.RemoteProtocolError):
            lybic_call(sandboxes, call)
        assert count() == executed
    aids.post("/faults", json={**fault, "when": "after", "delay": 5})
    with pytest.raises(httpx.ReadTimeout):
        lybic_call(sandboxes, call, timeout=1)
    assert count() == 3
    lybic_call(sandboxes, call)
    for nonsense in ({"on": "execute", "nonsense": 1}, {"on": "lunch"}, {}):
        assert aids.post("/faults", json=nonsense).status_code == 400


def test_a_fault_waits_for_its_sandbox_and_can_be_taken_back(sandboxes: str, aids: httpx.Client) -> None:
    aids.post("/faults", json={"on": "preview", "sandbox_id": "elsewhere", "status": 500})
    lybic_call(sandboxes, lambda client: client.sandbox.preview("BOX-123"))
    assert aids.get("/faults").json()["faults"] == [
        {"on": "preview", "sandbox_id": "elsewhere", "status": 500}
    ]
    assert aids.delete("/faults").json() == {"faults": []}


def test_a_sandbox_can_be_lost(sandboxes: str, aids: httpx.Client) -> None:
    box = create(sandboxes)
    execute(sandboxes, box, lybic.ScreenshotAction())
    aids.delete(f"/sandboxes/{box}").raise_for_status()
    assert refused(sandboxes, lambda client: client.sandbox.preview(box)) == (404, "nomos.sandbox.NOT_FOUND")
    assert aids.get(f"/sandboxes/{box}/actions").json()["count"] == 1


def test_the_witness_keeps_the_ids_of_requests(sandboxes: str, aids: httpx.Client) -> None:
    box = create(sandboxes)
    headers = {"x-api-key": KEY, "X-Request-Id": "req-1", "Idempotency-Key": "idem-1"}
    url = f"{sandboxes}/api/orgs/{ORG}/sandboxes/{box}/actions/execute"
    body = {"action": {"type": "screenshot"}}
    httpx.post(url, json=body, headers=headers, trust_env=False).raise_for_status()
    (entry,) = aids.get(f"/sandboxes/{box}/actions").json()["actions"]
    assert (entry["request_id"], entry["idempotency_key"]) == ("req-1", "idem-1")


def test_it_ends_at_once_even_while_requests_hang() -> None:
    with process("local.sandbox", "--api-key", KEY, "--sandbox", "BOX-1", "--latency", "60") as url:
        hang = threading.Thread(target=_preview_until_the_end, args=(url,))
        hang.start()
        with httpx.Client(trust_env=False) as client:
            client.post(f"{url}/simulated/faults", json={"on": "get", "status": 500})
    hang.join(5)
    assert not hang.is_alive()


def _preview_until_the_end(url: str) -> None:
    with pytest.raises(httpx.HTTPError):
        lybic_call(url, lambda client: client.sandbox.preview("BOX-1"), timeout=30)


# The scripted model.


class Chat:
    """A conversation with the model, kept by hand."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client
        self.messages: list[Message] = []
        self.prompt("You operate a computer.")

    def prompt(self, text: str) -> None:
        self.messages[:1] = [{"role": "system", "content": text}]

    def tell(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def show(self, picture: str) -> None:
        image = {"type": "image_url", "image_url": {"url": picture}}
        self.messages.append({"role": "user", "content": [image]})

    def complete(self, messages: list[Message] | None = None) -> ChatCompletion:
        asked: Any = messages or self.messages
        return self.client.chat.completions.create(model="doubao-1-5-ui-tars-250428", messages=asked)

    def ask(self) -> str:
        answer = self.complete().choices[0].message.content or ""
        self.messages.append({"role": "assistant", "content": answer})
        return answer


def test_a_completion_is_what_the_openai_package_expects(chat: Chat, model_aids: httpx.Client) -> None:
    count = model_aids.get("/requests").json()["count"]
    chat.tell("Make me a coffee")
    chat.show(EMPTY_PNG)
    answer = chat.complete()
    assert answer.model == "doubao-1-5-ui-tars-250428"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 1000
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    said = answer.choices[0].message.content or ""
    assert "failed(content='(scripted) This stand-in knows only" in said
    assert [one.id for one in chat.client.models.list()] == ["doubao-1-5-ui-tars-250428"]
    seen = model_aids.get("/requests").json()
    assert seen["count"] == count + 1
    assert [message["images"] for message in seen["last"][-1]["messages"]] == [0, 0, 1]
    assert MODEL_KEY not in str(seen)


EMPTY_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


def test_the_model_asks_for_a_key(model: str) -> None:
    wrong = openai.OpenAI(api_key="wrong", base_url=f"{model}/v1", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError) as caught:
        Chat(wrong).ask()
    assert caught.value.code == "AuthenticationError"
    assert "wrong" not in str(caught.value.body)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "wizard", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": "script> repeat many click()"}]},
        {"messages": [{"role": "user", "content": "script> delay"}]},
        {"messages": [{"role": "user", "content": "script>"}]},
        {"messages": [{"role": "user", "content": "Open notepad"}]},
        {"stream": True},
        {"model": 5},
    ],
)
def test_what_the_model_does_not_understand_is_a_bad_request(model: str, change: Message) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **change}
    headers = {"Authorization": f"Bearer {MODEL_KEY}"}
    answer = httpx.post(f"{model}/chat/completions", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA"]
)
def test_only_pictures_of_this_machine_are_looked_at(chat: Chat, url: str) -> None:
    chat.tell("Open notepad")
    chat.show(url)
    with pytest.raises(openai.BadRequestError):
        chat.ask()


def test_a_script_is_answered_line_by_line(chat: Chat) -> None:
    chat.tell(
        "A test:\nscript> click(point='<point>5 6</point>')\nscript> repeat 2 type(content='{i}')\nThanks."
    )
    assert chat.ask() == "Thought: (scripted, step 1 of 4) \nAction: click(point='<point>5 6</point>')"
    assert chat.ask().endswith("step 2 of 4) \nAction: type(content='1')")
    chat.messages[2:] = chat.messages[-1:]  # the client forgets the oldest messages
    assert chat.ask().endswith("step 3 of 4) \nAction: type(content='2')")
    assert chat.ask().endswith("Action: finished(content='(scripted) done')")
    assert chat.ask().endswith("Action: finished(content='(scripted) done')")


def test_raw_lines_and_those_behind_them(chat: Chat) -> None:
    chat.tell("script> raw Well...\\nwho knows?\nscript> wait()\nscript> raw no\nscript> raw idea")
    answers = []
    for _ in range(6):
        answers.append(chat.ask())
        chat.tell("No action found.")
    assert answers[0] == "Well...\nwho knows?"
    assert answers[1].endswith("step 2 of 4) \nAction: wait()")
    assert answers[2:] == ["no", "idea", "idea", "idea"]


@pytest.mark.parametrize(("insist", "then"), [("", "step 2"), ("script> insist\n", "step 1")])
def test_a_script_says_a_line_again_only_if_it_insists(chat: Chat, insist: str, then: str) -> None:
    chat.tell(f"{insist}script> type(content='once')\nscript> wait()")
    chat.ask()
    chat.tell("The run was interrupted here: this action may or may not have happened. Look at the screen.")
    assert then in chat.ask()


def test_a_script_goes_on_after_the_human_was_called(chat: Chat) -> None:
    chat.tell("script> call_user()\nscript> wait()")
    assert "call_user()" in chat.ask()
    chat.tell("I logged in, then I opened the mail.")
    assert "step 2 of 3" in chat.ask()


def test_a_script_shows_errors_first(chat: Chat) -> None:
    chat.tell(
        "script> status 429 2\nscript> retry-after 1\nscript> wait()\n"
        "script> drop\nscript> delay 0.2\nscript> wait()"
    )
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            chat.ask()
        assert caught.value.response.headers["retry-after"] == "1"
    assert "step 1" in chat.ask()
    with pytest.raises(openai.APIConnectionError):
        chat.ask()
    began = time.monotonic()
    assert "step 2" in chat.ask()
    assert time.monotonic() - began > 0.2


def test_faults_of_the_model(chat: Chat, model_aids: httpx.Client) -> None:
    chat.tell("script> wait()\nthe marked one")
    for fault in ({"status": 500}, {"drop": True}, {"text": "nonsense"}, {"match": "another", "status": 400}):
        model_aids.post("/faults", json={"match": "marked one", **fault}).raise_for_status()
    with pytest.raises(openai.InternalServerError):
        chat.complete()
    with pytest.raises(openai.APIConnectionError):
        chat.complete()
    assert chat.complete().choices[0].message.content == "nonsense"
    assert "wait()" in chat.ask()
    model_aids.delete("/faults")


def test_a_fault_may_repeat_the_key(
    sandboxes: str, aids: httpx.Client, chat: Chat, model_aids: httpx.Client
) -> None:
    aids.post("/faults", json={"on": "list", "status": 400, "echo": True}).raise_for_status()
    with pytest.raises(LybicAPIError, match=KEY):
        lybic_call(sandboxes, lambda client: client.sandbox.list())
    chat.tell("script> wait()")
    for fault in ({"text": "it is {key}"}, {"status": 400}):
        model_aids.post("/faults", json={"echo": True, **fault}).raise_for_status()
    assert chat.complete().choices[0].message.content == f"it is {MODEL_KEY}"
    with pytest.raises(openai.BadRequestError, match=MODEL_KEY):
        chat.complete()


def test_options_in_a_file_stand_in_no_process_list(tmp_path: Path) -> None:
    (tmp_path / "options").write_text(f"--api-key={MODEL_KEY}\n--api-key=another")
    with process("local.model", f"@{tmp_path / 'options'}") as url:
        for key, status in ((MODEL_KEY, 200), ("another", 200), ("third", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(f"{url}/models", headers=headers, trust_env=False).status_code == status


# Both together.

KEYS = {"backspace": "BackSpace"}
CALL = re.compile(r"Action: (\w+)\((?:\w+='(.*)')?\)", re.DOTALL)


class Agent:
    """The smallest agent: it can click, press keys and type, and ends when the model says so."""

    shape = SHAPE

    def __init__(self, http: httpx.Client, chat: Chat) -> None:
        self.http, self.chat = http, chat
        self.box = str(self.post("", {"shape": self.shape})["id"])
        self.answers: list[str] = []

    def post(self, path: str, body: Message | None = None) -> Message:
        url, headers = f"/api/orgs/{ORG}/sandboxes{path}", {"x-api-key": KEY}
        answer: Message = self.http.post(url, json=body, headers=headers).raise_for_status().json()
        return answer

    def execute(self, action: Any) -> None:
        self.post(f"/{self.box}/actions/execute", {"action": action.model_dump(exclude_none=True)})

    def run(self, instruction: str, *, doubt_after: int = 0, lose: int = 0) -> str:
        """The call that ended it. An action may be doubted, and one may be lost without a word."""
        self.chat.tell(instruction)
        for number in range(1, 30):
            self.chat.show(self.screenshot())
            said = self.chat.ask()
            self.answers.append(said)
            found = CALL.search(said)
            assert found is not None
            if found[1] in ("finished", "failed"):
                return found[0].removeprefix("Action: ")
            if number != lose:
                self.execute(self.action(found[1], found[2]))
            if number == doubt_after:
                self.chat.tell("The answer was lost. The action may or may not have happened.")
        raise AssertionError("no end")

    def screenshot(self) -> str:
        # Not by the SDK's own get_screenshot, which encodes the picture again, with loss.
        picture = self.http.get(str(self.post(f"/{self.box}/preview")["screenShot"])).content
        return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"

    def action(self, name: str, value: str) -> Any:
        if name == "click":
            x, y = (int(number) for number in re.findall(r"\d+", value))
            length = lybic.FractionalLength
            return lybic.MouseClickAction(
                x=length(numerator=x, denominator=1000), y=length(numerator=y, denominator=1000), button=1
            )
        if name == "hotkey":
            return lybic.KeyboardHotkeyAction(keys="+".join(KEYS.get(key, key) for key in value.split()))
        assert name == "type"
        content = value.replace("\\n", "\n").replace("\\'", "'")
        return lybic.KeyboardTypeAction(content=content, treatNewLineAsEnter="\n" in content)

    def truth(self) -> Message:
        answer: Message = self.http.get(f"/simulated/sandboxes/{self.box}").json()
        return answer

    def window(self) -> Message:
        window: Message = self.truth()["windows"][-1]
        return window


@pytest.fixture(scope="module")
def http(sandboxes: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandboxes, trust_env=False) as client:
        yield client


@pytest.fixture
def agent(http: httpx.Client, chat: Chat) -> Agent:
    return Agent(http, chat)


@pytest.mark.parametrize(
    ("instruction", "field", "value", "end"),
    [
        ("Open notepad and type Hello World", "text", "Hello World", "Typed"),
        ('Type "Hello, World!" in the notepad', "text", "Hello, World!", "Typed"),
        ("type it's 5 o'clock.", "text", "it's 5 o'clock.", "Typed"),
        ("打开记事本并输入 你好,世界", "text", "你好,世界", "已在记事本"),
        ("在记事本中输入“你好”", "text", "你好", "已在记事本"),
        ("Open notepad", "kind", "notepad", "Notepad is open."),
        ("Open calculator", "kind", "calculator", "Calculator is open."),
        ("请打开浏览器", "kind", "browser", "浏览器已打开"),
        ("Open calculator and compute 123 * 456", "display", "56088", "123 * 456 = 56088"),
        ("Open calculator and compute 2+2", "display", "4", "2+2 = 4"),
        ("What is 7 divided by 2?", "display", "3.5", "7 divided by 2 = 3.5"),
        ("用计算器计算 12乘以34 等于多少?", "display", "408", "12乘以34 = 408"),
        (
            "Search for Python tutorials on Google",
            "title",
            "Results for Python tutorials - Browser",
            "Searched",
        ),
        (
            "Open browser and search for 'Python best practices'",
            "address",
            "?Python best practices",
            "Searched",
        ),
        ("搜索 Python 教程", "address", "?Python 教程", "已搜索"),
        ("Now search for Artificial Intelligence", "address", "?Artificial Intelligence", "Searched"),
        ("Search for github.com", "address", "?github.com", "Searched"),
        ("Open browser and go to wikipedia.org", "address", "wikipedia.org", "Opened wikipedia.org"),
        ("Open browser and navigate to github.com", "address", "github.com", "Opened github.com"),
        ("打开浏览器访问 wikipedia.org", "address", "wikipedia.org", "已打开"),
    ],
)
def test_known_instructions_are_really_carried_out(
    agent: Agent, instruction: str, field: str, value: str, end: str
) -> None:
    ended = agent.run(instruction)
    assert ended.startswith("finished(content='(scripted) ")
    assert end in ended
    assert agent.window()[field] == value
    assert f"step {len(agent.answers)} of {len(agent.answers)})" in agent.answers[-1]


@pytest.mark.parametrize(
    ("instruction", "name", "content"),
    [
        ("Create a text file named report.txt with content: Meeting notes", "report.txt", "Meeting notes"),
        ("Create a file named test.txt", "test.txt", ""),
        ("Create file test.txt", "test.txt", ""),
        ("创建一个名为 report.txt 的文本文件,内容:会议纪要", "report.txt", "会议纪要"),
    ],
)
def test_files_are_created(agent: Agent, instruction: str, name: str, content: str) -> None:
    assert name in agent.run(instruction)
    assert agent.truth()["files"] == {name: content}


@pytest.mark.parametrize(
    "instruction",
    [
        "Make me a coffee",
        'Type "hello" and send it to Bob',
        "Open notepad, type hello, and then mail it",
        "Open calculator and compute the meaning of life",
        "Go to bed",
        "Open notepad and calculator",
        "打开记事本并输入你好,然后发送邮件",
    ],
)
def test_what_is_not_understood_to_its_end_is_an_honest_failure(agent: Agent, instruction: str) -> None:
    assert agent.run(instruction).startswith("failed(content='(scripted) This stand-in knows only")
    assert len(agent.answers) == 1


def test_one_instruction_after_the_other(agent: Agent) -> None:
    assert "is open" in agent.run("Open notepad")
    assert "Typed" in agent.run('Type "Hello, World!" in the notepad')
    assert agent.window()["text"] == "Hello, World!"
    assert agent.run("Now click on the first result").startswith("failed(content='(scripted) No such result")
    agent.run("Open browser and search for 'Python best practices'")
    assert "Opened the result" in agent.run("Now click on the second result")
    assert agent.window()["address"] == "learn.example/python-best-practices"
    assert agent.run("Now make me a coffee").startswith("failed(")
    assert "is open" in agent.run("Open notepad")


@pytest.mark.parametrize("step", range(1, 7))
def test_an_action_in_doubt_leads_to_the_same_end(agent: Agent, step: int) -> None:
    agent.run("Create a text file named a.txt with content: one, two", doubt_after=step)
    assert agent.truth()["files"] == {"a.txt": "one, two"}
    assert len(agent.answers) == step + 7


def test_a_doubtful_click_on_a_result_is_told_by_the_screen(http: httpx.Client, chat: Chat) -> None:
    for lose, steps in ((0, 2), (1, 3)):
        agent = Agent(http, chat)
        agent.run("Search for Python")
        agent.answers.clear()
        assert "Opened" in agent.run("Click on the first result", doubt_after=1, lose=lose)
        assert agent.window()["address"] == "encyclopedia.example/python"
        assert len(agent.answers) == steps


def test_the_model_finds_a_window_that_was_moved(agent: Agent) -> None:
    agent.run("Open calculator")
    rect = layout.home(SIZE, "calculator")
    grip = layout.title(rect).centre
    drag = lybic.MouseDragAction(startX=px(grip[0]), startY=px(grip[1]), endX=px(200), endY=px(20), button=1)
    agent.execute(drag)
    agent.run("compute 6*7")
    assert agent.window()["display"] == "42"


def test_pictures_by_their_address(sandboxes: str, chat: Chat) -> None:
    preview = lybic_call(sandboxes, lambda client: client.sandbox.preview("BOX-123"))
    chat.tell("Open notepad")
    chat.show(str(preview.screenShot))
    x, y = layout.taskbar_entry(SIZE, "notepad").centre
    assert f"click(point='<point>{round(x / 1.28)} {round(y / 0.72)}</point>')" in chat.ask()


def test_what_a_client_leaves_out_or_remarks_is_no_instruction(agent: Agent) -> None:
    agent.run("Open notepad and type Hello")
    chat, answers = agent.chat, agent.answers
    ended = chat.messages.pop()
    chat.tell("(this screenshot is no longer available)")
    assert chat.ask() == ended["content"]
    chat.messages[2:-3] = []
    chat.messages.insert(2, {"role": "user", "content": "The action was not carried out: the screen is busy"})
    assert chat.ask() == answers[-1]


def test_an_action_that_was_not_carried_out_is_said_again(agent: Agent) -> None:
    agent.chat.tell("Open notepad and type Hello")
    agent.chat.show(agent.screenshot())
    first = agent.chat.ask()
    agent.chat.tell("The action was not carried out: the sandbox is away")
    agent.chat.show(agent.screenshot())
    assert agent.chat.ask() == first


# A phone.


class Thumb(Agent):
    """An agent with a phone, which is told so by the prompt of the worker."""

    shape = PHONE_SHAPE

    def __init__(self, http: httpx.Client, chat: Chat) -> None:
        super().__init__(http, chat)
        (prompt,) = system_prompts("en", vocabulary="mobile")
        chat.prompt(prompt)

    def action(self, name: str, value: str) -> Any:
        (action,) = uitars.parse(self.answers[-1], vocabulary="mobile").actions
        return build_action(action)


@pytest.fixture
def thumb(http: httpx.Client, chat: Chat) -> Thumb:
    return Thumb(http, chat)


@pytest.mark.parametrize(
    ("instruction", "note"),
    [
        ("Open notes and write Buy milk", "Buy milk"),
        ("Open the Notes app, then note: it's 5 o'clock", "it's 5 o'clock"),
        ("Write 'Hello, World!' into my notes", "Hello, World!"),
        ("Open notepad and type Hello World", "Hello World"),
        ("打开备忘录并写下 你好,世界", "你好,世界"),
    ],
)
def test_notes_are_really_written(thumb: Thumb, instruction: str, note: str) -> None:
    assert thumb.run(instruction).startswith("finished(content='(scripted) ")
    assert thumb.truth()["notes"] == [note, *NOTES]
    assert len(thumb.answers) == 4


@pytest.mark.parametrize(
    ("instruction", "field", "value", "end"),
    [
        ("Open settings", "view", "settings", "Settings is open."),
        ("打开备忘录", "view", "notes", "备忘录已打开"),
        ("Open settings and scroll to the end", "scroll", 1032, "This is the last"),
        ("打开设置并向下滚动", "scroll", 1032, "这是最后一项"),
        ("Search for Python tutorials on Google", "address", "?Python tutorials", "Searched"),
        ("Open browser and go to wikipedia.org", "address", "wikipedia.org", "Opened wikipedia.org"),
        ("Go home", "view", "home", "This is the home screen."),
    ],
)
def test_known_instructions_are_really_carried_out_on_a_phone(
    thumb: Thumb, instruction: str, field: str, value: object, end: str
) -> None:
    ended = thumb.run(instruction)
    assert ended.startswith("finished(content='(scripted) ")
    assert end in ended
    assert thumb.truth()[field] == value


def test_a_phone_is_told_from_a_computer_by_the_prompt(thumb: Thumb) -> None:
    assert "open Notes, Settings or Browser" in thumb.run("Open calculator and compute 2+2")
    thumb.run("Open settings")
    thumb.run("Open notes and write one")
    thumb.run("Now write two")
    assert thumb.truth()["notes"] == ["two", "one", *NOTES]
    assert thumb.truth()["settings"] == {name: name == "Wi-Fi" for name in SETTINGS}


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("lost", [False, True])
def test_a_touch_in_doubt_leads_to_one_note(thumb: Thumb, step: int, lost: bool) -> None:
    thumb.run("Open notes and write once", doubt_after=step, lose=step if lost else 0)
    assert thumb.truth()["notes"] == ["once", *NOTES]


def test_a_script_is_the_same_on_a_phone(thumb: Thumb) -> None:
    thumb.chat.tell("script> press_back()\nscript> long_press(point='<point>5 6</point>')")
    assert thumb.chat.ask() == "Thought: (scripted, step 1 of 3) \nAction: press_back()"
    assert "long_press(" in thumb.chat.ask()
