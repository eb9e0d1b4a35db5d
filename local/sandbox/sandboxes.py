"""The sandboxes: their lives, the record of what was executed in them, and snapshots of their screens."""

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from local.sandbox import paint
from local.sandbox.desktop import Desktop
from local.sandbox.layout import Size
from local.sandbox.phone import Phone
from local.standin import Refused

Form = Literal["webp", "png"]
DEFAULT_SHAPE = "beijing-2c-4g-cpu"
PHONE_SHAPE = "guangzhou-4c6g-android-12"
FIXED_LIFE = 13 * 86400
MOST_SANDBOXES = 5_000
MOST_ACTIONS = 100_000
MOST_SNAPSHOTS = 200
MOST_SCREENS = 20_000
MOST_PICTURES = 400


@dataclass(frozen=True, slots=True)
class Shape:
    """What a sandbox can be made of."""

    name: str
    description: str
    os: Literal["Linux", "Windows", "Android"] = "Linux"

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "hardwareAcceleratedEncoding": False,
            "requiredPlanTier": 0,
            "requiredFeatureFlag": None,
            "os": self.os,
            "virtualization": "KVM" if self.os == "Windows" else "Container",
            "architecture": "aarch64" if self.os == "Android" else "x86_64",
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(DEFAULT_SHAPE, "Simulated Linux desktop, 2 cores, 4 GB"),
        Shape("beijing-4c-8g-cpu", "Simulated Linux desktop, 4 cores, 8 GB"),
        Shape("beijing-4c-8g-cpu-windows", "Simulated Windows desktop, 4 cores, 8 GB", "Windows"),
        Shape(PHONE_SHAPE, "Simulated Android phone, 4 cores, 6 GB", "Android"),
        Shape("acep-shenzhen-enhanced", "Simulated Android phone", "Android"),
    )
}


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Sandbox:
    """One sandbox. Times are seconds of the epoch; no `org` means that it is everybody's."""

    id: str
    org: str | None
    shape: Shape
    device: Desktop | Phone
    expires: float
    created: float = field(default_factory=time.time)
    ready: float = 0
    name: str = "sandbox"
    project: str = "simulated"
    gone: bool = False
    executed: int = 0
    snapshots: deque[str] = field(default_factory=deque)
    record: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_ACTIONS))

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires

    @property
    def status(self) -> str:
        if self.gone or self.expired:
            return "STOPPED"
        return "RUNNING" if time.time() >= self.ready else "PENDING"

    def extend(self, seconds: float) -> None:
        """A new life, counted from now."""
        self.expires = time.time() + seconds

    def note(self, action: dict[str, Any], **request: str | None) -> None:
        self.record.append({"index": self.executed, "time": _stamp(time.time()), "action": action, **request})
        self.executed += 1

    def described(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "createdAt": _stamp(self.created),
            "expiresAt": _stamp(self.expires),
            "projectId": self.project,
            "shapeName": self.shape.name,
            "status": self.status,
        }


class World:
    """All the sandboxes there are and were. Those that are gone stay for the witness."""

    def __init__(self, size: Size, boot_seconds: float, fixed: Iterable[str]) -> None:
        self.size, self.boot_seconds, self.fixed = size, boot_seconds, frozenset(fixed)
        self.sandboxes: dict[str, Sandbox] = {}
        for sandbox_id in fixed:
            self._add(sandbox_id, None, SHAPES[DEFAULT_SHAPE], FIXED_LIFE)

    def create(self, org: str, shape: str, life: float, name: str, project: str | None) -> Sandbox:
        if shape not in SHAPES:
            raise Refused(400, "nomos.sandbox.UNKNOWN_SHAPE", f"no shape is named {shape[:60]!r}")
        self._make_room()
        sandbox = self._add(f"BOX-{secrets.token_hex(8).upper()}", org, SHAPES[shape], life)
        sandbox.ready = sandbox.created + self.boot_seconds
        sandbox.name, sandbox.project = name, project or sandbox.project
        return sandbox

    def _add(self, sandbox_id: str, org: str | None, shape: Shape, life: float) -> Sandbox:
        width, height = self.size
        desktop = Desktop(self.size, cursor=(width // 2, height // 2))
        device = Phone() if shape.os == "Android" else desktop
        sandbox = Sandbox(sandbox_id, org, shape, device, time.time() + life)
        self.sandboxes[sandbox_id] = sandbox
        return sandbox

    def _make_room(self) -> None:
        if len(self.sandboxes) < MOST_SANDBOXES:
            return
        past = (each.id for each in self.sandboxes.values() if each.gone or each.expired)
        oldest = next(past, None)
        if oldest is None:
            raise Refused(409, "nomos.partner.NO_ROOMS_AVAILABLE", "No rooms available")
        del self.sandboxes[oldest]

    def find(self, org: str, sandbox_id: str) -> Sandbox:
        """A sandbox that lives, whether it is already running or not."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.gone or sandbox.org not in (None, org):
            raise Refused(404, "nomos.sandbox.NOT_FOUND", "there is no such sandbox")
        if sandbox.expired and sandbox_id in self.fixed:
            return self._add(sandbox_id, None, sandbox.shape, FIXED_LIFE)
        if sandbox.expired:
            raise Refused(410, "nomos.sandbox.EXPIRED", "the life of the sandbox is over")
        return sandbox

    def running(self, org: str, sandbox_id: str) -> Sandbox:
        sandbox = self.find(org, sandbox_id)
        if sandbox.status != "RUNNING":
            raise Refused(409, "nomos.sandbox.NOT_RUNNING", "the sandbox is not running yet")
        return sandbox

    def living(self, org: str) -> list[Sandbox]:
        mine = (each for each in self.sandboxes.values() if each.org in (None, org))
        return [each for each in mine if not (each.gone or each.expired)]

    def witnessed(self, sandbox_id: str) -> Sandbox:
        """A sandbox whatever has become of it."""
        if sandbox_id not in self.sandboxes:
            raise Refused(404, "nomos.sandbox.NOT_FOUND", "there never was such a sandbox")
        return self.sandboxes[sandbox_id]


class Snapshots:
    """Frozen screens under names that cannot be guessed; a picture is drawn when it is first asked for."""

    def __init__(self) -> None:
        self._screens: OrderedDict[str, Desktop | Phone] = OrderedDict()
        self._pictures: OrderedDict[tuple[str, Form], bytes] = OrderedDict()

    def take(self, sandbox: Sandbox) -> str:
        """The name of the screen as it is now; the same one for as long as nothing changes."""
        names = sandbox.snapshots
        if names and self._screens.get(names[-1]) is sandbox.device:
            return names[-1]
        names.append(secrets.token_urlsafe(24))
        self._screens[names[-1]] = sandbox.device
        if len(names) > MOST_SNAPSHOTS:
            self._screens.pop(names.popleft(), None)
        if len(self._screens) > MOST_SCREENS:
            self._screens.popitem(last=False)
        return names[-1]

    def forget(self, sandbox: Sandbox) -> None:
        while sandbox.snapshots:
            self._screens.pop(sandbox.snapshots.popleft(), None)

    def picture(self, name: str, form: Form) -> bytes | None:
        if name not in self._screens:
            return None
        kept = self._pictures.pop((name, form), None)
        self._pictures[name, form] = kept or paint.encode(self._screens[name], form)
        if len(self._pictures) > MOST_PICTURES:
            self._pictures.popitem(last=False)
        return self._pictures[name, form]
