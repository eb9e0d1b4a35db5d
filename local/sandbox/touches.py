"""Performs the actions that only a phone takes."""

from collections.abc import Callable
from typing import Any

from lybic import action as lybic
from pydantic import BaseModel

from local.sandbox import lengths
from local.sandbox import phone as screen
from local.sandbox.layout import Point
from local.sandbox.phone import Phone
from local.sandbox.phone_layout import APPS, SIZE

# The finger's own way, as (right, down).
_DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


def result(action: BaseModel) -> dict[str, Any]:
    """What the answer tells of the action. Lybic documents no form for the list of apps; this is ours."""
    if not isinstance(action, lybic.OsListAppsAction):
        return {}
    return {"apps": [{"name": app.title, "packageName": app.package} for app in APPS.values()]}


def _at(action: Any) -> Point:
    return lengths.point(SIZE, action.x, action.y)


def _tap(phone: Phone, action: Any) -> Phone:
    return screen.tap(phone, _at(action))


def _hold(phone: Phone, action: Any) -> Phone:
    return screen.hold(phone, _at(action), action.duration)


def _drag(phone: Phone, action: Any) -> Phone:
    begin = lengths.point(SIZE, action.startX, action.startY)
    return screen.drag(phone, begin, lengths.point(SIZE, action.endX, action.endY))


def _swipe(phone: Phone, action: Any) -> Phone:
    """The finger ends at the edge of the screen at the latest."""
    (x, y), (right, down) = _at(action), _DIRECTIONS[action.direction]
    distance = lengths.pixels(action.distance, SIZE[0] if right else SIZE[1])
    if distance < 0:
        raise ValueError("distance: not negative")
    end = (x + right * distance, y + down * distance)
    return screen.drag(phone, (x, y), (max(0, min(SIZE[0] - 1, end[0])), max(0, min(SIZE[1] - 1, end[1]))))


def _type(phone: Phone, action: Any) -> Phone:
    return screen.write(phone, action.content, enter=action.treatNewLineAsEnter)


def _start(phone: Phone, action: Any) -> Phone:
    return screen.start(phone, screen.named(action.name))


def _close(phone: Phone, action: Any) -> Phone:
    return screen.close(phone, screen.named(action.name))


def _start_package(phone: Phone, action: Any) -> Phone:
    return screen.start(phone, screen.packaged(action.packageName))


def _close_package(phone: Phone, action: Any) -> Phone:
    return screen.close(phone, screen.packaged(action.packageName))


PERFORM: dict[type[BaseModel], Callable[[Phone, Any], Phone]] = {
    lybic.TouchTapAction: _tap,
    lybic.TouchLongPressAction: _hold,
    lybic.TouchDragAction: _drag,
    lybic.TouchSwipeAction: _swipe,
    lybic.KeyboardTypeAction: _type,
    lybic.AndroidBackAction: lambda phone, _: screen.back(phone),
    lybic.AndroidHomeAction: lambda phone, _: screen.home(phone),
    lybic.OsStartAppByNameAction: _start,
    lybic.OsCloseAppByNameAction: _close,
    lybic.OsStartAppAction: _start_package,
    lybic.OsCloseAppAction: _close_package,
}
