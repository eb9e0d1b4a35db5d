r"""Scripts in an instruction: every line that begins with `script>` is one answer, or changes the next one.

    script> click(point='<point>500 500</point>')    any call, given as it stands
    script> repeat 10 click(point='<point>{i} 5</point>')    so many answers; {i} counts them from 1
    script> raw I don't know.\nReally.    exactly this answer, without a thought; \n is a new line
    script> delay 2          the next answer comes after 2 seconds (`hang` is the same)
    script> status 500 3     the next answer comes after 3 errors (1 if not said), `status 429` likewise
    script> retry-after 1    sent along with those errors
    script> drop 2           instead of errors, the connection is closed twice without an answer
    script> insist           a step that was not carried out, or may not have been, is said again

After the last line comes `finished(content='(scripted) done')`, unless there was an ending call or the last
line is `raw`, which is then repeated for ever. Without `insist` no line is ever said again.
"""

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

from local.model.plans import Plan, Step, finished, say
from local.standin import Refused

MOST_STEPS = 10_000
_LINE = re.compile(r"^[ \t]*script>[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_ENDING = re.compile(r"(?:finished|failed)\s*\(")
_WORDS = re.compile(r"(\S+)\s*(.*)", re.DOTALL)


class _Script:
    """Collects the steps, line by line."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.calls: list[str] = []
        self.insist = False
        self._next: dict[str, Any] = {}

    def read(self, line: str) -> None:
        words = _WORDS.match(line)
        word, rest = words.groups() if words else ("", "")
        match word:
            case "delay" | "hang":
                self._next["delay"] = float(rest)
            case "retry-after":
                self._next["retry_after"] = float(rest)
            case "status" | "drop":
                self._trouble(word, [int(number) for number in rest.split()])
            case "insist":
                self.insist = True
            case "raw":
                self._add(Step(say(rest.replace("\\n", "\n")), raw=True))
            case "repeat":
                self._repeat(*rest.split(maxsplit=1))
            case "":
                raise ValueError("an empty line")
            case _:
                self._call(line)

    def _trouble(self, word: str, numbers: list[int]) -> None:
        status = numbers.pop(0) if word == "status" else None
        (times,) = numbers or [1]
        self._next |= {"status": status, "drop": word == "drop", "times": times}

    def _repeat(self, count: str, call: str) -> None:
        if int(count) > MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS} steps")
        for number in range(1, int(count) + 1):
            self._call(call.replace("{i}", str(number)))

    def _call(self, call: str) -> None:
        self.calls.append(call)
        self._add(Step(say(call)))

    def _add(self, step: Step) -> None:
        self.steps.append(replace(step, **self._next))
        self._next = {}

    def end(self) -> None:
        endless = self.steps and self.steps[-1].raw and not self._next
        if not (endless or any(map(_ENDING.match, self.calls))):
            self._call(finished("done"))


@lru_cache(maxsize=128)
def read_script(instruction: str) -> Plan | None:
    """The plan that the instruction spells out, or None if it holds no script."""
    script = _Script()
    lines = _LINE.findall(instruction)
    for line in lines:
        try:
            script.read(line)
        except (TypeError, ValueError) as error:
            raise Refused(400, "invalid_script", f"script line {line[:80]!r}: {error}") from error
    if not lines:
        return None
    script.end()
    return Plan(tuple(script.steps), script=True, insist=script.insist)
