"""Screenshots on their way to the model: as URLs, or fetched and sent as data URLs."""

import base64
import ipaddress
from collections import OrderedDict
from urllib.parse import urlsplit

import httpx

from shared.errors import SandboxError, SandboxUnavailable
from worker.retries import FETCH_SECONDS

LARGEST_BYTES = 10 * 1024 * 1024
KEPT = 8


def is_local(url: str) -> bool:
    """Whether the URL's host can only be reached from near it: a private address or a bare name."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


class ScreenshotFetcher:
    """Fetches pictures for one run and keeps the last few: each is sent to the model several times."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._kept: OrderedDict[str, str] = OrderedDict()

    async def data_url(self, url: str) -> str:
        """The picture as a data URL. Raises `SandboxError`, or `SandboxUnavailable` if it may come later."""
        if url not in self._kept:
            self._kept[url] = await self._fetch(url)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(url)
        return self._kept[url]

    async def _fetch(self, url: str) -> str:
        try:
            async with self._http.stream("GET", url, timeout=FETCH_SECONDS) as response:
                kind = _image_type(response)
                body = await _bounded(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SandboxUnavailable(f"the screenshot can't be fetched ({type(error).__name__})") from None
        return f"data:{kind};base64,{base64.b64encode(body).decode()}"


def _image_type(response: httpx.Response) -> str:
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise SandboxUnavailable(f"the screenshot can't be fetched ({response.status_code})")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code != httpx.codes.OK or not kind.startswith("image/"):
        raise SandboxError(f"the screenshot can't be fetched ({response.status_code} {kind})")
    return str(kind)


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > LARGEST_BYTES:
            raise SandboxError(f"the screenshot is larger than {LARGEST_BYTES} bytes")
    return bytes(body)
