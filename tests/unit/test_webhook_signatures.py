"""Webhooks are signed as the libraries of Standard Webhooks verify it, and never with a poor secret."""

import time
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from shared.settings import WebhookSettings
from shared.signing import signed_headers, signing_key

BODIES = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)


@given(st.binary(min_size=16, max_size=140), BODIES, st.booleans())
def test_others_verify_what_we_sign(key: bytes, body: bytes, padded: bool) -> None:
    secret = "whsec_" + b64encode(key).decode()
    secret = secret if padded else secret.rstrip("=")
    headers = signed_headers(SecretStr(secret), "a-1", int(time.time()), body)
    receiver = Webhook(secret)
    receiver.verify(body, headers, json_parse=False)
    for name, other in (("webhook-id", "a-2"), ("webhook-timestamp", str(int(time.time()) - 1))):
        with pytest.raises(WebhookVerificationError):
            receiver.verify(body, headers | {name: other}, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        receiver.verify(body + b" ", headers, json_parse=False)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16, max_size=200), BODIES)
def test_any_other_text_is_its_own_key(secret: str, body: bytes) -> None:
    headers = signed_headers(SecretStr(f"{secret[:-1]}!"), "a-1", int(time.time()), body)
    Webhook(f"{secret[:-1]}!".encode()).verify(body, headers, json_parse=False)


@pytest.mark.parametrize(
    "secret",
    [
        *(
            "",
            "short",
            "fifteen-letters",
            "x" * 201,
            "with blanks in between",
            "schlüssel-schlüssel",
            "\x7f" * 20,
        ),
        *("whsec_", "whsec_c2hvcnQ=", "whsec_no base64 at all!", "whsec_" + "*" * 32, "whsec_" + "A" * 33),
    ],
)
def test_poor_secrets(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"must be (16|whsec_)"):
        signing_key(SecretStr(secret))
    if secret:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
        with pytest.raises(ValidationError) as refused:
            WebhookSettings()
        assert secret not in str(refused.value)
