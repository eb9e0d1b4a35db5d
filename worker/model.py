"""What a run asks the model: its messages with their screenshots, and the fallback."""

import logging
import time
from collections.abc import Sequence
from typing import cast

import httpx
from openai.types.chat import ChatCompletionMessageParam

from shared.addresses import is_local
from shared.conversation import Message
from shared.errors import ModelUnavailable, SandboxError
from shared.metrics import timed
from shared.profiles import profile_of
from shared.screenshots import checked
from shared.settings import ModelSettings
from shared.tracing import span
from worker.completions import Completion, Completions, Endpoint
from worker.metrics import MODEL_TIME, TOKENS
from worker.pictures import Pictures
from worker.protocols import Answer
from worker.retries import retrying
from worker.stop import Stop

log = logging.getLogger(__name__)

LONGEST_ANSWER = 100_000
SCREENSHOT_GONE = "(this screenshot is no longer available)"


class OpenAIModel:
    """One run's access to a model. A fallback must write the job's dialect."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ModelSettings,
        *,
        completions: Completions,
        stop: Stop,
        pictures: Pictures,
        fallback: "OpenAIModel | None" = None,
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._stop = stop
        self._pictures = pictures
        self._fallback = fallback
        self._completions = completions
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
            text=self._endpoint.kept(message.content, LONGEST_ANSWER),
            usage=usage,
            milliseconds=elapsed,
            reasoning=self._endpoint.kept(message.reasoning_content, LONGEST_ANSWER),
        )

    async def _ask(self, messages: Sequence[Message]) -> Completion:
        rendered = [await self._rendered(message, newest=message is messages[-1]) for message in messages]

        async def call() -> Completion:
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

    async def _complete(self, messages: list[ChatCompletionMessageParam]) -> Completion:
        body = {
            "model": self._endpoint.name,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._settings.max_output_tokens,
            **self._extra,
        }
        return await self._completions.ask(self._endpoint, body)
