"""Screenshots as Lybic names them: their addresses checked, their bytes fetched.

The sandbox service names their addresses, and its text is hostile: it might have us fetch anything that this
machine can reach. An address is parsed once, by the client that fetches it, so that what is checked and what
is asked can't differ.
"""

import asyncio
import base64
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import httpx
from pydantic import SecretStr

from shared.addresses import plain_url
from shared.errors import ConfigurationError, SandboxError, SandboxUnavailable
from shared.pictures import MAGIC, kind_of
from shared.secrets import redact

FETCH_SECONDS = 15.0
LARGEST_BYTES = 10 * 1024 * 1024
LONGEST_URL = 8192  # signed ones take one or two thousand characters
LONGEST_SHOWN = 100
REMEMBERED = 256
"""Addresses: each is sent to the model several times."""
PORTS = {"http": 80, "https": 443}
LYBIC = ".lybic.cn"

_ENTRY = re.compile(r"(\.?[\w-][\w.-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)


@lru_cache(REMEMBERED)
def checked(url: str) -> httpx.URL:
    """A screenshot's address, read. Raises `SandboxError` unless it is a plain URL of the web."""
    with suppress(ValueError):
        if len(url) <= LONGEST_URL:
            return plain_url(url)
    raise SandboxError("the screenshot's address is no plain http or https URL")


def keyless(url: str, secret: SecretStr) -> httpx.URL:
    """The same, and the API key does not stand in it, which Lybic was told and might repeat."""
    address = checked(url)
    if redact(url, [secret]) != url:
        raise SandboxError("the screenshot's address holds the API key")
    return address


@dataclass(frozen=True, slots=True)
class _Place:
    """A host, or all below it if it begins with a dot. No port is the scheme's own."""

    schemes: frozenset[str]
    host: str
    port: int | None

    def holds(self, address: httpx.URL) -> bool:
        host, own = address.raw_host.decode(), PORTS[address.scheme]
        port = own if address.port is None else address.port
        named = host.endswith(self.host) if self.host.startswith(".") else host == self.host
        return named and address.scheme in self.schemes and port == (self.port or own)

    def sources(self) -> Iterator[str]:
        host = f"*{self.host}" if self.host.startswith(".") else self.host
        authority = f"[{host}]" if ":" in host else host
        for scheme in sorted(self.schemes):
            yield f"{scheme}://{authority}{f':{self.port}' if self.port else ''}"


class AllowedHosts:
    """Where screenshots may be fetched from. Raises `ConfigurationError` for settings that can't be read.

    That is each Lybic endpoint with its scheme and port; where one is in Lybic's own domain, the rest of that
    too, by https alone, whose certificates make a name that points inwards useless; and the hosts of
    SCREENSHOT_ALLOWED_HOSTS, by http only if an endpoint is reached so.
    """

    def __init__(self, endpoints: Iterable[str], further: Iterable[str]) -> None:
        self._places = list(_endpoints(endpoints))
        schemes = frozenset({"https"}).union(*(place.schemes for place in self._places))
        if any(place.host.endswith(LYBIC) for place in self._places):
            self._places.append(_Place(frozenset({"https"}), LYBIC, None))
        for entry in further:
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise ConfigurationError(f"SCREENSHOT_ALLOWED_HOSTS: neither host nor host:port: {entry}")
            host, port = found[1].strip("[]").lower(), int(found[2] or 0)
            self._places.append(_Place(schemes, host, port or None))

    @property
    def sources(self) -> list[str]:
        """The same as the policy of a page names them."""
        return [source for place in self._places for source in place.sources()]

    def check(self, address: httpx.URL) -> None:
        """Raises `SandboxError` if nothing is to be fetched from there."""
        if any(place.holds(address) for place in self._places):
            return
        where = f"{address.scheme}://{address.netloc.decode()[:LONGEST_SHOWN]}"
        raise SandboxError(
            f"screenshots are not fetched from {where}: it is no Lybic endpoint and not allowed by "
            "SCREENSHOT_ALLOWED_HOSTS"
        )


def _endpoints(urls: Iterable[str]) -> Iterator[_Place]:
    for url in urls:
        try:
            endpoint = httpx.URL(url)
        except httpx.InvalidURL:
            raise ConfigurationError(
                "LYBIC_API_ENDPOINT or LYBIC_ALLOWED_ENDPOINTS: one of them is no URL"
            ) from None
        yield _Place(frozenset({endpoint.scheme}), endpoint.raw_host.decode(), endpoint.port)


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of a screenshot, and the type, `image/…`, that they are."""

    kind: str
    data: bytes

    @property
    def data_url(self) -> str:
        """The picture within a URL."""
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode()}"


def picture(data: bytes) -> Picture:
    """The bytes as a picture of the type that they begin like. Raises `SandboxError` if that is none."""
    kind = kind_of(data)
    if kind is None:
        raise SandboxError(f"the screenshot is none of {', '.join(MAGIC)}")
    return Picture(kind, data)


class ScreenshotFetcher:
    """Fetches pictures from where that is allowed."""

    def __init__(self, http: httpx.AsyncClient, allowed: AllowedHosts) -> None:
        self._http = http
        self._allowed = allowed

    async def fetch(self, address: httpx.URL) -> Picture:
        """The picture. Raises `SandboxError`, or `SandboxUnavailable` if it may come later."""
        self._allowed.check(address)
        # Not compressed: some kilobytes could become gigabytes before they were counted.
        headers = {"Accept": ", ".join(MAGIC), "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS),
                self._http.stream("GET", address, headers=headers, follow_redirects=False) as response,
            ):
                kind = _image_type(response)
                body = await _bounded(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            raise SandboxUnavailable(f"the screenshot can't be fetched ({type(error).__name__})") from None
        if kind_of(body) != kind:
            raise SandboxError(f"the screenshot is no {kind}, though it is called so")
        return Picture(kind, body)


def _image_type(response: httpx.Response) -> str:
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise SandboxUnavailable(f"the screenshot can't be fetched ({response.status_code})")
    if response.status_code != httpx.codes.OK:  # redirects among them: whose address would that be?
        raise SandboxError(f"the screenshot can't be fetched ({response.status_code})")
    kind = str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
    if kind not in MAGIC:
        raise SandboxError(f"the screenshot is none of {', '.join(MAGIC)}")
    return kind


async def _bounded(response: httpx.Response) -> bytes:
    too_large = SandboxError(f"the screenshot is larger than {LARGEST_BYTES} bytes")
    if int(response.headers.get("content-length", 0)) > LARGEST_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > LARGEST_BYTES:
            raise too_large
    return bytes(body)
