"""What the scripted model knows by heart of a computer."""

from dataclasses import replace

from local.model.phrases import AND, EN, THEN, ZH, Repertoire, understood, unquoted
from local.model.plans import Step, Steps, failed
from local.model.screen import Screen
from local.sandbox import layout
from local.sandbox.apps import evaluate

COMPUTER = Repertoire(
    "open Notepad, Calculator or Browser; type into Notepad; create a text file; compute; search; go to an"
    " address; click on a result"
)
_EDITOR = r"(?:the )?(?:notepad|text editor|editor)"
_BROWSER = rf"(?:open|start) (?:the |a |your )?(?:web )?browser{AND}"
_NAME = r"['\"“]?(?P<name>[A-Za-z0-9_.-]{0,99}[A-Za-z0-9])['\"”]?"


def _fill_notepad(steps: Steps, text: str) -> list[Step]:
    """Replaces what the editor holds: doing it twice is the same as once."""
    clicked = steps.click(layout.PAPER, "Click into the editor.", "点击编辑区。", down=0.8)
    erase = steps.hotkey("backspace", "Leave it empty.", "清空内容。")
    return [steps.open("notepad"), clicked, steps.select_all(), steps.type(text) if text else erase]


_WITH = r"(?:,? (?:with|containing)(?: the)?(?: contents?| text)?:? *(?P<text>.+)|\.)?"
_WITH_ZH = r"(?:[,，;；]? *内容(?:为|是)?[:：]? *(?P<text>.+)|。)?"


@COMPUTER.asked_by(
    rf"{EN}create (?:a |an )?(?:new )?(?:empty )?(?:text )?file (?:(?:named|called) )?{_NAME}{_WITH}",
    rf"{ZH}(?:创建|新建)(?:一个)?(?:名为|叫做|叫)? *{_NAME} *的?(?:空的?)?(?:文本)?文件{_WITH_ZH}",
    rf"{ZH}(?:创建|新建)(?:一个)?(?:文本)?文件 *{_NAME}{_WITH_ZH}",
)
def create_file(steps: Steps, name: str, text: str | None = None) -> list[Step] | None:
    content = unquoted(text or "")
    if content is None:
        return None
    return [
        *_fill_notepad(steps, content),
        steps.hotkey("ctrl s", "Save it.", "保存文件。"),
        replace(steps.type(f"{name}\n"), thought=steps.words("Give it its name.", "输入文件名并确认。")),
        steps.done(f"File {name} created.", f"文件 {name} 已创建。", layout.PAPER),
    ]


@COMPUTER.asked_by(
    rf"{EN}(?:(?:open|start) {_EDITOR}{AND})?(?:type|write|enter):? +(?P<text>.+?)"
    rf"(?: (?:in|into|in to) {_EDITOR}\.?)?",
    rf"{ZH}(?:(?:打开)?(?:记事本|文本编辑器){THEN})?(?:在?(?:记事本|编辑器)[中里]?)?"
    r"(?:输入|键入|写入|写下)[:：]? *(?P<text>.+)",
)
def type_text(steps: Steps, text: str) -> list[Step] | None:
    content = understood(text)
    if content is None:
        return None
    end = steps.done(f"Typed {content!r} into Notepad.", f"已在记事本中输入“{content}”。", layout.PAPER)
    return [*_fill_notepad(steps, content), end]


_OPERATORS = (
    *(("multiplied by", "*"), ("times", "*"), ("divided by", "/"), ("plus", "+"), ("minus", "-")),
    *(("乘以", "*"), ("除以", "/"), ("加上", "+"), ("减去", "-"), ("乘", "*"), ("加", "+"), ("减", "-")),
    *(("x", "*"), ("×", "*"), ("÷", "/"), ("−", "-"), (" ", ""), (",", "")),
)


@COMPUTER.asked_by(
    rf"{EN}(?:(?:open|start|use) (?:the |a )?calculator(?:{AND}| to ))?"
    r"(?:compute|calculate|work out|what is|how much is) +(?P<expression>[^?=]+?)[.?= ]*",
    rf"{ZH}(?:打开计算器{THEN}|用计算器)?(?:计算|算一下|算出) *(?P<expression>.+?)"
    r"(?:的结果|等于多少|是多少)?[?？。= ]*",
)
def compute(steps: Steps, expression: str) -> list[Step] | None:
    calculation = expression.lower()
    for word, symbol in _OPERATORS:
        calculation = calculation.replace(word, symbol)
    result = evaluate(calculation)
    if result == "Error" or len(calculation) > LONGEST_CALCULATION:
        return None
    told = f"{expression.strip()} = {result}"
    return [
        steps.open("calculator"),
        steps.click(layout.CLEAR, "Clear the calculator.", "清除计算器。"),
        steps.type(calculation),
        steps.click(layout.EQUALS, "Click on the equals button.", "点击等号。"),
        steps.done(told, told, layout.EQUALS),
    ]


LONGEST_CALCULATION = 40
_ORDINALS = ("first 1st 一 1", "second 2nd 二 2", "third 3rd 三 3")
_NTH = {name: number for number, names in enumerate(_ORDINALS) for name in names.split()}


@COMPUTER.asked_by(
    rf"{EN}(?:click(?: on)?|open) the (?P<nth>first|second|third|1st|2nd|3rd) (?:search )?(?:result|link)",
    rf"{ZH}(?:点击|打开)第(?P<nth>[一二三123])[个条](?:搜索)?(?:结果|链接)。?",
    looks=True,
)
def open_result(steps: Steps, nth: str) -> list[Step]:
    number = _NTH[nth.lower()]

    def call(screen: Screen) -> str:
        links = screen.rows(layout.LINK)
        if len(links) <= number:
            return failed(steps.words("No such result is on the screen.", "屏幕上没有这条结果。"))
        return f"click(point='{screen.point((links[number].x + 8, links[number].centre[1]))}')"

    end = steps.done("Opened the result.", "已打开该结果。")
    gone = replace(end, call=lambda screen: None if screen.shows(layout.LINK) else end.call(screen))
    return [Step(call, steps.words("Click on the result.", "点击该结果。")), gone]


_APPS = {
    **dict.fromkeys(("notepad", "text editor", "记事本", "文本编辑器"), "notepad"),
    **dict.fromkeys(("calculator", "计算器"), "calculator"),
    **dict.fromkeys(("browser", "web browser", "浏览器"), "browser"),
}
_SIGHTS = {"notepad": layout.PAPER, "calculator": layout.EQUALS, "browser": layout.ADDRESS}


@COMPUTER.asked_by(
    rf"{EN}(?:open|start|launch) (?:the |a )?(?P<app>{'|'.join(_APPS)})[.!]?",
    rf"{ZH}(?:打开|启动) *(?P<app>{'|'.join(_APPS)})[。!！]?",
)
def open_app(steps: Steps, app: str) -> list[Step]:
    kind = _APPS[app.lower()]
    name = steps.name(kind)
    return [steps.open(kind), steps.done(f"{name} is open.", f"{name}已打开。", _SIGHTS[kind])]


def _browse(steps: Steps, wanted: str, end: Step) -> list[Step]:
    return [
        steps.open("browser"),
        steps.click(layout.ADDRESS, "Click into the address bar.", "点击地址栏。"),
        steps.select_all(),
        steps.type(f"{wanted}\n"),
        end,
    ]


@COMPUTER.asked_by(
    rf"{EN}(?:{_BROWSER}(?:open|go to|navigate to|visit)|go to|navigate to|visit) +"
    r"(?P<address>\S{1,200}?\.[^\s.]\S{0,200}?)\.?",
    rf"{ZH}(?:打开浏览器{THEN})?(?:访问|前往|转到) *(?P<address>[A-Za-z0-9.:/_-]{{1,200}})。?",
)
def go_to(steps: Steps, address: str) -> list[Step]:
    return _browse(steps, address, steps.done(f"Opened {address}.", f"已打开 {address}。", layout.ADDRESS))


@COMPUTER.asked_by(
    rf"{EN}(?:{_BROWSER})?search(?: the web)?(?: for)? +(?P<query>.+?)"
    r"(?: (?:on|with|using) (?:google|bing|baidu|the web|the internet))?\.?",
    rf"{ZH}(?:打开浏览器{THEN})?(?:[用在](?:浏览器|谷歌|百度)[中里上]?)?"
    r"(?:搜索|查找|搜一下) *(?P<query>.+?)。?",
)
def search(steps: Steps, query: str) -> list[Step] | None:
    words = understood(query)
    if words is None or "\n" in words:
        return None
    end = steps.done(f"Searched for {words}.", f"已搜索“{words}”。", layout.LINK)
    return _browse(steps, f"?{words}" if "." in words else words, end)
