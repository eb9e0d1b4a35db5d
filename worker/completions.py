"""Chat completions of an OpenAI-compatible endpoint, over the HTTP client that all runs share.

Address and headers are those of the `openai` package's client. The call is not: that walks through every
message of every request by its types, copies each request through several models, and makes models of
answers that it has not validated, all of which took a third of a worker's CPU (docs/performance.md).
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import httpx
from openai import AsyncOpenAI
from pydantic import BaseModel, Field, SecretStr

from shared.errors import CredentialsRejected, ModelError, ModelUnavailable
from shared.schemas import JobOptions, Usage
from shared.secrets import clean, redact
from shared.settings import ModelSettings, normal_url

LARGEST_BYTES = 4 * 1024 * 1024
LONGEST_MESSAGE = 500
MOST_ENDPOINTS = 64
MOST_TOKENS = 10_000_000  # of one answer; more is nonsense
NO_COMPLETION = "the model's endpoint answered with something that is no completion"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked, by which name, and with which key."""

    name: str
    base_url: str
    key: SecretStr

    def kept(self, said: object, longest: int) -> str:
        """What may be kept of the endpoint's words: it was told the key, and might repeat it."""
        return clean(redact(said, [self.key]), longest) if isinstance(said, str) else ""


def endpoints(options: JobOptions, key: SecretStr, settings: ModelSettings) -> list[Endpoint]:
    """The model that a job asks, and the one that is asked where that does not answer."""
    first = Endpoint(options.model_name, options.model_base_url, key)
    if settings.fallback_name is None:
        return [first]
    base_url = normal_url(settings.fallback_endpoint or settings.endpoint)
    # A key goes to the endpoint that it was given for, and to no other.
    own = settings.fallback_api_key or (
        settings.api_key if base_url == normal_url(settings.endpoint) else None
    )
    return [first, Endpoint(settings.fallback_name, base_url, own)] if own else [first]


class Message(BaseModel):
    """What the model said."""

    content: str | None = None
    reasoning_content: Any = None


class Choice(BaseModel):
    """One answer of those that were asked for."""

    message: Message


class Completion(BaseModel):
    """What is read of an endpoint's answer. Some leave out, or add, what others have."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Any = None

    @property
    def message(self) -> Message:
        """The one answer."""
        return self.choices[0].message

    @property
    def used(self) -> Usage:
        """What is no number counts as none."""
        used = self.usage if isinstance(self.usage, dict) else {}
        return Usage(
            model_calls=1,
            input_tokens=_count(used.get("prompt_tokens")),
            output_tokens=_count(used.get("completion_tokens")),
        )


def _count(tokens: object) -> int:
    return min(max(tokens, 0), MOST_TOKENS) if isinstance(tokens, int) else 0


class Completions:
    """Asks endpoints, for all runs of a process."""

    def __init__(self, http: httpx.AsyncClient, timeout_seconds: float) -> None:
        self._http = http
        self._timeout_seconds = timeout_seconds
        self._address = lru_cache(MOST_ENDPOINTS)(self._made)
        """Where requests go, with which headers."""

    async def ask(self, endpoint: Endpoint, body: Mapping[str, Any]) -> Completion:
        """The endpoint's answer. Raises `ModelUnavailable`, `ModelError` and `CredentialsRejected`."""
        url, headers = self._address(endpoint)
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._http.stream(
                    "POST", url, content=json.dumps(body).encode(), headers=headers
                ) as response,
            ):
                content = await _read(response)
        except (httpx.TimeoutException, TimeoutError):
            raise ModelUnavailable("the model did not answer in time") from None
        except httpx.HTTPError:
            raise ModelUnavailable("the model's endpoint is out of reach") from None
        except UnicodeEncodeError:
            raise CredentialsRejected("the model's API key holds what no header can") from None
        if not response.is_success:
            raise _refusal(endpoint, response, content)
        try:
            return Completion.model_validate(json.loads(content))
        except (ValueError, RecursionError):
            raise ModelUnavailable(NO_COMPLETION) from None

    def _made(self, endpoint: Endpoint) -> tuple[str, dict[str, str]]:
        client = AsyncOpenAI(
            api_key=endpoint.key.get_secret_value(),
            base_url=endpoint.base_url,
            http_client=self._http,  # type: ignore[arg-type]  # or it makes one, which takes long
        )
        headers = {**client.default_headers, **client.auth_headers}
        sent = {name: value for name, value in headers.items() if isinstance(value, str)}  # others are unset
        return str(client.base_url).rstrip("/") + "/chat/completions", sent


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > LARGEST_BYTES:
            raise ModelUnavailable(f"the model's endpoint answered with more than {LARGEST_BYTES} bytes")
    return bytes(content)


def _refusal(endpoint: Endpoint, response: httpx.Response, content: bytes) -> Exception:
    status = response.status_code
    if status in {401, 403}:
        return CredentialsRejected("the model's endpoint refused the API key", status=status)
    said = endpoint.kept(_said(content), LONGEST_MESSAGE)
    message = f"the model's endpoint answered {status}: {said}"
    if status in {408, 409, 429} or status >= 500:
        return ModelUnavailable(message, retry_after=_retry_after(response))
    return ModelError(message)


def _said(content: bytes) -> str:
    """The message of an error, or whatever else it is."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return content.decode(errors="replace")


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(float(response.headers["retry-after"]), 0)
    except (KeyError, ValueError):
        return None
