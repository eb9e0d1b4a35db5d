"""How instructions are understood: word for word, each with a plan for it."""

import re
from collections.abc import Callable

from local.model.plans import Plan, Step, Steps, failed

Make = Callable[..., list[Step] | None]
LONGEST = 20_000

_HAN = re.compile(r"[\u3400-\u9fff]")
# Pieces of what instructions are made of.
EN = r"(?:(?:please|now|then)[, ]+)*"
ZH = r"(?:请|现在|然后)*"
AND = r"(?:,? and then|,? and|,? then|,) +"
THEN = r"[,，]?(?:并且?|然后|再)?"


class Repertoire:
    """The instructions that are known, and what is said of any other."""

    def __init__(self, known: str) -> None:
        reason = f"This stand-in knows only a few things: {known}. Set ARK_API_KEY for a real model."
        self.unknown = failed(reason)
        self._known: list[tuple[re.Pattern[str], Make, bool]] = []

    def asked_by(self, *patterns: str, looks: bool = False) -> Callable[[Make], Make]:
        """Registers a plan under the whole instructions that ask for it; the first registered wins."""

        def register(make: Make) -> Make:
            compiled = (re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in patterns)
            self._known.extend((pattern, make, looks) for pattern in compiled)
            return make

        return register

    def recognise(self, instruction: str) -> Plan | None:
        """The plan for an instruction that is understood from its first word to its last."""
        text = instruction.strip()
        if len(text) > LONGEST:
            return None
        steps = Steps(chinese=bool(_HAN.search(text)))
        for pattern, make, looks in self._known:
            found = pattern.fullmatch(text)
            plan = make(steps, **found.groupdict()) if found else None
            if plan:
                return Plan(tuple(plan), looks=looks)
        return None


def unquoted(text: str) -> str | None:
    """The text without its quotes; None if something follows them."""
    text = text.strip()
    for left, right in ("''", '""', "“”", "‘’", "「」", "``"):
        if text.startswith(left):
            inner = text[1:-1]
            return inner if text.endswith(right) and inner and right not in inner else None
    return text


def understood(text: str) -> str | None:
    """The text without its quotes; None if it seems to ask for more than itself."""
    more = re.search(r"\b(?:and )?then\b|然后|接着", text, re.IGNORECASE) and text[:1] not in "'\"“‘「`"
    return None if more else unquoted(text)
