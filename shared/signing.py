"""Signatures of webhooks, the symmetric ones (`v1`) of the Standard Webhooks specification 1.0."""

import binascii
import hmac
import re
from base64 import b64decode, b64encode

from pydantic import SecretStr

PREFIX = "whsec_"
FEWEST_BYTES = 16
_PRINTABLE = re.compile(r"[\x21-\x7e]{16,200}")


def signing_key(secret: SecretStr) -> bytes:
    """The key that a secret stands for: `whsec_` and base64, or any other text's own bytes.

    Raises `ValueError`.
    """
    text = secret.get_secret_value()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be 16 to 200 printable ASCII characters without blanks")
    if not text.startswith(PREFIX):
        return text.encode()
    encoded = text.removeprefix(PREFIX)
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        key = b""
    if len(key) < FEWEST_BYTES:
        raise ValueError(f"must be {PREFIX} and the base64 of at least {FEWEST_BYTES} bytes")
    return key


def good_secret(secret: SecretStr) -> SecretStr:
    """The secret, if a key can be made of it. Raises `ValueError`."""
    signing_key(secret)
    return secret


def signed_headers(secret: SecretStr, message_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """What proves who sent the body, and when: `seconds` since 1970."""
    signed = f"{message_id}.{seconds}.".encode() + body
    signature = b64encode(hmac.digest(signing_key(secret), signed, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }
