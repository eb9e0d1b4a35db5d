"""What documents show between fences, and the commands among it: a shell as far as they need one.

curl and jq need not be installed. Only the server that the documents call localhost:5000 is asked.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

SERVER = "http://localhost:5000"

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# What else stands beside the commands. Nothing waits here, so the body of a loop is run once.
IGNORED = frozenset({"break", "docker-compose", "done", "fi", "if", "sleep", "while"})
COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
# Quoted texts, continued lines and $(…) go on over the end of a line.
QUOTED = r"""'[^']*'|"(?:\\.|[^"\\])*\""""
STATEMENT = re.compile(rf"""(?:{QUOTED}|\\\n|\$\((?:{QUOTED}|[^'")])*\)|[^'"\n])+""")
ASSIGNMENT = re.compile(r"(?:(?P<name>\w+)=)?(?:\$\((?P<inner>.*)\)|(?P<plain>.*))", re.DOTALL)
VARIABLE = re.compile(r"\$(\w+)")
EXPANSION = re.compile(rf"""{QUOTED}|\$(?P<name>\w+)|(?P<continued>\\\n)""")

Answer = httpx.Response | None  # None: another server was meant


@dataclass(frozen=True)
class Block:
    """What stands between two fences: under which heading, after which text, in which language, and where."""

    section: str
    before: str
    language: str
    text: str
    start: int
    end: int

    @property
    def label(self) -> str:
        """The line before."""
        return self.before.strip().rpartition("\n")[2]


def blocks(document: str) -> Iterator[Block]:
    """The document's fenced blocks in their order, each with the text since the one before."""
    section, end = "", 0
    for fence in FENCE.finditer(document):
        before = document[end : fence.start()]  # not within: what looks like a heading there is a comment
        section = next(reversed(HEADING.findall(before)), section)
        yield Block(section, before, fence["language"], fence["text"], fence.start(), fence.end())
        end = fence.end()


@dataclass
class Shell:
    """Runs commands in their order, and keeps what each curl was answered."""

    http: httpx.Client
    variables: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    def run(self, text: str) -> str:
        """Runs the statements, and returns what the last one prints."""
        output = ""
        for statement in STATEMENT.findall(COMMENT.sub("", text)):
            parts = ASSIGNMENT.fullmatch(statement.strip())
            assert parts, statement
            name, inner, plain = parts.group("name", "inner", "plain")
            words = shlex.split(EXPANSION.sub(self._expanded, inner or plain))
            if name:
                self.variables[name] = self._pipeline(words) if inner else "".join(words)
            else:
                output = self._pipeline(words)
        return output

    def _expanded(self, found: re.Match[str]) -> str:
        """Single quotes keep a variable's name as it is."""
        if found["name"]:
            return shlex.quote(self.variables[found["name"]])
        if found[0].startswith('"'):
            return VARIABLE.sub(lambda one: re.sub(r'(["\\])', r"\\\1", self.variables[one[1]]), found[0])
        return "" if found["continued"] else found[0]

    def _pipeline(self, words: list[str]) -> str:
        output = ""
        while words:
            end = words.index("|") if "|" in words else len(words)
            output = self._command(words[:end], output)
            words = words[end + 1 :]
        return output

    def _command(self, words: list[str], given: str) -> str:
        match words:
            case ["curl", *options]:
                self.answers.append(answer := curl(self.http, options))
                return "" if answer is None else answer.text
            case ["echo", *texts]:
                return " ".join(texts)
            case ["jq", "-r", path] | ["jq", path]:
                return jq(path, given)
            case [word, *_] if word in IGNORED:
                return ""
        raise AssertionError(f"this shell does not know {words}")


def curl(http: httpx.Client, options: list[str]) -> Answer:
    """Sends what curl would send, to the server that `http` knows."""
    url, method, body, headers = "", None, None, {"Host": urlsplit(SERVER).netloc, "User-Agent": "curl/8"}
    words = iter(options)
    for word in words:
        match word:
            case "-s" | "-N" | "-i":
                pass
            case "-o":
                next(words)  # nothing is written: the answer is kept as it is
            case "-X":
                method = next(words)
            case "-H":
                name, value = next(words).split(": ", 1)
                headers[name] = value
            case "-d":
                body = next(words)
                headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            case _:
                assert word.startswith("http"), f"this curl does not know {word}"
                url = word
    method = method or ("GET" if body is None else "POST")
    assert body is None or method == "POST"
    if not url.startswith(f"{SERVER}/"):
        return None
    return http.request(method, url.removeprefix(SERVER), headers=headers, content=body)


def jq(path: str, text: str) -> str:
    """`.` and `.name` of an object: a text as it is, anything else as JSON."""
    whole = json.loads(text)
    found = whole if path == "." else whole.get(path.removeprefix("."))
    return found if isinstance(found, str) else json.dumps(found)
