"""What a plan of the scripted model is made of: steps, each with a thought and a call."""

from collections.abc import Callable
from dataclasses import dataclass

from local.model.screen import Screen
from local.sandbox import layout
from local.sandbox.layout import Colour

CHINESE = {"notepad": "记事本", "calculator": "计算器", "browser": "浏览器"}
Call = Callable[[Screen], str | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One answer. `call` gives None if what it is about can't be seen.

    The rest is for scripts: `raw` is the whole answer, and the trouble comes before it.
    """

    call: Call
    thought: str = ""
    raw: bool = False
    delay: float = 0
    status: int | None = None
    drop: bool = False
    times: int = 1
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps to the end. What becomes of a step whose outcome is in doubt depends on the plan.

    A `script` goes on, or says the step again if it is to `insist`. A plan that `looks` goes on too, as its
    last step tells by the screen what happened. Any other begins again, since that does no harm.
    """

    steps: tuple[Step, ...]
    script: bool = False
    insist: bool = False
    looks: bool = False


def say(call: str) -> Call:
    return lambda _: call


def quoted(text: str) -> str:
    """A string as the model writes it."""
    for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def finished(content: str) -> str:
    return f"finished(content={quoted(f'(scripted) {content}')})"


def failed(content: str) -> str:
    return f"failed(content={quoted(f'(scripted) {content}')})"


class Steps:
    """Makes the steps of plans, with thoughts in the language of the instruction."""

    def __init__(self, *, chinese: bool) -> None:
        self._chinese = chinese

    def words(self, english: str, chinese: str) -> str:
        return chinese if self._chinese else english

    def name(self, app: str) -> str:
        return self.words(layout.TITLES[app], CHINESE[app])

    def open(self, app: str) -> Step:
        """A taskbar entry opens the app, or brings it to the front with its text field focused."""
        thought = self.words(f"Open {self.name(app)} from the taskbar.", f"从任务栏打开{self.name(app)}。")
        return Step(
            lambda screen: f"click(point='{screen.point(layout.taskbar_entry(screen.size, app).centre)}')",
            thought,
        )

    def click(self, colour: Colour, english: str, chinese: str, *, down: float = 0.5) -> Step:
        """Clicks on what has this colour, that far down in it."""

        def call(screen: Screen) -> str | None:
            rect = screen.find(colour)
            return rect and f"click(point='{screen.point((rect.centre[0], rect.y + int(rect.h * down)))}')"

        return Step(call, self.words(english, chinese))

    def hotkey(self, keys: str, english: str, chinese: str) -> Step:
        return Step(say(f"hotkey(key='{keys}')"), self.words(english, chinese))

    def select_all(self) -> Step:
        return self.hotkey("ctrl a", "Select what is there already.", "选中已有的内容。")

    def type(self, text: str) -> Step:
        return Step(say(f"type(content={quoted(text)})"), self.words("Type the text.", "输入文本。"))

    def done(self, english: str, chinese: str, sight: Colour | None = None) -> Step:
        """The end, claimed only while something of that colour is on the screen."""
        call = finished(self.words(english, chinese))
        thought = self.words("Everything is done.", "任务已完成。")
        return Step(lambda screen: call if sight is None or screen.shows(sight) else None, thought)
