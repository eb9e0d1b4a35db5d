"""API keys: made, found, revoked. A key is shown once; what is stored is its hash."""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import cast
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, Table, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from shared.errors import ConfigurationError, Forbidden, InvalidRequest, Unauthenticated
from shared.models import ApiKey
from shared.settings import RATE

PREFIX = "lgk_"
HINT_CHARACTERS = 10
USED_EVERY = timedelta(minutes=1)


def create(
    session: Session, name: str, *, rate_limit: str | None = None, max_active_tasks: int | None = None
) -> str:
    """Makes a key and returns it, for the only time. Raises `InvalidRequest`."""
    if not name.strip() or not name.isprintable():
        raise InvalidRequest("a key's name is printable, and not blank")
    if rate_limit is not None and not re.fullmatch(RATE, rate_limit):
        raise InvalidRequest(f"{rate_limit}: a rate is written like 100/second or 1200/minute")
    taken = select(ApiKey.id).where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
    if session.scalar(taken) is not None:
        raise InvalidRequest(f"there is a key named {name} already: revoke it, or choose another name")
    key = _new_key()
    session.add(
        ApiKey(
            id=uuid4(),
            name=name,
            hint=key[:HINT_CHARACTERS],
            digest=_digest(key),
            rate_limit=rate_limit,
            max_active_tasks=max_active_tasks,
        )
    )
    return key


def rotate(session: Session, name: str) -> str:
    """Replaces the key of this name and returns the new one, for the only time; tasks and limits stay.

    The old one is not known any more. Raises `InvalidRequest` if there is none.
    """
    key = _new_key()
    _change_valid(session, name, hint=key[:HINT_CHARACTERS], digest=_digest(key))
    return key


def known(session: Session) -> Sequence[ApiKey]:
    """Every key that there ever was, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at)).all()


def require_any(session: Session) -> None:
    """Raises `ConfigurationError`, which says what to do, if nobody could be let in."""
    if session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)) is None:
        raise ConfigurationError(
            "The API asks for API keys here, and there is none yet. Make one with `lybic-guiagent keys "
            "create NAME` (and the same --state-dir or POSTGRES_CONNECTION_STRING); or bind to 127.0.0.1 "
            "(API_HOST); or, behind a proxy that checks callers, set API_KEYS=off."
        )


def revoke(session: Session, name: str) -> None:
    """Shuts out whoever has the key of this name, from now on. Raises `InvalidRequest` if there is none."""
    _change_valid(session, name, revoked_at=func.now())


def _change_valid(session: Session, name: str, **values: object) -> None:
    changed = session.execute(
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(values)
        .returning(ApiKey.id)
    ).one_or_none()
    if changed is None:
        raise InvalidRequest(f"there is no valid key named {name}")


_KEYS = cast(Table, ApiKey.__table__)
_LONG_AGO = or_(_KEYS.c.used_at.is_(None), _KEYS.c.used_at < func.now() - USED_EVERY)
_FIND = select(
    _KEYS.c.id, _KEYS.c.rate_limit, _KEYS.c.max_active_tasks, _KEYS.c.revoked_at, _LONG_AGO.label("stale")
).where(_KEYS.c.digest == bindparam("digest"))
Found = Row[UUID, str | None, int | None, datetime | None, bool]
"""`id`, `rate_limit`, `max_active_tasks` and `revoked_at` of a key, and whether its use is to be noted."""


def authenticate(connection: Connection, key: str) -> Found:
    """The caller with this key. Raises `Unauthenticated` if nobody has it, `Forbidden` if it was revoked."""
    found = connection.execute(_FIND, {"digest": _digest(key)}).one_or_none()
    if found is None:
        raise Unauthenticated("this API key is not known")
    if found.revoked_at is not None:
        raise Forbidden("this API key was revoked")
    if found.stale:
        used = update(_KEYS).where(_KEYS.c.id == found.id, _LONG_AGO)
        connection.execute(used.values(used_at=func.now()))
    return found


def lock(session: Session, key_id: UUID) -> None:
    """Lets one transaction at a time count the caller's jobs and add to them."""
    session.execute(select(ApiKey.id).where(ApiKey.id == key_id).with_for_update(key_share=True))


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "replace")).digest()
