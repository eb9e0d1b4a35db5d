"""Draws the phone. A pure function of its state."""

from PIL import Image

from local.sandbox import apps
from local.sandbox import phone_layout as layout
from local.sandbox.canvas import BEHIND, BLUE, FAINT, FRONT, INK, NIGHT, WHITE, Canvas
from local.sandbox.layout import ADDRESS, LINK, PAPER, Colour, Point, Rect
from local.sandbox.phone import Phone
from local.sandbox.phone_layout import ADD, APPS, DOT, LAST, LETTERS, LINE, SIZE, SWITCH, WRITTEN
from local.sandbox.text import font

_DOTS = ((54, 130, 240), (46, 150, 120), (150, 110, 200), (214, 150, 60))
_TOUCH: Colour = (255, 82, 122)


def render(phone: Phone) -> Image.Image:
    screen = _Screen(SIZE)
    if phone.view == "home":
        screen.home(phone)
    else:
        screen.app(phone)
    screen.frame()
    if phone.keyboard:
        screen.keyboard()
    if phone.menu:
        screen.panel(phone.menu.rect, WHITE)
        for number, label in enumerate(phone.menu.labels):
            row = layout.menu_row(phone.menu.rect, number)
            screen.label((row.x + 28, row.centre[1]), label, anchor="lm", size=LETTERS)
    screen.trace(phone.trace)
    return screen.image


class _Screen(Canvas):
    """The picture of a phone."""

    def fill(self, rect: Rect, colour: Colour) -> None:
        self.canvas.rectangle((rect.x, rect.y, rect.x + rect.w - 1, rect.y + rect.h - 1), colour)

    def frame(self) -> None:
        """The status bar, and the buttons at the bottom."""
        self.fill(Rect(0, 0, SIZE[0], layout.STATUS), NIGHT)
        self.label((24, layout.STATUS // 2), "Simulated phone", FAINT, "lm", 22)
        self.label((SIZE[0] - 24, layout.STATUS // 2), "9:41", WHITE, "rm", 22)
        self.fill(Rect(0, layout.BACK_BUTTON.y, SIZE[0], layout.NAVIGATION), NIGHT)
        x, y = layout.BACK_BUTTON.centre
        self.canvas.polygon([(x - 16, y), (x + 12, y - 17), (x + 12, y + 17)], WHITE)
        self.canvas.circle(layout.HOME_BUTTON.centre, 17, outline=WHITE, width=4)

    def home(self, phone: Phone) -> None:
        self.label((SIZE[0] // 2, 250), "9:41", WHITE, size=120)
        for app in layout.PAGES[phone.page]:
            x, y = layout.icon(app).centre
            self.picture(app, (x, y - 30), 128)
            self.label((x, y + 64), APPS[app].title, WHITE, size=LETTERS)
        for page in range(len(layout.PAGES)):
            at = (SIZE[0] // 2 - 18 + 36 * page, layout.BACK_BUTTON.y - 40)
            self.canvas.circle(at, 8, DOT if page == phone.page else FAINT)

    def app(self, phone: Phone) -> None:
        body, written = layout.body(keyboard=phone.keyboard), phone.view in ("note", "browser")
        self.fill(body, PAPER if phone.view == "note" else WHITE)
        for number, label in enumerate(phone.rows):
            row = phone.row(number)
            if row.y + row.h > body.y and row.y < body.y + body.h:
                self.line(phone, number, row, label) if written else self.entry(phone, number, row, label)
        self.fill(Rect(0, layout.STATUS, SIZE[0], layout.BAR), FRONT)
        if phone.app == "browser":
            self.plate(layout.ADDRESS_BAR, ADDRESS, 36)
            at = (layout.ADDRESS_BAR.x + 28, layout.ADDRESS_BAR.centre[1])
            caret = "|" if phone.keyboard else ""
            hint = "" if phone.entry or caret else "Search, or an address"
            self.label(at, phone.entry[-38:] + caret or hint, FAINT if hint else INK, "lm", LETTERS)
            return
        title = f"Note, {len(phone.text)} letters" if phone.view == "note" else APPS[phone.app].title
        self.label((28, layout.STATUS + layout.BAR // 2), title, anchor="lm", size=36)
        if phone.app == "notes":
            self.plate(layout.ADD_BUTTON, ADD, 36)
            self.label(layout.ADD_BUTTON.centre, "+", WHITE, size=48)
        if phone.view == "note" and phone.text:
            x, y = SIZE[0] - 190, layout.STATUS + 24
            self.plate(Rect(x, y, 48, 48), WRITTEN, 24)
            self.canvas.line([(x + 13, y + 24), (x + 21, y + 33), (x + 35, y + 15)], WHITE, 5)

    def line(self, phone: Phone, number: int, row: Rect, text: str) -> None:
        """A line of a note or of a page, with the caret behind the last one while one writes."""
        link = phone.app == "browser" and text.startswith(apps.LINK)
        self.label((row.x, row.y + 4), text, LINK if link else INK, "la", LETTERS)
        if phone.view == "note" and phone.keyboard and number == len(phone.rows) - 1:
            x = row.x + round(font(LETTERS).getlength(text)) + 2
            self.fill(Rect(x, row.y + 2, 3, LINE - 6), BLUE)

    def entry(self, phone: Phone, number: int, row: Rect, label: str) -> None:
        """An entry of a list, with a switch where there is something to switch."""
        settings = phone.app == "settings"
        last = settings and number == len(phone.rows) - 1
        self.canvas.circle((60, row.centre[1]), 22, LAST if last else _DOTS[number % len(_DOTS)])
        self.label((108, row.centre[1]), label[:36], INK, "lm", LETTERS)
        self.fill(Rect(108, row.y + row.h - 2, row.w - 108, 2), BEHIND)
        if settings:
            on = label in phone.on
            self.plate(Rect(row.w - 116, row.centre[1] - 22, 84, 44), SWITCH if on else FAINT, 22)
            self.canvas.circle((row.w - (54 if on else 94), row.centre[1]), 17, WHITE)

    def keyboard(self) -> None:
        self.fill(layout.KEYBOARD, FRONT)
        for character in "".join(layout.KEYS):
            key = layout.key(character)
            self.plate(key, WHITE, 10)
            self.label(key.centre, layout.LABELS.get(character, character), size=32)

    def trace(self, points: tuple[Point, ...]) -> None:
        """Where the finger went: a ring for a touch, a double one if it stayed, a line if it moved."""
        for number, point in enumerate(points):
            self.canvas.circle(point, 26 + 12 * number, outline=_TOUCH, width=5)
        if len(set(points)) > 1:
            self.canvas.line(points, _TOUCH, 5)
