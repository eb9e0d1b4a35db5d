"""Keeps secrets out of sight: encrypted at rest, cut out of any text that others wrote."""

import json
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.schemas import Frozen
from shared.settings import StorageSettings

T = TypeVar("T", bound=Frozen)

REDACTED = "[redacted]"
SHORTEST_SECRET = 6  # shorter ones would tear holes into ordinary text


class Vault:
    """Encrypts the credentials of jobs, and what is kept in Redis. The newest key encrypts, all decrypt."""

    def __init__(self, settings: StorageSettings) -> None:
        if not settings.credentials_keys:
            raise ConfigurationError(
                "CREDENTIALS_KEYS is not set: credentials of requests could not be stored encrypted. Make a "
                'key with: python -c "from cryptography.fernet import Fernet; '
                'print(Fernet.generate_key().decode())"'
            )
        try:
            keys = [Fernet(key.get_secret_value()) for key in settings.credentials_keys]
        except ValueError:
            raise ConfigurationError("CREDENTIALS_KEYS holds something that is no Fernet key") from None
        self._fernet = MultiFernet(keys)

    def seal(self, secret: Frozen) -> bytes:
        """What may be sealed is a model: its secrets are in the token, which is encrypted."""
        return self.encrypt(json.dumps(secret.model_dump(), default=_revealed).encode())

    def open(self, token: bytes, kind: type[T]) -> T:
        """The model of a token. Raises `ConfigurationError` if no key of ours sealed it."""
        return kind.model_validate_json(self.decrypt(token))

    def encrypt(self, data: bytes) -> bytes:
        """A token, in ASCII, that is longer than the data by a third."""
        return self._fernet.encrypt(data)

    def decrypt(self, token: bytes) -> bytes:
        """The data of a token. Raises `ConfigurationError` if no key of ours encrypted it."""
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            raise ConfigurationError(
                "what is stored was encrypted with a key not in CREDENTIALS_KEYS"
            ) from None


def _revealed(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def redact(text: str, secrets: Iterable[SecretStr | None]) -> str:
    """The text with every secret in it replaced. For what models, sandboxes and drivers say."""
    for secret in secrets:
        value = secret.get_secret_value() if secret else ""
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, REDACTED)
    return text


def clean(text: str, longest: int) -> str:
    """The text as PostgreSQL and JSON can hold it: no NUL, no lone surrogate, not too long."""
    return text[:longest].replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def without_user(url: str) -> str:
    """The URL as it may be shown: no user, no password, no parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
