"""The edge to the models: which is asked, with what and with whose key, and what is made of the answer."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from shared.conversation import Message
from shared.errors import CredentialsRejected, ModelError, ModelUnavailable
from shared.portal import Portal
from shared.profiles import PROFILES, profile_of
from shared.schemas import JobOptions
from shared.screenshots import AllowedHosts, ScreenshotFetcher
from shared.settings import ModelSettings
from tests.integration.test_screenshots import Handler, Site, site_of
from worker import retries
from worker.completions import LARGEST_BYTES, Completions, endpoints
from worker.model import OpenAIModel
from worker.pictures import Pictures
from worker.protocols import Answer
from worker.stop import Stop

__all__ = ["site_of"]

ASK = (Message("system", "prompt"), Message("user", "go on"))
PATH = "/v1/chat/completions"
OWN, CALLERS, SPARE = "ark-own-key", "ark-callers-key", "ark-spare-key"
DOUBAO = "doubao-1-5-ui-tars-250428"


def completion(text: str = "Action: wait()", **message: object) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def answers(site: Site, text: str = "Action: wait()", **message: object) -> None:
    site.says(PATH, completion(text, **message))


def fails(site: Site, status: int, **headers: str) -> None:
    body = json.dumps({"error": {"message": "no", "type": "t", "code": "c"}}).encode()
    page = site.shows(body, "application/json", status=status, **headers)
    site.pages[PATH] = site.pages[page.removeprefix(site.url)]


def fails_first(site: Site, status: int, times: int) -> None:
    """So many failures, then an answer."""
    fails(site, status)
    failure = site.pages[PATH]
    answers(site)
    answer = site.pages[PATH]
    left = [times]

    def either(handler: Handler) -> None:
        left[0] -= 1
        (failure if left[0] >= 0 else answer)(handler)

    site.pages[PATH] = either


def hangs(site: Site) -> None:
    def hang(_: Handler) -> None:
        site.over.wait(20)

    site.pages[PATH] = hang


def drops(site: Site) -> None:
    site.pages[PATH] = lambda handler: handler.connection.close()


def bodies(site: Site) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in site.asked]


def keys(site: Site) -> set[str]:
    return {headers["authorization"] for _, headers, _ in site.asked}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def first(site_of: Callable[[], Site]) -> Site:
    return site_of()


@pytest.fixture
def second(site_of: Callable[[], Site]) -> Site:
    return site_of()


@dataclass
class Asked:
    """A job's model, for callers that wait for it."""

    model: OpenAIModel
    portal: Portal

    def answer(self, messages: Sequence[Message]) -> Answer:
        return self.portal.call(self.model.answer, messages)


Ask = Callable[..., Asked]


@pytest.fixture
def model_of(portal: Portal, first: Site, second: Site) -> Ask:
    """The model of a job, as the runner puts it together."""

    def made(name: str = DOUBAO, key: str = CALLERS, *, fallback: bool = True, **more: Any) -> Asked:
        spare = {
            "fallback_name": "general-vl",
            "fallback_endpoint": f"{second.url}/v1",
            "fallback_api_key": SPARE,
        }
        settings = ModelSettings.model_validate(
            {"api_key": OWN, "endpoint": f"{first.url}/v1", **(spare if fallback else {}), **more}
        )
        options = JobOptions(model_name=name, model_base_url=f"{first.url}/v1", keep_sandbox=False)
        model, completions = None, Completions(portal.http, settings.timeout_seconds)
        for endpoint in reversed(endpoints(options, SecretStr(key), settings)):
            model = OpenAIModel(
                endpoint,
                settings,
                completions=completions,
                stop=Stop(math.inf),
                pictures=Pictures(ScreenshotFetcher(portal.http, AllowedHosts([], [])), UUID(int=1), None),
                fallback=model,
            )
        assert model is not None
        return Asked(model, portal)

    return made


# --- the fallback ---------------------------------------------------------------------------------------


def test_the_fallback_is_left_alone_while_the_first_answers(model_of: Ask, first: Site, second: Site) -> None:
    answers(first, "Action: click()", reasoning_content="because")
    answer = model_of().answer(ASK)
    assert (answer.text, answer.reasoning) == ("Action: click()", "because")
    assert (answer.usage.model_calls, answer.usage.input_tokens, answer.usage.output_tokens) == (1, 100, 10)
    assert (len(first.asked), len(second.asked)) == (1, 0)


def test_an_error_that_passes_needs_no_fallback(model_of: Ask, first: Site, second: Site) -> None:
    fails_first(first, 500, retries.ATTEMPTS - 1)
    assert model_of().answer(ASK).text == "Action: wait()"
    assert (len(first.asked), len(second.asked)) == (retries.ATTEMPTS, 0)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_the_fallback_is_asked_after_all_retries(
    status: int, model_of: Ask, first: Site, second: Site
) -> None:
    fails(first, status, **{"Retry-After": "0.01"})
    answers(second, "Action: scroll()")
    answer = model_of().answer(ASK)
    assert answer.text == "Action: scroll()"
    assert (answer.usage.model_calls, answer.usage.tokens) == (1, 110)
    assert (len(first.asked), len(second.asked)) == (retries.ATTEMPTS, 1)
    assert [body["model"] for body in bodies(second)] == ["general-vl"]
    assert bodies(second)[0]["messages"] == bodies(first)[0]["messages"]


@pytest.mark.parametrize("trouble", [drops, hangs])
def test_a_silent_endpoint_is_unavailable(
    trouble: Callable[[Site], None], model_of: Ask, first: Site, second: Site
) -> None:
    trouble(first)
    answers(second)
    assert model_of(timeout_seconds=0.2).answer(ASK).text == "Action: wait()"
    assert len(first.asked) == retries.ATTEMPTS


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, ModelError), (404, ModelError), (401, CredentialsRejected), (403, CredentialsRejected)],
)
def test_a_request_that_is_refused_is_nobody_else_s(
    status: int, error: type[Exception], model_of: Ask, first: Site, second: Site
) -> None:
    fails(first, status)
    answers(second)
    with pytest.raises(error) as caught:
        model_of().answer(ASK)
    assert not isinstance(caught.value, ModelUnavailable)
    assert (len(first.asked), len(second.asked)) == (1, 0)


def test_when_both_fail_the_last_one_s_error_counts(model_of: Ask, first: Site, second: Site) -> None:
    fails(first, 500)
    fails(second, 401)
    with pytest.raises(CredentialsRejected):
        model_of().answer(ASK)
    fails(second, 503)
    with pytest.raises(ModelUnavailable, match="503"):
        model_of().answer(ASK)


def test_without_one_the_error_is_the_first_one_s(model_of: Ask, first: Site, second: Site) -> None:
    fails(first, 500)
    with pytest.raises(ModelUnavailable, match="500"):
        model_of(fallback=False).answer(ASK)
    assert not second.asked


# --- keys -----------------------------------------------------------------------------------------------


def test_each_key_goes_to_its_own_endpoint(model_of: Ask, first: Site, second: Site) -> None:
    fails(first, 500)
    answers(second, f"Thought: {SPARE}\nAction: wait()")
    answer = model_of().answer(ASK)
    assert SPARE not in answer.text
    assert keys(first) == {f"Bearer {CALLERS}"}
    assert keys(second) == {f"Bearer {SPARE}"}


def test_a_fallback_elsewhere_without_a_key_is_none(model_of: Ask, first: Site, second: Site) -> None:
    fails(first, 500)
    with pytest.raises(ModelUnavailable):
        model_of(fallback_api_key=None).answer(ASK)
    assert not second.asked


def test_a_fallback_at_our_own_endpoint_is_asked_with_our_own_key(model_of: Ask, first: Site) -> None:
    fails_first(first, 500, retries.ATTEMPTS)
    model_of(fallback_endpoint=None, fallback_api_key=None).answer(ASK)
    assert [body["model"] for body in bodies(first)][-2:] == [DOUBAO, "general-vl"]
    assert first.asked[-1][1]["authorization"] == f"Bearer {OWN}"


# --- profiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dialect", "thinks"),
    [
        (DOUBAO, "doubao", False),
        ("Doubao-Seed-1.6-vision", "doubao", False),
        ("ByteDance-Seed/UI-TARS-1.5-7B", "ui-tars-1.5", True),
        ("ui-tars-1-5-7b", "ui-tars-1.5", True),
        ("gpt-5", "doubao", True),
        ("ep-20250101-abcde", "doubao", True),
    ],
)
def test_a_model_s_name_tells_how_it_is_asked(
    name: str, dialect: str, thinks: bool, model_of: Ask, first: Site
) -> None:
    assert profile_of(name).dialect == dialect
    answers(first)
    model_of(name).answer(ASK)
    (body,) = bodies(first)
    assert (body["model"], body["temperature"]) == (name, 0)
    assert body["max_tokens"] == ModelSettings().max_output_tokens
    assert body.get("thinking") == (None if thinks else {"type": "disabled"})


def test_every_name_has_a_profile() -> None:
    assert profile_of("") is PROFILES[-1]


def test_the_fallback_s_own_profile_counts(model_of: Ask, first: Site, second: Site) -> None:
    fails(first, 500)
    answers(second)
    model_of().answer(ASK)
    assert "thinking" in bodies(first)[0]
    assert "thinking" not in bodies(second)[0]


# --- what comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, (1, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 10**12, "total_tokens": 0}, (1, 0, 10_000_000)),
        ({"prompt_tokens": "many", "completion_tokens": None, "total_tokens": 1.5}, (1, 0, 0)),
    ],
)
def test_nonsense_is_counted_as_nothing(
    usage: dict[str, Any] | None, expected: tuple[int, int, int], model_of: Ask, first: Site
) -> None:
    first.says(PATH, {**completion(), "usage": usage})
    used = model_of().answer(ASK).usage
    assert (used.model_calls, used.input_tokens, used.output_tokens) == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["a", "list"]}}]},
        {"choices": "none"},
        {"choices": ["text"]},
        {"choices": {"a": 1}},
        {"choices": [{"message": "text"}]},
        {**completion(), "more": "x" * LARGEST_BYTES},
    ],
)
def test_what_is_no_completion_is_asked_elsewhere(
    body: dict[str, Any], model_of: Ask, first: Site, second: Site
) -> None:
    first.says(PATH, body)
    answers(second)
    assert model_of().answer(ASK).text == "Action: wait()"


def test_a_key_that_no_header_can_hold_is_refused_at_once(model_of: Ask, first: Site) -> None:
    with pytest.raises(CredentialsRejected, match="no header"):
        model_of(key="schlüssel").answer(ASK)
    assert not first.asked


def test_a_silent_answer_is_an_empty_one(model_of: Ask, first: Site) -> None:
    first.says(PATH, completion(None))  # type: ignore[arg-type]
    assert model_of().answer(ASK).text == ""
