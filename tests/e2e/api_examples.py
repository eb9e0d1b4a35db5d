"""The examples in docs/api.md: run in their order, and printed as they are answered.

`python -m tests.e2e.api_examples` starts everything and writes the answer to each curl command into the block
below it. Two comments before a command, which no reader sees, prepare what it is about:

    <!-- submit: INSTRUCTION -->    submits a task, `\\n` being a new line
    <!-- notify: INSTRUCTION -->    the same with a webhook, and waits until that is delivered
    <!-- await: FIELD=VALUE … -->   waits until the status of the tasks named last has these values

`$TASK_ID` and `$SANDBOX_ID` are those of the last answer that has them, and `$NAME` is the end of the last
screenshot's path. Of pictures and pages just the type is shown.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import wait_until
from tests.e2e.conftest import System, read, started
from tests.e2e.curl import Block, Shell, blocks
from tests.receiver import receiving

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
DIRECTIVE = re.compile(r"^<!-- (submit|notify|await): (.+) -->$", re.MULTILINE)
STREAM = "text/event-stream"
JSON = "application/json"
SCREENSHOT = re.compile(r'"/api/[^"]+/screenshots/(\w+)"')
API_KEY = "lgk_any"  # none is asked for on a loopback address

LONGEST_TEXT, LONGEST_ADDRESS, LONGEST_LIST = 120, 40, 3
WIDTH = 100
CUT = "…"


@dataclass(frozen=True)
class Example:
    """A curl command, and the block in which its answer is shown."""

    command: Block
    shown: Block

    def __str__(self) -> str:
        return f"{self.command.section}: {self.command.text}"


def examples(document: str) -> Iterator[Example]:
    """Every curl command of the document. The block right below it is its answer."""
    for command, shown in pairwise(blocks(document)):
        if command.language == "bash" and "curl" in command.text:
            assert not shown.before.strip(), f"no answer stands below {command.text}"
            yield Example(command, shown)


@dataclass(frozen=True)
class Told:
    """What an example was answered: the status, and JSON, the events of a stream, or another type."""

    status: int
    reason: str
    body: Any
    is_stream: bool = False
    kind: str = JSON


@dataclass
class Reader:
    """Somebody who goes through the document and tries every example."""

    system: System
    variables: dict[str, str] = field(default_factory=lambda: {"API_KEY": API_KEY})
    tasks: list[str] = field(default_factory=list)

    def tries(self, example: Example) -> Told:
        for directive, text in DIRECTIVE.findall(example.command.before):
            if directive == "submit":
                self._remember({"task_id": self.system.submit(text.replace("\\n", "\n"))})
            elif directive == "notify":
                self._notify(text)
            else:
                wanted = dict(one.split("=") for one in text.split())
                wait_until(lambda wanted=wanted: all(self._has(task_id, wanted) for task_id in self.tasks))
        shell = Shell(self.system.http, self.variables)
        output = shell.run(example.command.text)
        (answer,) = shell.answers
        assert answer is not None, example
        return self._told(answer, output)

    def _notify(self, instruction: str) -> None:
        with receiving() as receiver:
            webhook = {"webhook_url": f"{receiver.url}/204", "webhook_secret": "known-to-both-sides"}
            task_id = self.system.submit(instruction, **webhook)
            self._remember({"task_id": task_id})
            log = f"/api/agent/task/{task_id}/webhooks"
            wait_until(lambda: '"delivered"' in self.system.http.get(log).text)

    def _has(self, task_id: str, wanted: dict[str, str]) -> bool:
        status = self.system.status(task_id)
        return all(str(status[name]) == value for name, value in wanted.items())

    def _told(self, answer: httpx.Response, output: str) -> Told:
        kind = answer.headers.get("content-type", JSON)
        if not kind.startswith((STREAM, JSON)):
            return Told(answer.status_code, answer.reason_phrase, None, kind=kind)
        is_stream = kind.startswith(STREAM)
        body = list(read(answer)) if is_stream else json.loads(output) if output else None
        assert not is_stream or re.findall(r"^id: (\d+)$", output, re.MULTILINE) == [
            str(e["seq"]) for e in body
        ]
        self._remember(body[0] if is_stream else body)
        return Told(answer.status_code, answer.reason_phrase, body, is_stream)

    def _remember(self, body: Any) -> None:
        named = body if isinstance(body, dict) else {}
        self.tasks = named.get("task_ids") or ([named["task_id"]] if "task_id" in named else self.tasks)
        for name in named.keys() & {"task_id", "sandbox_id"}:
            self.variables[name.upper()] = named[name]
        for path in SCREENSHOT.findall(json.dumps(body)):
            self.variables["NAME"] = path


# --- as the document shows it ---------------------------------------------------------------------------


def shortened(value: Any) -> Any:
    """Long texts, addresses and lists end early."""
    if isinstance(value, dict):
        return {name: shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        first = [shortened(inner) for inner in value[:LONGEST_LIST]]
        return [*first, CUT] if len(value) > LONGEST_LIST else first
    if isinstance(value, str):
        longest = LONGEST_ADDRESS if value.startswith("http") else LONGEST_TEXT
        return value[:longest] + CUT if len(value) > longest else value
    return value


def pretty(value: Any, margin: str = "") -> str:
    """JSON, in one line where that is not too wide."""
    line = json.dumps(value, ensure_ascii=False)
    if len(margin + line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = margin + "  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {pretty(one, inner)}" for name, one in value.items()]
    else:
        parts = [pretty(one, inner) for one in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{closing}"


def block(told: Told) -> str:
    """An answer between its fences. The status stands there if it is not 200."""
    if told.is_stream:
        lines = (
            f"id: {event['seq']}\ndata: {json.dumps(shortened(event), ensure_ascii=False)}\n"
            for event in told.body
        )
        return "```text\n" + "\n".join(lines) + "```"
    if told.kind != JSON:
        return f"```http\nHTTP/1.1 {told.status} {told.reason}\nContent-Type: {told.kind}\n```"
    text = "" if told.body is None else pretty(shortened(told.body)) + "\n"
    if told.status == httpx.codes.OK:
        return f"```json\n{text}```"
    return f"```http\nHTTP/1.1 {told.status} {told.reason}\n" + (f"\n{text}```" if text else "```")


def understood(shown: Block) -> Told:
    """The answer that a block shows."""
    if shown.language == "text":
        events = [
            json.loads(line.removeprefix("data: ")) for line in shown.text.splitlines() if line[:5] == "data:"
        ]
        return Told(200, "OK", events, is_stream=True)
    status, reason, text = "200", "OK", shown.text
    if shown.language == "http":
        head, _, text = text.partition("\n")
        _, status, reason = head.split(" ", 2)
        if found := re.fullmatch(r"Content-Type: (.+)\n", text):
            return Told(int(status), reason, None, kind=found[1])
    return Told(int(status), reason, json.loads(text) if text.strip() else None)


def main() -> None:
    """Writes the answers of a real run into the document."""
    document = DOCUMENT.read_text(encoding="utf-8")
    written, end = "", 0
    with started() as system:
        reader = Reader(system)
        for example in examples(document):
            written += document[end : example.shown.start] + block(reader.tries(example))
            end = example.shown.end
    DOCUMENT.write_text(written + document[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
