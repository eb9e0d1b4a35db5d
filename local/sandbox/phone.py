"""The simulated phone: one immutable value, and what fingers, buttons and typing make of it.

As with the desktop, every function takes a phone and returns the next one. An app keeps what it shows until
it is closed; the notes themselves stay.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from local.sandbox import apps
from local.sandbox import phone_layout as layout
from local.sandbox.layout import Point, Rect, Size
from local.sandbox.phone_layout import APPS, KEYS, LETTERS, LINE, PAGES, ROW, SIZE
from local.sandbox.text import LIMIT, wrap

HOLD_MS = 500
FAR = 100  # pixels that turn a page
NOTES = ("Shopping: milk, bread, apples", "Ideas for the weekend", *(f"Old note {n}" for n in range(1, 15)))
SETTINGS = (
    *(
        "Wi-Fi",
        "Bluetooth",
        "Mobile data",
        "Hotspot",
        "Airplane mode",
        "Notifications",
        "Sounds",
        "Vibration",
    ),
    *("Display", "Dark theme", "Battery saver", "Storage", "Location", "Security", "Privacy", "Accounts"),
    *("Accessibility", "Backup", "Developer options", "About phone"),
)
# What a finger that stays for a while is offered, by where it is.
MENUS = {"home": ("Open", "Close"), "notes": ("Open", "Delete"), "note": ("Clear",)}


class Menu(NamedTuple):
    """`about` is the app or the number of the note that it was opened on."""

    labels: tuple[str, ...]
    rect: Rect
    about: Any


@dataclass(frozen=True, slots=True)
class Phone:
    """`app` is in front; none of them is the home screen. `running` are those that were opened.

    `note` is the number of the note that is open, `address` that of the page, `entry` what stands in its bar.
    `scroll` is how far down, in pixels, one has moved. `trace` is where the finger was.
    """

    app: str = ""
    page: int = 0
    running: tuple[str, ...] = ()
    notes: tuple[str, ...] = NOTES
    note: int | None = None
    address: str = ""
    entry: str = ""
    on: frozenset[str] = frozenset({"Wi-Fi"})
    keyboard: bool = False
    scroll: int = 0
    menu: Menu | None = None
    trace: tuple[Point, ...] = ()

    @property
    def size(self) -> Size:
        return SIZE

    @property
    def cursor(self) -> Point:
        """There is none: Lybic says that only the size of the screen has a meaning then."""
        return 0, 0

    @property
    def view(self) -> str:
        return "note" if self.app == "notes" and self.note is not None else self.app or "home"

    @property
    def text(self) -> str:
        """What is written or read."""
        if self.app == "browser":
            return apps.page(self.address) if self.address else ""
        return self.notes[self.note] if self.note is not None else ""

    @property
    def area(self) -> Rect:
        """Where the rows are."""
        margin = 28 if self.view in ("note", "browser") else 0
        return layout.body(keyboard=self.keyboard).part(margin, margin // 2, margin, margin // 2)

    @property
    def rows(self) -> tuple[str, ...]:
        """The lines of the text, or the entries of the list."""
        match self.view:
            case "home":
                return ()
            case "notes":
                return tuple(note.partition("\n")[0] for note in self.notes)
            case "settings":
                return SETTINGS
            case _:
                return tuple(row.text for row in wrap(self.text, self.area.w, LETTERS))

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        return ROW if self.view in ("notes", "settings") else LINE

    def row(self, number: int) -> Rect:
        return Rect(self.area.x, self.area.y + number * self.pitch - self.scroll, self.area.w, self.pitch)

    def hit(self, point: Point) -> int | None:
        """The number of the row that is there."""
        number = (point[1] - self.area.y + self.scroll) // self.pitch
        return number if self.area.has(point) and number < len(self.rows) else None


def tap(phone: Phone, point: Point) -> Phone:
    menu, phone = phone.menu, replace(phone, menu=None, trace=(point,))
    for number, label in enumerate(menu.labels if menu else ()):
        if menu and layout.menu_row(menu.rect, number).has(point):
            return _choose(phone, label, menu.about)
    if menu:
        return phone
    if layout.BACK_BUTTON.has(point):
        return replace(back(phone), trace=(point,))
    if layout.HOME_BUTTON.has(point):
        return replace(home(phone), trace=(point,))
    if phone.keyboard and layout.KEYBOARD.has(point):
        keys = (key for key in "".join(KEYS) if layout.key(key).has(point))
        return replace(write(phone, next(keys, ""), enter=True), trace=(point,))
    return _tap_app(phone, point)


def _tap_app(phone: Phone, point: Point) -> Phone:
    row = phone.hit(point)
    match phone.view:
        case "home":
            touched = _icon(phone, point)
            return start(phone, touched) if touched else phone
        case "notes" | "note" if layout.ADD_BUTTON.has(point):
            return replace(_left(phone, ""), note=0, keyboard=True)
        case "notes" if row is not None:
            return replace(phone, note=row, scroll=0)
        case "note" if phone.area.has(point):
            return _in_view(replace(phone, keyboard=True))
        case "settings" if row is not None:
            return replace(phone, on=phone.on ^ {SETTINGS[row]})
        case "browser" if layout.ADDRESS_BAR.has(point):
            return replace(phone, entry="", keyboard=True)
        case "browser" if row is not None and phone.rows[row].startswith(apps.LINK):
            return _go(phone, phone.rows[row])
        case _:
            return phone


def _icon(phone: Phone, point: Point) -> str:
    shown = PAGES[phone.page] if phone.view == "home" else ()
    return next((app for app in shown if layout.icon(app).has(point)), "")


def hold(phone: Phone, point: Point, milliseconds: int) -> Phone:
    """A finger that stays: opens a menu where there is one. A short one is a tap."""
    if milliseconds < HOLD_MS:
        return tap(phone, point)
    about: str | int | None = _icon(phone, point) or phone.hit(point)
    if phone.view == "note":
        about = phone.note if phone.area.has(point) else None
    labels = MENUS.get(phone.view, ()) if about is not None else ()
    menu = Menu(labels, layout.menu(point, len(labels)), about) if labels else None
    return replace(phone, menu=menu, trace=(point, point))


def _choose(phone: Phone, label: str, about: Any) -> Phone:
    """What an entry of a menu does."""
    if phone.view == "home":
        return start(phone, about) if label == "Open" else close(phone, about)
    if label == "Open":
        return replace(phone, note=about, scroll=0)
    if label == "Clear":
        return _edited(phone, "")
    return replace(phone, notes=phone.notes[:about] + phone.notes[about + 1 :])


def drag(phone: Phone, begin: Point, end: Point) -> Phone:
    """Moves what is under the finger along with it, as far as there is something; turns a page of home."""
    phone = replace(phone, menu=None, trace=(begin, end))
    right, down = end[0] - begin[0], end[1] - begin[1]
    if phone.view == "home":
        turned = phone.page - (right > 0) + (right < 0)
        turns = abs(right) > max(abs(down), FAR) and 0 <= turned < len(PAGES)
        return replace(phone, page=turned) if turns else phone
    return _moved(phone, phone.scroll - down) if phone.area.has(begin) else phone


def _moved(phone: Phone, scroll: int) -> Phone:
    most = max(0, len(phone.rows) * phone.pitch - phone.area.h)
    return replace(phone, scroll=max(0, min(most, scroll)))


def _in_view(phone: Phone) -> Phone:
    """With the end of the text in view, where one writes."""
    return _moved(phone, len(phone.rows) * phone.pitch)


def write(phone: Phone, content: str, *, enter: bool) -> Phone:
    """Types at the end of what is open to be written. With `enter` a new line goes to the page in the bar."""
    phone = replace(phone, menu=None, trace=())
    if not phone.keyboard:
        return phone
    if phone.view == "note":
        return _edited(phone, phone.text[:-1] if content == "\b" else phone.text + content)
    line, entered, rest = content.partition("\n")
    entry = phone.entry[:-1] if content == "\b" else phone.entry + line
    if not (entered and enter):
        return replace(phone, entry=(entry + rest.replace("\n", ""))[:LIMIT])
    return _go(phone, entry)


def _edited(phone: Phone, text: str) -> Phone:
    notes = (text[:LIMIT] if number == phone.note else note for number, note in enumerate(phone.notes))
    return _in_view(replace(phone, notes=tuple(notes)))


def _go(phone: Phone, wanted: str) -> Phone:
    """Opens an address, or searches for what is none."""
    address = apps.address_of(wanted)
    return replace(phone, address=address or phone.address, entry=wanted, keyboard=False, scroll=0)


def _left(phone: Phone, *new: str) -> Phone:
    """With no note open, and the new ones at the top; one in which nothing stands is not kept."""
    return replace(phone, notes=(*new, *filter(None, phone.notes)), note=None, keyboard=False, scroll=0)


def back(phone: Phone) -> Phone:
    """Closes what is uppermost: menu, keyboard, note or page; at last it leads home."""
    phone, menu = replace(phone, menu=None, trace=()), phone.menu
    if menu:
        return phone
    if phone.keyboard:
        return replace(phone, keyboard=False)
    if phone.view == "note":
        return _left(phone)
    if phone.app == "browser" and phone.address:
        return replace(phone, address="", entry="", scroll=0)
    return home(phone)


def home(phone: Phone) -> Phone:
    """The home screen; on it, its first page."""
    return replace(phone, app="", page=0, keyboard=False, menu=None, scroll=0, trace=())


def start(phone: Phone, app: str) -> Phone:
    """Brings an app to the front, as it was left."""
    running = (*(each for each in phone.running if each != app), app)
    same = app == phone.app
    phone = replace(phone, app=app, running=running, menu=None, trace=())
    return phone if same else replace(phone, scroll=0, keyboard=False)


def close(phone: Phone, app: str) -> Phone:
    """Ends an app, whether it was running or not."""
    if app == "notes":
        phone = _left(phone)
    if app == "browser":
        phone = replace(phone, address="", entry="")
    phone = replace(phone, running=tuple(each for each in phone.running if each != app), menu=None, trace=())
    return home(phone) if app == phone.app else phone


def named(name: str) -> str:
    """The app of this name, in English or Chinese. An unknown one is a ValueError."""
    wanted = name.strip().lower()
    found = (app for app, known in APPS.items() if wanted in (known.title.lower(), known.chinese))
    return _found(next(found, ""), name)


def packaged(package: str) -> str:
    """The app of this package."""
    return _found(next((app for app, known in APPS.items() if known.package == package), ""), package)


def _found(app: str, name: str) -> str:
    if not app:
        raise ValueError(f"no app is named {name[:60]!r}")
    return app


def truth(phone: Phone) -> dict[str, Any]:
    """The whole state as JSON, for witnesses."""
    return {
        "screen": SIZE,
        "view": phone.view,
        "running": phone.running,
        "page": phone.page,
        "notes": phone.notes,
        "note": phone.note,
        "address": phone.address,
        "entry": phone.entry,
        "settings": {name: name in phone.on for name in SETTINGS},
        "keyboard": phone.keyboard,
        "scroll": phone.scroll,
        "menu": phone.menu and phone.menu.labels,
        "trace": phone.trace,
    }
