"""Screenshots as a hostile sandbox service names them: what is fetched, kept, and sent to a model."""

import gzip
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from uuid import uuid4

import pytest
from pydantic import SecretStr

from shared import screenshots
from shared.conversation import Message
from shared.errors import ModelError, SandboxError, SandboxUnavailable
from shared.portal import Portal
from shared.sandboxes import SandboxService
from shared.schemas import LybicCredentials, SandboxInfo
from shared.screenshots import LARGEST_BYTES, LONGEST_URL, AllowedHosts, ScreenshotFetcher, checked
from shared.settings import LybicSettings, ModelSettings
from worker import retries
from worker.completions import Completions, Endpoint
from worker.model import SCREENSHOT_GONE, OpenAIModel
from worker.pictures import Pictures
from worker.protocols import Answer
from worker.sandbox import LybicSandbox
from worker.stop import Stop

PNG = b"\x89PNG\r\n\x1a\n and the rest"
JPEG = b"\xff\xd8\xff and the rest"
WEBP = b"RIFF\x0a\x00\x00\x00WEBP and the rest"
KEY = "sk-planted/key+1"


@dataclass
class Site:
    """A real HTTP server whose answers a test writes. It keeps the requests."""

    server: ThreadingHTTPServer
    pages: dict[str, Callable[["Handler"], None]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def shows(self, body: bytes, kind: str = "image/png", *, status: int = 200, **headers: str) -> str:
        """The URL of a new page with this answer."""
        path = f"/page-{len(self.pages)}"

        def answer(handler: Handler) -> None:
            handler.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)

        self.pages[path] = answer
        return f"{self.url}{path}"

    def says(self, path: str, body: dict[str, Any], *, status: int = 200) -> None:
        self.pages[path] = self.pages[
            self.shows(json.dumps(body).encode(), "application/json", status=status).removeprefix(self.url)
        ]


class Handler(BaseHTTPRequestHandler):
    """Answers with the site's pages."""

    site: Site

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.site.asked.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        )
        self.site.pages[self.path](self)

    do_POST = do_GET  # noqa: N815 - the server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's name
        pass


@pytest.fixture
def site_of() -> Iterator[Callable[[], Site]]:
    sites = []

    def start() -> Site:
        handler = type("SiteHandler", (Handler,), {})
        site = Site(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        site.server.daemon_threads = True
        handler.site = site  # type: ignore[attr-defined]
        threading.Thread(target=site.server.serve_forever, args=[0.01], daemon=True).start()
        sites.append(site)
        return site

    yield start
    for site in sites:
        site.over.set()
        site.server.shutdown()
        site.server.server_close()


@pytest.fixture
def lybic(site_of: Callable[[], Site]) -> Site:
    """The one that screenshots may come from."""
    return site_of()


@pytest.fixture
def elsewhere(site_of: Callable[[], Site]) -> Site:
    """Another service on this machine, which nobody should be able to reach through us."""
    site = site_of()
    site.shows(PNG)
    return site


@pytest.fixture
def fetch(lybic: Site, portal: Portal) -> Callable[[str], str]:
    fetcher = ScreenshotFetcher(portal.http, AllowedHosts([lybic.url], []))
    return lambda url: portal.call(fetcher.fetch, checked(url)).data_url


@pytest.fixture
def pictures(lybic: Site, portal: Portal) -> Pictures:
    fetcher = ScreenshotFetcher(portal.http, AllowedHosts([lybic.url], []))
    return Pictures(fetcher, uuid4(), None)


def refused(fetch: Callable[[str], str], url: str) -> str:
    with pytest.raises(SandboxError) as error:
        fetch(url)
    assert not isinstance(error.value, SandboxUnavailable)
    return error.value.message


# --- fetching -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("image/png", PNG),
        ("image/jpeg", JPEG),
        ("image/webp", WEBP),
        ("IMAGE/PNG; charset=binary", PNG),
    ],
)
def test_a_picture_is_fetched_once(
    lybic: Site, portal: Portal, pictures: Pictures, kind: str, body: bytes
) -> None:
    url = lybic.shows(body, kind)
    first = portal.call(pictures.get, url)
    assert first.data_url.startswith(f"data:{kind.partition(';')[0].lower()};base64,")
    assert portal.call(pictures.get, url) == first
    assert len(lybic.asked) == 1
    assert lybic.asked[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "spelling",
    [
        "http://127.0.0.1:{elsewhere}/page-0",
        "http://127.0.0.2:{lybic}/page-0",
        "http://localhost:{lybic}/page-0",
        "http://localhost.:{lybic}/page-0",
        "http://127.0.0.1.:{lybic}/page-0",
        "http://2130706433:{lybic}/page-0",
        "http://0x7f000001:{lybic}/page-0",
        "http://127.1:{lybic}/page-0",
        "http://[::ffff:127.0.0.1]:{lybic}/page-0",
        "https://127.0.0.1:{lybic}/page-0",
        "http://127.0.0.1:{elsewhere}/page-0#@127.0.0.1:{lybic}/",
        "http://127.0.0.1:{elsewhere}/page-0?@127.0.0.1:{lybic}/",
    ],
)
def test_nothing_else_is_asked(
    lybic: Site, elsewhere: Site, fetch: Callable[[str], str], spelling: str
) -> None:
    lybic.shows(PNG)
    url = spelling.format(lybic=lybic.port, elsewhere=elsewhere.port)
    assert "SCREENSHOT_ALLOWED_HOSTS" in refused(fetch, url)
    assert lybic.asked == elsewhere.asked == []


@pytest.mark.parametrize(
    "spelling",
    [
        "http://127.0.0.1:{lybic}@127.0.0.1:{elsewhere}/page-0",
        "http://user:password@127.0.0.1:{lybic}/page-0",
        "http://127.0.0.1:{lybic}\\@127.0.0.1:{elsewhere}/page-0",
        "http://127.0.0.1:{elsewhere}\\.127.0.0.1:{lybic}/page-0",
    ],
)
def test_neither_credentials_nor_backslashes(
    lybic: Site, elsewhere: Site, fetch: Callable[[str], str], spelling: str
) -> None:
    lybic.shows(PNG)
    refused(fetch, spelling.format(lybic=lybic.port, elsewhere=elsewhere.port))
    assert lybic.asked == elsewhere.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    lybic: Site, elsewhere: Site, fetch: Callable[[str], str], status: int
) -> None:
    url = lybic.shows(PNG, status=status, Location=f"{elsewhere.url}/page-0")
    assert str(status) in refused(fetch, url)
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", PNG),
        ("image/svg+xml", b"<svg/>"),
        ("image/gif", b"GIF89a"),
        ("application/octet-stream", PNG),
        ("", PNG),
        ("image/png", b"<html>secrets of the intranet</html>"),
        ("image/png", JPEG),
        ("image/webp", b"RIFF\x00\x00\x00\x00WAVE"),
        ("image/png", b""),
    ],
)
def test_what_is_no_picture(lybic: Site, fetch: Callable[[str], str], kind: str, body: bytes) -> None:
    message = refused(fetch, lybic.shows(body, kind))
    assert "image/" in message
    assert "secrets" not in message


def test_nothing_is_unpacked(lybic: Site, fetch: Callable[[str], str]) -> None:
    packed = lybic.shows(gzip.compress(PNG), **{"Content-Encoding": "gzip"})
    assert "no image/png" in refused(fetch, packed)


def test_too_large_by_its_own_account(lybic: Site, fetch: Callable[[str], str]) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "image/png")
        handler.send_header("Content-Length", str(LARGEST_BYTES + 1))
        handler.end_headers()
        lybic.over.wait()  # not a byte of it

    lybic.pages["/large"] = answer
    assert "larger" in refused(fetch, f"{lybic.url}/large")


def test_too_large_without_saying_so(lybic: Site, fetch: Callable[[str], str]) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "image/png")
        handler.end_headers()
        handler.wfile.write(PNG.ljust(LARGEST_BYTES + 1))
        lybic.over.wait()  # nor is its end waited for

    lybic.pages["/large"] = answer
    assert "larger" in refused(fetch, f"{lybic.url}/large")


def test_a_picture_that_drips_is_given_up(
    lybic: Site, fetch: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "image/png")
        handler.end_headers()
        while not lybic.over.wait(0.02):
            handler.wfile.write(b".")

    monkeypatch.setattr(screenshots, "FETCH_SECONDS", 0.3)
    lybic.pages["/drip"] = drip
    with pytest.raises(SandboxUnavailable):
        fetch(f"{lybic.url}/drip")
    lybic.over.set()


# --- observing ------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(lybic: Site, portal: Portal, pictures: Pictures) -> LybicSandbox:
    key = SecretStr(KEY)
    credentials = LybicCredentials(api_key=key, org_id="org", endpoint=lybic.url)
    service = SandboxService(portal.http, credentials, 5)
    return LybicSandbox(
        service,
        SandboxInfo(sandbox_id="box"),
        LybicSettings(),
        stop=Stop(math.inf),
        pictures=pictures,
        secret=key,
    )


HOSTILE = {
    "script": "javascript:alert(1)",
    "file": "file:///etc/passwd",
    "data": "data:image/png;base64,iVBORw0KGgo=",
    "long": "https://a.example/" + LONGEST_URL * "a",
    "endless": "https://a.example/" + 10_000_000 * "a",
    "NUL": "https://a.example/\x00",
    "credentials": "https://user:password@a.example/1.png",
    "the key": f"https://a.example/1.png?key={KEY}",
}


def preview(lybic: Site, screenshot: str) -> None:
    lybic.says("/api/orgs/org/sandboxes/box/preview", {"screenShot": screenshot, "cursorPosition": None})


@pytest.mark.parametrize("screenshot", HOSTILE.values(), ids=HOSTILE)
def test_no_such_address_is_ever_kept(
    lybic: Site, portal: Portal, sandbox: LybicSandbox, screenshot: str
) -> None:
    preview(lybic, screenshot)
    with pytest.raises(SandboxError) as error:
        portal.call(sandbox.observe)
    assert len(error.value.message) < 200
    assert KEY not in error.value.message


@pytest.mark.parametrize("screenshot", HOSTILE.values(), ids=HOSTILE)
def test_it_does_not_undo_the_action_that_it_came_with(
    lybic: Site, portal: Portal, sandbox: LybicSandbox, screenshot: str
) -> None:
    lybic.says("/api/orgs/org/sandboxes/box/actions/execute", {"screenShot": screenshot, "actionResult": {}})
    act = partial(sandbox.act, [{"type": "keyboard:hotkey", "keys": "a"}], look=True)
    assert portal.call(act) is None
    assert len(lybic.asked) == 1


def test_an_ordinary_address_is_kept_as_it_is(lybic: Site, portal: Portal, sandbox: LybicSandbox) -> None:
    preview(lybic, "https://pictures.example.com/1.webp?X-Amz-Signature=0f%2F")
    assert (
        portal.call(sandbox.observe).screenshot == "https://pictures.example.com/1.webp?X-Amz-Signature=0f%2F"
    )


# --- showing a model --------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A model whose endpoint is a site, and which may fetch from another one."""

    model: OpenAIModel
    endpoint: Site
    portal: Portal

    def answer(self, messages: Sequence[Message]) -> Answer:
        return self.portal.call(self.model.answer, messages)

    def shown(self) -> list[Any]:
        """What the last request showed the model, in order."""
        return [message["content"] for message in json.loads(self.endpoint.asked[-1][2])["messages"]]


def completion(content: str, **more: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}


@pytest.fixture
def scene_of(site_of: Callable[[], Site], portal: Portal, pictures: Pictures) -> Callable[..., Scene]:
    def make(image: Literal["auto", "url", "data"] = "auto") -> Scene:
        endpoint = site_of()
        endpoint.says("/chat/completions", completion("Action: wait()"))
        asked, settings = Endpoint("m", endpoint.url, SecretStr(KEY)), ModelSettings(image=image)
        model = OpenAIModel(
            asked,
            settings,
            completions=Completions(portal.http, settings.timeout_seconds),
            stop=Stop(math.inf),
            pictures=pictures,
        )
        return Scene(model, endpoint, portal)

    return make


def picture(url: str) -> Message:
    return Message("user", screenshot=url)


def test_an_older_picture_that_may_not_be_fetched_is_gone(
    lybic: Site, elsewhere: Site, scene_of: Callable[..., Scene]
) -> None:
    scene = scene_of()
    older = [picture(f"{elsewhere.url}/page-0"), picture("javascript:alert(1)")]
    scene.answer([*older, picture(lybic.shows(WEBP, "image/webp"))])
    *gone, newest = scene.shown()
    assert gone == [SCREENSHOT_GONE] * 2
    assert newest[0]["image_url"]["url"].startswith("data:image/webp;base64,")
    assert elsewhere.asked == []


@pytest.mark.parametrize("image", ["auto", "data"])
def test_the_newest_picture_may_not_be_missing(
    elsewhere: Site, scene_of: Callable[..., Scene], image: str
) -> None:
    scene = scene_of(image)
    with pytest.raises(SandboxError, match="SCREENSHOT_ALLOWED_HOSTS"):
        scene.answer([picture(f"{elsewhere.url}/page-0")])
    assert elsewhere.asked == scene.endpoint.asked == []


def test_a_url_that_the_provider_fetches_is_not_asked_by_us(
    elsewhere: Site, scene_of: Callable[..., Scene]
) -> None:
    scene = scene_of("url")
    url = f"{elsewhere.url}/page-0?a=%2F#b"
    scene.answer([picture(url)])
    assert scene.shown() == [[{"type": "image_url", "image_url": {"url": url}}]]
    assert elsewhere.asked == []


@pytest.mark.parametrize("screenshot", [HOSTILE["script"], HOSTILE["long"], HOSTILE["credentials"]])
def test_but_it_is_a_url_of_the_web(scene_of: Callable[..., Scene], screenshot: str) -> None:
    scene = scene_of("url")
    with pytest.raises(SandboxError, match="no plain http or https URL"):
        scene.answer([picture(screenshot)])
    assert scene.endpoint.asked == []


def test_an_endpoint_that_repeats_the_key_in_its_answer(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    said = completion(f"Thought: {KEY}\nAction: wait()", reasoning_content=f"so {KEY} it is")
    scene.endpoint.says("/chat/completions", said)
    answer = scene.answer([Message("user", "hello")])
    assert scene.endpoint.asked[-1][1]["authorization"] == f"Bearer {KEY}"
    assert (answer.text, answer.reasoning) == ("Thought: [redacted]\nAction: wait()", "so [redacted] it is")


@pytest.mark.parametrize("status", [400, 500])
def test_an_endpoint_that_repeats_the_key_in_its_error(
    scene_of: Callable[..., Scene], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    scene = scene_of()
    error = {"message": f"the key {KEY} is too long", "code": KEY, "type": KEY, "param": KEY}
    scene.endpoint.says("/chat/completions", {"error": error}, status=status)
    with pytest.raises(ModelError) as refusal:
        scene.answer([Message("user", "hello")])
    assert "[redacted] is too long" in refusal.value.message
    assert KEY not in f"{refusal.value.message} {refusal.value.details}"
