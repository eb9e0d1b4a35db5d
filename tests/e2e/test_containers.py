"""The images and compose.yaml, acted out: their own commands, environments and checks, as real processes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psycopg
import pytest
import virtualenv

from local.binaries import _open_to_all
from local.processes import free_port
from local.servers import Postgres, Valkey
from tests.conftest import wait_until
from tests.containers import ROOT, Image, build, compose

SCALING = ROOT / "deploy" / "kubernetes" / "scaling" / "scaledobject.yaml"
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
SECRETS = {
    "POSTGRES_PASSWORD": "x",
    "REDIS_PASSWORD": "x",
    "CREDENTIALS_KEYS": "a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2U=",
    "FLOWER_BASIC_AUTH": "admin:x",
}


class Host:
    """Where containers run: each port is a free one, and every name this machine."""

    def __init__(self, urls: Mapping[str, str], roots: Mapping[str, Path], user: int | None) -> None:
        self.urls, self.roots, self.user = urls, roots, user
        self.ports: dict[str, int] = defaultdict(free_port)
        self.logs = Path(tempfile.mkdtemp(prefix="containers-"))
        self.logs.chmod(0o755)
        self.tmp = self.logs / "tmp"  # all that a container may write to, beside its volume
        self.tmp.mkdir()
        self.tmp.chmod(0o777)
        self.containers: list[Container] = []

    def start(self, name: str, service: Mapping[str, Any]) -> "Container":
        self.containers.append(Container(self, name, service))
        return self.containers[-1]

    def path(self, dockerfile: str) -> str:
        """Where commands are looked for."""
        venv = self.roots[dockerfile] / "opt/venv/bin" if self.roots else Path(sys.executable).parent
        return f"{venv}:{os.defpath}"

    def here(self, name: str, text: str) -> str:
        """What stands in a command or a variable of the service, as it is on this machine."""
        for stand_in in ("sandbox", "model"):
            text = text.replace(f"//{stand_in}:8000", f"//127.0.0.1:{self.ports[stand_in]}")
        for port in ("5000", "5555", "8000", "9808"):
            if text in (port, f"--port={port}"):
                return text.replace(port, str(self.ports[name]))
        return f"{self.data}{text}" if text.startswith("/data") else text

    @property
    def data(self) -> Path:
        """Where the volume of the screenshots is."""
        return next(iter(self.roots.values()), self.tmp)

    def close(self) -> None:
        for container in self.containers:
            container.process.kill()
            container.process.wait()
        shutil.rmtree(self.logs)


class Container:
    """A service of compose.yaml: what it and the image say, the service's word first."""

    def __init__(self, host: Host, name: str, service: Mapping[str, Any]) -> None:
        self.image = Image.read(service["build"]["dockerfile"])
        self.check = service.get("healthcheck", {}).get("test", ["CMD", *self.image.check])[1:]
        self._host, self._name = host, name
        self._grace = {"10s": 10, "15s": 15, "1m": 60}[service.get("stop_grace_period", "10s")]
        said = {**self.image.environment, **service.get("environment", {})}
        self._environment = {
            **{variable: host.here(name, value) for variable, value in said.items()},
            **{variable: url for variable, url in host.urls.items() if variable in said},
            "PATH": host.path(service["build"]["dockerfile"]),
            "TMPDIR": str(host.tmp),
        }
        self.log = host.logs / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = self._popen(service.get("command", self.image.command), log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._host.ports[self._name]}"

    def run(self, *command: str) -> str:
        """What a command says that is executed in the container. Raises `CalledProcessError`."""
        with self._popen(command, subprocess.PIPE) as process:
            said, _ = process.communicate(timeout=60)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, said)
        return str(said.decode())

    def wait_healthy(self) -> "Container":
        """Itself, once its check succeeds; it is not asked before somebody listens."""
        wait_until(self._listens, 100)
        wait_until(self.is_healthy)
        return self

    def is_healthy(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            self.run(*self.check)
            return True
        return False

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._host.ports[self._name])) == 0

    def stop(self) -> None:
        """In order, and within its grace."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(self._grace) == 0, self.log.read_text()

    def _popen(self, command: Any, output: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [self._host.here(self._name, word) for word in command],
            cwd=self._host.logs,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=self._host.user,
            group=self._host.user,
            extra_groups=None if self._host.user is None else (),
        )


Hosts = Callable[..., Host]


@pytest.fixture
def hosts(valkey: Valkey) -> Iterator[Hosts]:
    made: list[Host] = []

    def host(
        database: str, roots: Mapping[str, Path] = MappingProxyType({}), user: int | None = None
    ) -> Host:
        urls = {"POSTGRES_CONNECTION_STRING": database, "REDIS_URL": valkey.url}
        made.append(Host(urls, roots, user))
        return made[-1]

    yield host
    for one in made:
        one.close()


@pytest.mark.long
def test_api_and_worker_start_get_healthy_and_stop_as_their_images_say(
    hosts: Hosts, database_url: str
) -> None:
    host, services = hosts(database_url), compose(SECRETS)["services"]
    services["api"]["environment"]["METRICS_TOKEN"] = "scrape"
    worker = host.start("worker", services["worker"]).wait_healthy()
    key = worker.run("lybic-guiagent", "keys", "create", "me").strip()
    api = host.start("api", services["api"]).wait_healthy()
    assert httpx.get(f"{api.url}/api/agent/tasks").status_code == 401
    answer = httpx.get(f"{api.url}/api/agent/tasks", headers={"X-API-Key": key})
    assert answer.json()["count"] == 0
    metrics = httpx.get(f"{api.url}/metrics", headers={"Authorization": "Bearer scrape"}).text
    for name in re.findall(r"guiagent_\w+", SCALING.read_text()):
        assert f"# TYPE {name} gauge" in metrics
    slots = f"guiagent_worker_slots {float(worker.image.environment['CELERY_WORKER_CONCURRENCY'])}"
    wait_until(lambda: slots in httpx.get(f"{worker.url}/metrics").text)
    for container in (api, worker):
        container.stop()
        assert not container.is_healthy()


@pytest.fixture
def built() -> Iterator[tuple[Mapping[str, Path], int | None]]:
    """The images, each in a folder, and who runs in them: their own user, if that may be."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    folder.chmod(0o755)
    try:
        python, is_open = interpreter()
        virtualenv.cli_run([str(folder / "python"), "--python", str(python)])
        roots = {name: folder / name for name in DOCKERFILES}
        for name, root in roots.items():
            build(name, root, folder / "python" / "bin")
        user = int(Image.read(DOCKERFILES[0]).user.partition(":")[0])
        yield roots, user if is_open and os.geteuid() == 0 else None
    finally:
        shutil.rmtree(folder)


def interpreter() -> tuple[Path, bool]:
    """A Python for the images, and whether every user can run it."""
    places = (f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin")
    known = [Path(place, "python3") for place in places]
    usable = filter(is_usable, known)
    return next(((python, True) for python in usable), (known[0], False))


def is_usable(python: Path) -> bool:
    """Whether it is there, open to every user, and new enough."""
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    is_open = python.exists() and _open_to_all(python.resolve())
    return is_open and subprocess.run([python, "-c", new_enough], check=False).returncode == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_nothing_to_a_finished_task(
    hosts: Hosts, built: tuple[Mapping[str, Path], int | None], postgres: Postgres
) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE nothing")
    host = hosts(postgres.url_of("nothing"), *built)
    services = compose(SECRETS | {"COMPOSE_PROFILES": "local"})["services"]
    migrate = host.start("migrate", services["migrate"])
    assert migrate.process.wait(60) == 0, migrate.log.read_text()
    names = ("sandbox", "model", "worker", "api", "flower")
    running = {name: host.start(name, services[name]) for name in names}
    for container in running.values():
        container.wait_healthy()
    with httpx.Client(base_url=running["api"].url) as http:
        task = http.post("/api/agent/task/submit", json={"instruction": "Open notepad and type Hello"}).json()
        told = http.get(f"/api/agent/task/{task['task_id']}/events", timeout=100).text
        assert '"type": "finished"' in told, told
        (picture, *_) = re.findall(r'"screenshot": "(/[^"]+)"', told)
        assert http.get(picture).headers["content-type"].startswith("image/")
    assert httpx.get(running["flower"].url).status_code == 401
    assert httpx.get(running["flower"].url, auth=("admin", "x")).status_code == 200
    for container in reversed(running.values()):
        container.stop()
