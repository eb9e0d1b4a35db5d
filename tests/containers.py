"""Dockerfiles and compose.yaml, read and carried out without a container engine.

A folder stands for `/`: whatever of the image lies at an absolute path lies below it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PLACES = re.compile(r"(?<![\w.])/(?=(?:opt/venv|src|dist|data|app)\b)")
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-+?])([^${}]*))?\}")

# Variables that are no settings of ours: Celery's, Flower's, those of the images of PostgreSQL and Valkey.
FOREIGN = {
    "CELERY_WORKER_CONCURRENCY",
    "FLOWER_BASIC_AUTH",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "REDISCLI_AUTH",
}

Environment = Mapping[str, str]


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Each instruction and what stands behind it, in one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line:
            word, _, rest = line.partition(" ")
            yield word, rest


@dataclass
class Image:
    """What the last stage says of the containers."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    command: Sequence[str] = ()
    check: Sequence[str] = ()

    @classmethod
    def read(cls, name: str) -> "Image":
        image = cls()
        for word, rest in instructions(ROOT / name):
            match word:
                case "FROM":
                    image = cls()
                case "ENV":
                    image.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
                case "USER":
                    image.user = rest
                case "CMD":
                    image.command = json.loads(rest)
                case "HEALTHCHECK":
                    image.check = json.loads(rest.partition(" CMD ")[2])
        return image


def build(name: str, root: Path, python: Path) -> None:
    """Carries out a Dockerfile; `python` is the folder of the `python` and `pip` of its base image.

    Node is that of this checkout (`make playground`).
    """
    stages: dict[str, Path] = {}
    for word, rest in instructions(ROOT / name):
        match word:
            case "FROM":
                if stages:  # a venv knows its place: the next stage must have the same
                    root.rename(list(stages.values())[-1])
                base, _, stage = rest.partition(" AS ")
                stages[stage] = root.with_name(f"{root.name}.{stage}")
                root.mkdir()
                tools = Path(sys.executable).parent if base.startswith("node:") else python
                work, variables = root, {"PATH": f"{tools}:{os.defpath}"}
            case "ENV":
                pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
                variables |= {key: value for key, value in pairs.items() if key != "PATH"}
            case "WORKDIR":
                work = root / rest.lstrip("/")
                work.mkdir(exist_ok=True)
            case "COPY":
                _copy(shlex.split(rest), root, work, stages)
            case "RUN":
                command = PLACES.sub(f"{root}/", re.sub(r"--mount=\S+\s*", "", rest))
                environment = {**variables, **_of_machine()}
                subprocess.run(["sh", "-c", command], cwd=work, env=environment, check=True, timeout=400)


def _copy(words: Sequence[str], root: Path, work: Path, stages: Mapping[str, Path]) -> None:
    options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    if "from" in options:
        place = root / target.lstrip("/") if target.startswith("/") else work / target
        shutil.copytree(stages[options["from"]] / sources[0].lstrip("/"), place, symlinks=True)
        if "chown" in options and os.geteuid() == 0:
            os.chown(place, *map(int, options["chown"].split(":")))
        return
    for source in _let_through() if sources == ["."] else sources:
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules", "static", "schema.d.ts")
            shutil.copytree(ROOT / source, work / source, ignore=ignored, dirs_exist_ok=True)
        else:
            (work / source).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, work / source)


def _let_through() -> list[str]:
    """What .dockerignore leaves of the folder: it takes all away, and gives some back."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    return [rule.removeprefix("!") for rule in rules if rule.startswith("!")]


def _of_machine() -> dict[str, str]:
    """What tells pip and npm on this machine where packages are."""
    known = re.compile(r"HOME|PIP_.*|NPM_.*|NODE_EXTRA_.*|SSL_.*|(https?|no)_proxy", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if known.fullmatch(name)}


@cache
def _compose_file() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def compose(environment: Environment) -> dict[str, Any]:
    """compose.yaml with these variables. Raises `KeyError` where one that is required is missing."""
    made: dict[str, Any] = _filled_in(_compose_file(), environment)
    return made


def _filled_in(tree: Any, environment: Environment) -> Any:
    # Compose looks for variables in the texts, when the YAML is read.
    if isinstance(tree, dict):
        return {name: _filled_in(value, environment) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_filled_in(value, environment) for value in tree]
    while isinstance(tree, str) and _VARIABLE.search(tree):  # the innermost first
        tree = _VARIABLE.sub(lambda found: _value(found, environment), tree)
    return tree.replace("$$", "$") if isinstance(tree, str) else tree


def _value(found: re.Match[str], environment: Environment) -> str:
    name, operator, word = found.groups()
    given = environment.get(name, "")
    if operator == ":?" and not given:
        raise KeyError(f"{name}: {word}")
    return {":-": given or word, ":+": word if given else ""}.get(operator, given)
