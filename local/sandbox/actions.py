"""Reads Lybic's actions strictly, by the models of Lybic's own SDK, and performs them on a device."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Annotated, Any, TypeVar

from lybic import action as lybic
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from local.sandbox import desktop as screen
from local.sandbox import keys, lengths, touches
from local.sandbox.desktop import Desktop
from local.sandbox.layout import Point
from local.sandbox.phone import Phone
from local.standin import Refused

Action = BaseModel
AnyDevice = TypeVar("AnyDevice", Desktop, Phone, Desktop | Phone)
_DISCRIMINATED = Field(discriminator="type")
# What each device takes; `keyboard:hotkey` is none of a phone's, as Lybic has suspended it there.
_ACTIONS: dict[type[Desktop | Phone], TypeAdapter[Any]] = {
    Desktop: TypeAdapter(Annotated[lybic.ComputerUseAction, _DISCRIMINATED]),
    Phone: TypeAdapter(Annotated[lybic.MobileUseAction, _DISCRIMINATED]),
}
_CLICKS = {
    lybic.MouseClickAction: 1,
    lybic.MouseDoubleClickAction: 2,
    lybic.MouseTripleClickAction: 3,
}


def invalid(reason: str) -> Refused:
    return Refused(400, "nomos.action.INVALID", reason)


def told(error: ValidationError, whole: str) -> str:
    """The first thing that is wrong, and where: in a field, or with the whole."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or whole}: {first['msg']}"


def read(device: Desktop | Phone, raw: object) -> Action:
    """An action that the device takes."""
    try:
        action: Action = _ACTIONS[type(device)].validate_python(raw, strict=True)
    except ValidationError as error:
        raise invalid(told(error, "action")) from error
    return action


def perform(device: AnyDevice, action: Action) -> AnyDevice:
    """The device afterwards. An action that only concerns the agent leaves it as it is."""
    try:
        if isinstance(device, Phone):
            touch = touches.PERFORM.get(type(action))
            return touch(device, action) if touch else device
        act = _PERFORM.get(type(action))
        return _perform(device, action, act) if act else device
    except ValueError as error:
        raise invalid(str(error)) from error


def _perform(desktop: Desktop, action: Action, act: Callable[[Desktop, Any], Desktop]) -> Desktop:
    """What the action does, while the keys that it says are held down."""
    hold = getattr(action, "holdKey", None)
    after = act(reduce(_hold, keys.parts(hold) if hold else [], desktop), action)
    return replace(after, held=desktop.held) if hold else after


def seconds(action: Action) -> float:
    """How long the action keeps its caller waiting: at most a minute."""
    if isinstance(action, lybic.WaitAction | lybic.TouchLongPressAction):
        if action.duration < 0:
            raise invalid("duration: it is not negative")
        return min(action.duration / 1000, 60)
    if isinstance(action, lybic.KeyboardHotkeyAction) and action.duration is not None:
        if not 1 <= action.duration <= 5000:
            raise invalid("duration: a key is held for 1 to 5000 ms")
        return action.duration / 1000
    return 0


def _point(desktop: Desktop, x: Any, y: Any, origin: Point | None) -> Point:
    return lengths.point(desktop.size, x, y, origin or (0, 0))


def _target(desktop: Desktop, action: Any) -> Point:
    return _point(desktop, action.x, action.y, desktop.cursor if action.relative else None)


def _button(action: Any) -> int:
    if not 1 <= action.button <= 31:
        raise ValueError("button: a sum of 1, 2, 4, 8 and 16")
    return int(action.button)


def _click(desktop: Desktop, action: Any) -> Desktop:
    return screen.click(desktop, _target(desktop, action), _button(action), _CLICKS[type(action)])


def _move(desktop: Desktop, action: Any) -> Desktop:
    return replace(desktop, cursor=_target(desktop, action))


def _drag(desktop: Desktop, action: Any) -> Desktop:
    begin = _point(desktop, action.startX, action.startY, desktop.cursor if action.startRelative else None)
    end = _point(desktop, action.endX, action.endY, begin if action.endRelative else None)
    return screen.drag(desktop, begin, end, _button(action))


def _scroll(desktop: Desktop, action: Any) -> Desktop:
    return screen.wheel(desktop, _target(desktop, action), action.stepVertical)


def _type(desktop: Desktop, action: Any) -> Desktop:
    return screen.write(desktop, action.content, enter=action.treatNewLineAsEnter)


def _hotkey(desktop: Desktop, action: Any) -> Desktop:
    return screen.press(desktop, keys.parts(action.keys))


def _one(key: str) -> str:
    names = keys.parts(key)
    if len(names) != 1:
        raise ValueError("key: exactly one")
    return names[0]


def _hold(desktop: Desktop, key: str) -> Desktop:
    """A modifier stays down; any other key has no effect beyond being pressed."""
    if key in keys.MODIFIERS:
        return replace(desktop, held=desktop.held | {keys.MODIFIERS[key]})
    return screen.press(desktop, [key])


def _down(desktop: Desktop, action: Any) -> Desktop:
    return _hold(desktop, _one(action.key))


def _up(desktop: Desktop, action: Any) -> Desktop:
    key = _one(action.key)
    return replace(desktop, held=desktop.held - {keys.MODIFIERS.get(key, key)})


_PERFORM: dict[type[BaseModel], Callable[[Desktop, Any], Desktop]] = {
    **dict.fromkeys(_CLICKS, _click),
    lybic.MouseMoveAction: _move,
    lybic.MouseDragAction: _drag,
    lybic.MouseScrollAction: _scroll,
    lybic.KeyboardTypeAction: _type,
    lybic.KeyboardHotkeyAction: _hotkey,
    lybic.KeyDownAction: _down,
    lybic.KeyUpAction: _up,
}
