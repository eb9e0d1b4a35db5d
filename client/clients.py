"""The client: `Client` for programs that wait, `AsyncClient` for asyncio."""

import asyncio
import inspect
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, get_args

import httpx
from httpx_sse import EventSource

from client import calls
from client.calls import Call, Page, TaskOptions
from client.errors import ClientError, ConnectionFailed, InvalidSetting
from client.following import SILENCE_SECONDS, Follower, Patience, Polling, translated
from client.models import Event, Task

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Failure = httpx.RequestError | ClientError
FAILURES = (httpx.RequestError, ClientError)

DEFAULT_URL = "http://localhost:5000"
DIRECT = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
"""A proxy of the environment can't reach a server on this machine."""
STATE = [name for name in Task.model_fields if name != "llm_context"]
"""What `wait` asks for: all but the conversation, which may be long."""


class _Connection:
    """What both clients know of the server, and how they ask it."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 60.0,
    ) -> None:
        url = _address(base_url or os.environ.get("LYBIC_GUIAGENT_URL") or DEFAULT_URL)
        key = _key(api_key or os.environ.get("LYBIC_GUIAGENT_API_KEY") or "")
        self.url = str(url.copy_with(userinfo=b"")).rstrip("/")
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": httpx.Headers({"Authorization": f"Bearer {key}"} if key else {}),  # shown without it
            "timeout": timeout,
            "limits": httpx.Limits(max_connections=None),  # each stream that is followed holds one
            "verify": url.scheme == "https",  # without TLS, reading all certificates would be for nothing
            "mounts": DIRECT,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": call.path,
            "params": list(call.query),
            "json": call.body,
            "headers": call.headers,
            "timeout": max(self._timeout, call.seconds),
        }

    def _stream(self, follower: Follower) -> dict[str, Any]:
        return {
            "method": "GET",
            "url": follower.path,
            "headers": follower.headers,
            "timeout": httpx.Timeout(self._timeout, read=max(self._timeout, SILENCE_SECONDS)),
        }

    def _follower(self, task_id: str, after: int) -> Follower:
        return Follower(task_id, after, self._patience())

    def _patience(self) -> Patience:
        return Patience(self._retry_seconds)

    def _pause(self, patience: Patience, error: Failure, *, repeatable: bool = True) -> float:
        """Seconds until the next attempt. Raises the error, as one of ours, if there is to be none."""
        ours = error if isinstance(error, ClientError) else translated(error, self.url)
        pause = patience.pause(ours, repeatable=repeatable)
        log.info("%s; trying again", ours.message)
        return pause

    def _ended_early(self) -> ConnectionFailed:
        return ConnectionFailed(f"{self.url} ended the stream before the task's end", sent=True)


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSetting(f"the server's URL can't be read: {error}") from None
    if address.scheme not in {"http", "https"} or not address.host:
        raise InvalidSetting("the server's URL must be like http://localhost:5000")
    return address


def _key(key: str) -> str:
    # Refused here, as httpx would repeat it in its error.
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InvalidSetting("an API key has printable ASCII characters only, and no blanks")
    return key


# --- calls as methods -----------------------------------------------------------------------------------


def _described(method: F, call: Callable[..., Any], returns: Callable[[Any], Any]) -> F:
    """The method with the name, the help and the parameters of the call."""
    update_wrapper(method, call)
    signature = inspect.signature(call)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    (answer,) = get_args(signature.return_annotation)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[me, *signature.parameters.values()], return_annotation=returns(answer)
    )
    return method


def _blocking(call: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(call(*args, **kwargs))

    return _described(method, call, lambda answer: answer)


def _awaiting(call: Callable[P, Call[T]]) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(call(*args, **kwargs))

    return _described(method, call, lambda answer: answer)


def _paging(call: Callable[P, Call[Page[T]]]) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        following: Call[Page[T]] | None = call(*args, **kwargs)
        while following is not None:
            page = self.send(following)
            yield from page.items
            following = page.following

    return _described(method, call, lambda page: Iterator[get_args(page)])  # type: ignore[misc]


def _apaging(call: Callable[P, Call[Page[T]]]) -> "Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]":
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        following: Call[Page[T]] | None = call(*args, **kwargs)
        while following is not None:
            page = await self.send(following)
            for item in page.items:
                yield item
            following = page.following

    return _described(method, call, lambda page: AsyncIterator[get_args(page)])  # type: ignore[misc]


class Client(_Connection):
    """A Lybic GUI Agent server, for programs that wait. Threads may share it.

    `base_url` and `api_key` are by default those of LYBIC_GUIAGENT_URL and LYBIC_GUIAGENT_API_KEY. A request
    that is not answered for `timeout` seconds has failed. What fails in passing (the connection, 429, 503) is
    tried again for `retry_seconds`, where that can't do anything twice. Methods raise `ClientError`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 60.0,
    ) -> None:
        super().__init__(base_url, api_key=api_key, timeout=timeout, retry_seconds=retry_seconds)
        self._http = httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Streams that are being followed break."""
        self._http.close()

    submit = _blocking(calls.submit)
    submit_many = _blocking(calls.submit_many)
    status = _blocking(calls.status)
    tasks = _paging(calls.tasks)
    active = _blocking(calls.active)
    steps = _paging(calls.steps)
    webhooks = _blocking(calls.webhooks)
    report = _blocking(calls.report)
    screenshot = _blocking(calls.screenshot)
    preview = _blocking(calls.preview)
    cancel = _blocking(calls.cancel)
    takeover = _blocking(calls.takeover)
    resume = _blocking(calls.resume)
    create_sandbox = _blocking(calls.create_sandbox)
    sandboxes = _blocking(calls.sandboxes)
    delete_sandbox = _blocking(calls.delete_sandbox)
    info = _blocking(calls.info)
    health = _blocking(calls.health)
    ready = _blocking(calls.ready)

    def run(
        self, instruction: str, *, idempotency_key: str | None = None, **options: Unpack[TaskOptions]
    ) -> Iterator[Event]:
        """Submits a task, as `submit` does. Returns its events as they come; leaving them ends nothing."""
        return self.events(self.submit(instruction, idempotency_key=idempotency_key, **options))

    def events(self, task_id: str, *, after: int = 0) -> Iterator[Event]:
        """A task's events after the number `after`, each once, in order; those to come, too, until the last.

        A connection that breaks is made again. While a task waits for a human it is followed all the same.
        """
        follower = self._follower(task_id, after)
        while not follower.over:
            failure: Failure = self._ended_early()
            try:
                yield from self._attach(follower)
            except FAILURES as error:
                failure = error
            if not follower.over:
                time.sleep(self._pause(follower.patience, failure))

    def _attach(self, follower: Follower) -> Iterator[Event]:
        with self._http.stream(**self._stream(follower)) as response:
            if not response.is_success:
                response.read()
            if not follower.attached(response):
                return
            for sent in EventSource(response).iter_sse():
                if (event := follower.take(sent)) is not None:
                    yield event
                if follower.over:
                    return

    def wait(self, task_id: str, *, timeout: float | None = None, until_paused: bool = False) -> Task:
        """The task once it has ended, or, with `until_paused`, once it waits for a human.

        Raises `WaitTimeout` after `timeout` seconds; the task goes on.
        """
        polling = Polling(timeout, until_paused=until_paused)
        while (pause := polling.pause(task := self.status(task_id, fields=STATE))) is not None:
            time.sleep(pause)
        return task

    def send(self, call: Call[T]) -> T:
        """Makes a call; again where that may help and does no harm. Raises `ClientError`."""
        patience = self._patience()
        while True:
            try:
                return call.answer(self._http.request(**self._request(call)))
            except FAILURES as error:
                time.sleep(self._pause(patience, error, repeatable=call.repeatable))


class AsyncClient(_Connection):
    """The same for asyncio, with the same parameters and methods.

    Take events with `async for`. Whoever leaves them early should close them: `contextlib.aclosing`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 60.0,
    ) -> None:
        super().__init__(base_url, api_key=api_key, timeout=timeout, retry_seconds=retry_seconds)
        self._http = httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections. Streams that are being followed break."""
        await self._http.aclose()

    submit = _awaiting(calls.submit)
    submit_many = _awaiting(calls.submit_many)
    status = _awaiting(calls.status)
    tasks = _apaging(calls.tasks)
    active = _awaiting(calls.active)
    steps = _apaging(calls.steps)
    webhooks = _awaiting(calls.webhooks)
    report = _awaiting(calls.report)
    screenshot = _awaiting(calls.screenshot)
    preview = _awaiting(calls.preview)
    cancel = _awaiting(calls.cancel)
    takeover = _awaiting(calls.takeover)
    resume = _awaiting(calls.resume)
    create_sandbox = _awaiting(calls.create_sandbox)
    sandboxes = _awaiting(calls.sandboxes)
    delete_sandbox = _awaiting(calls.delete_sandbox)
    info = _awaiting(calls.info)
    health = _awaiting(calls.health)
    ready = _awaiting(calls.ready)

    async def run(
        self, instruction: str, *, idempotency_key: str | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Event]:
        """Submits a task, once the first event is asked for, and yields its events as they come."""
        task_id = await self.submit(instruction, idempotency_key=idempotency_key, **options)
        async for event in self.events(task_id):
            yield event

    async def events(self, task_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """A task's events after the number `after`, each once, in order; those to come, too, until the last.

        A connection that breaks is made again. While a task waits for a human it is followed all the same.
        """
        follower = self._follower(task_id, after)
        while not follower.over:
            failure: Failure = self._ended_early()
            try:
                async for event in self._attach(follower):
                    yield event
            except FAILURES as error:
                failure = error
            if not follower.over:
                await asyncio.sleep(self._pause(follower.patience, failure))

    async def _attach(self, follower: Follower) -> AsyncIterator[Event]:
        async with self._http.stream(**self._stream(follower)) as response:
            if not response.is_success:
                await response.aread()
            if not follower.attached(response):
                return
            async for sent in EventSource(response).aiter_sse():
                if (event := follower.take(sent)) is not None:
                    yield event
                if follower.over:
                    return

    async def wait(self, task_id: str, *, timeout: float | None = None, until_paused: bool = False) -> Task:
        """The task once it has ended, or, with `until_paused`, once it waits for a human.

        Raises `WaitTimeout` after `timeout` seconds; the task goes on.
        """
        polling = Polling(timeout, until_paused=until_paused)
        while (pause := polling.pause(task := await self.status(task_id, fields=STATE))) is not None:
            await asyncio.sleep(pause)
        return task

    async def send(self, call: Call[T]) -> T:
        """Makes a call; again where that may help and does no harm. Raises `ClientError`."""
        patience = self._patience()
        while True:
            try:
                return call.answer(await self._http.request(**self._request(call)))
            except FAILURES as error:
                await asyncio.sleep(self._pause(patience, error, repeatable=call.repeatable))
