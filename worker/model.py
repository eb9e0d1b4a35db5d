"""The edge to the model: any OpenAI-compatible endpoint, through the `openai` package."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, cast

import httpx
import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field, SecretStr

from shared.addresses import is_local
from shared.conversation import Message
from shared.errors import CredentialsRejected, ModelError, ModelUnavailable, SandboxError
from shared.metrics import timed
from shared.profiles import profile_of
from shared.schemas import JobOptions, Usage
from shared.secrets import clean, redact
from shared.settings import ModelSettings, normal_url
from shared.tracing import span
from worker.metrics import MODEL_TIME, TOKENS
from worker.pictures import Pictures
from worker.protocols import Answer
from worker.retries import retrying
from worker.screenshots import checked
from worker.stop import Stop

log = logging.getLogger(__name__)

LONGEST_ANSWER = 100_000
LONGEST_MESSAGE = 500
MOST_CLIENTS = 64
MOST_TOKENS = 10_000_000  # of one answer; more is nonsense
SCREENSHOT_GONE = "(this screenshot is no longer available)"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked, by which name, and with which key."""

    name: str
    base_url: str
    key: SecretStr


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


class Clients:
    """The `openai` package's clients, one for each endpoint: to make one for each run is not for nothing."""

    def __init__(self, http: httpx.AsyncClient, settings: ModelSettings) -> None:
        self._http = http
        self._timeout = settings.timeout_seconds
        self.get = lru_cache(MOST_CLIENTS)(self._make)

    def _make(self, endpoint: Endpoint) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=endpoint.key.get_secret_value(),
            base_url=endpoint.base_url,
            http_client=self._http,  # type: ignore[arg-type]  # it takes httpx's clients as well as httpx2's
            timeout=self._timeout,
            max_retries=0,
        )


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: Any = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    """What is read of an endpoint's answer. Some leave out, or add, what others have."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Any = None

    @property
    def message(self) -> _Message:
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


class OpenAIModel:
    """One run's access to a model. A fallback must write the job's dialect."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ModelSettings,
        *,
        client: AsyncOpenAI,
        stop: Stop,
        pictures: Pictures,
        fallback: "OpenAIModel | None" = None,
    ) -> None:
        self._key = endpoint.key
        self._name = endpoint.name
        self._settings = settings
        self._stop = stop
        self._pictures = pictures
        self._fallback = fallback
        self._client = client
        self._local = is_local(httpx.URL(endpoint.base_url))
        self._extra = profile_of(endpoint.name).extra_body

    async def answer(self, messages: Sequence[Message]) -> Answer:
        """What the model says next."""
        try:
            return await self._answer(messages)
        except ModelUnavailable as error:
            if self._fallback is None:
                raise
            log.warning("%s; the fallback is asked", error.message)
            return await self._fallback.answer(messages)

    async def _answer(self, messages: Sequence[Message]) -> Answer:
        began = time.monotonic()
        completion = await self._stop.wait_for(self._ask(messages))
        elapsed = round((time.monotonic() - began) * 1000)
        message, usage = completion.message, completion.used
        TOKENS.labels("input").inc(usage.input_tokens)
        TOKENS.labels("output").inc(usage.output_tokens)
        return Answer(
            text=self._kept(message.content, LONGEST_ANSWER),
            usage=usage,
            milliseconds=elapsed,
            reasoning=self._kept(message.reasoning_content, LONGEST_ANSWER),
        )

    def _kept(self, said: object, longest: int) -> str:
        """What may be kept of the endpoint's words: it was told the key, and might repeat it."""
        return clean(redact(said, [self._key]), longest) if isinstance(said, str) else ""

    async def _ask(self, messages: Sequence[Message]) -> _Completion:
        rendered = [await self._rendered(message, newest=message is messages[-1]) for message in messages]

        async def call() -> _Completion:
            with span("model"), timed(MODEL_TIME):
                return await self._complete(rendered)

        return await retrying(call)

    async def _rendered(self, message: Message, *, newest: bool) -> ChatCompletionMessageParam:
        if message.screenshot is None:
            return cast(ChatCompletionMessageParam, {"role": message.role, "content": message.text})
        try:
            url = await self._image(message.screenshot, message.picture)
        except SandboxError:
            if newest:
                raise
            return {"role": "user", "content": SCREENSHOT_GONE}
        return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}

    async def _image(self, url: str, name: str | None) -> str:
        how, address = self._settings.image, checked(url)
        if how == "url" or (how == "auto" and not self._local and not is_local(address)):
            return url
        return (await self._pictures.get(url, name)).data_url

    async def _complete(self, messages: list[ChatCompletionMessageParam]) -> _Completion:
        body = {
            "model": self._name,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._settings.max_output_tokens,
            **self._extra,
        }
        try:
            # Not by chat.completions.create: that walks through every message of every call, by its types, to
            # find names to translate, of which there are none; and it makes models of answers that it has
            # not validated. Both took a quarter of a worker's CPU.
            response = await self._client.post("/chat/completions", cast_to=httpx.Response, body=body)
        except openai.OpenAIError as error:
            raise self._translated(error) from None
        try:
            return _Completion.model_validate(json.loads(response.content))
        except (ValueError, RecursionError):
            message = "the model's endpoint answered with something that is no completion"
            raise ModelUnavailable(message) from None

    def _translated(self, error: openai.OpenAIError) -> Exception:
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return CredentialsRejected("the model's endpoint refused the API key", status=error.status_code)
        if isinstance(error, openai.APITimeoutError):
            return ModelUnavailable("the model did not answer in time")
        if isinstance(error, openai.APIConnectionError):
            return ModelUnavailable("the model's endpoint is out of reach")
        if not isinstance(error, openai.APIStatusError):
            return ModelUnavailable(f"the model's answer can't be read ({type(error).__name__})")
        said = self._kept(error.message, LONGEST_MESSAGE)
        message = f"the model's endpoint answered {error.status_code}: {said}"
        if error.status_code in {408, 409, 429} or error.status_code >= 500:
            return ModelUnavailable(message, retry_after=_retry_after(error))
        return ModelError(message)


def _count(tokens: object) -> int:
    return min(max(tokens, 0), MOST_TOKENS) if isinstance(tokens, int) else 0


def _retry_after(error: openai.APIStatusError) -> float | None:
    try:
        return max(float(error.response.headers["retry-after"]), 0)
    except (KeyError, ValueError):
        return None
