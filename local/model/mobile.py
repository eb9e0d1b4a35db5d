"""What the scripted model knows by heart of a phone."""

from local.model.phrases import AND, EN, THEN, ZH, Repertoire, understood
from local.model.plans import Step, Steps, quoted, say
from local.sandbox import layout, phone_layout
from local.sandbox.phone_layout import APPS

MOBILE = Repertoire(
    "open Notes, Settings or Browser; write a note; scroll the settings; search; go to an address; go home"
)
SCROLLS = 3  # from the first setting to the last
_OPEN = r"(?:open|start|use|launch) (?:the |your )?"
_NOTES = r"(?:notes|notepad)(?: app)?"
_BROWSER = rf"(?:{_OPEN}browser{AND})?"
_NAMES = {name.lower(): app for app, known in APPS.items() for name in (known.title, known.chinese)}
_SIGHTS = {
    "notes": phone_layout.ADD,
    "settings": phone_layout.SWITCH,
    "browser": layout.ADDRESS,
}


def _open(steps: Steps, app: str) -> Step:
    name = steps.words(APPS[app].title, APPS[app].chinese)
    call = f"open_app(app_name={quoted(APPS[app].title)})"
    return Step(say(call), steps.words(f"Open {name}.", f"打开{name}。"))


# It looks: after a doubtful step it goes on, and begins again if at the end no note is written.
@MOBILE.asked_by(
    rf"{EN}(?:{_OPEN}{_NOTES}{AND})?(?:type|write|enter|note)(?: down)?:? +(?P<text>.+?)"
    rf"(?: (?:in|into) (?:the |my )?{_NOTES}\.?)?",
    rf"{ZH}(?:打开)?(?:备忘录|记事本)?{THEN}(?:[中里])?(?:输入|键入|写入|写下|记下)[:：]? *(?P<text>.+)",
    looks=True,
)
def write_note(steps: Steps, text: str) -> list[Step] | None:
    content = understood(text)
    if content is None:
        return None
    told = steps.done(f"Wrote {content!r} in a new note.", f"已写下“{content}”。", phone_layout.WRITTEN)
    begin = steps.click(phone_layout.ADD, "Begin a new note.", "新建一条备忘录。")
    return [_open(steps, "notes"), begin, steps.type(content), told]


@MOBILE.asked_by(
    rf"{EN}{_OPEN}settings(?: app)?{AND}scroll (?:down )?to the (?:end|bottom)\.?",
    rf"{EN}{_OPEN}settings(?: app)?{AND}scroll down\.?",
    rf"{ZH}打开设置{THEN}(?:向下滚动|滚动到底部?|滚动到最后)。?",
)
def scroll_settings(steps: Steps) -> list[Step]:
    down = steps.words("There is more below.", "下面还有内容。")
    swipe = Step(say("scroll(point='<point>500 600</point>', direction='down')"), down)
    end = steps.done("This is the last of the settings.", "这是最后一项设置。", phone_layout.LAST)
    return [_open(steps, "settings"), *[swipe] * SCROLLS, end]


@MOBILE.asked_by(
    rf"{EN}{_OPEN}(?P<app>{'|'.join(_NAMES)})(?: app)?[.!]?",
    rf"{ZH}(?:打开|启动)(?P<app>{'|'.join(_NAMES)})。?",
)
def open_app(steps: Steps, app: str) -> list[Step]:
    kind = _NAMES[app.lower()]
    name = steps.words(APPS[kind].title, APPS[kind].chinese)
    return [_open(steps, kind), steps.done(f"{name} is open.", f"{name}已打开。", _SIGHTS[kind])]


@MOBILE.asked_by(
    rf"{EN}(?:go|return) (?:to the )?home(?: screen)?\.?", rf"{ZH}(?:回到|返回)(?:主屏幕|桌面)。?"
)
def go_home(steps: Steps) -> list[Step]:
    press = Step(say("press_home()"), steps.words("Press the home button.", "按主屏键。"))
    return [press, steps.done("This is the home screen.", "已回到主屏幕。", phone_layout.DOT)]


def _browse(steps: Steps, wanted: str, end: Step) -> list[Step]:
    touch = steps.click(layout.ADDRESS, "Touch the address bar.", "点击地址栏。")
    return [_open(steps, "browser"), touch, steps.type(f"{wanted}\n"), end]


@MOBILE.asked_by(
    rf"{EN}{_BROWSER}(?:open|go to|navigate to|visit) +(?P<address>\S{{1,200}}?\.[^\s.]\S{{0,200}}?)\.?",
    rf"{ZH}(?:打开浏览器{THEN})?(?:访问|前往|转到) *(?P<address>[A-Za-z0-9.:/_-]{{1,200}})。?",
)
def go_to(steps: Steps, address: str) -> list[Step]:
    return _browse(steps, address, steps.done(f"Opened {address}.", f"已打开 {address}。", layout.ADDRESS))


@MOBILE.asked_by(
    rf"{EN}{_BROWSER}search(?: the web)?(?: for)? +(?P<query>.+?)(?: (?:on|with) (?:google|bing|baidu))?\.?",
    rf"{ZH}(?:打开浏览器{THEN})?(?:搜索|查找) *(?P<query>.+?)。?",
)
def search(steps: Steps, query: str) -> list[Step] | None:
    words = understood(query)
    if words is None or "\n" in words:
        return None
    end = steps.done(f"Searched for {words}.", f"已搜索“{words}”。", layout.LINK)
    return _browse(steps, f"?{words}" if "." in words else words, end)
