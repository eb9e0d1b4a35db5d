"""From the words of a request to ours: jobs with credentials and endpoints filled in, ids, places, labels."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from pydantic import BaseModel, SecretStr

from api.body import read_object
from api.schemas import LybicAuthentication, RunAgentRequest
from shared.addresses import plain_url
from shared.errors import EndpointNotAllowed, InvalidRequest, JobNotFound, MissingCredentials
from shared.listing import Position
from shared.profiles import profile_of
from shared.receivers import AllowedReceivers
from shared.schemas import Credentials, Idempotency, JobOptions, LybicCredentials, NewJob, Receiver
from shared.settings import Settings, normal_url
from shared.tracing import traceparent


def lybic_credentials(given: LybicAuthentication | None, settings: Settings) -> LybicCredentials:
    """The request's credentials, else the settings'. Raises `MissingCredentials`, `EndpointNotAllowed`."""
    if given is None:
        ours = settings.lybic
        if ours.api_key is None or ours.org_id is None:
            raise MissingCredentials(
                "authentication: Lybic credentials are missing. Send authentication.api_key and "
                "authentication.org_id, or set LYBIC_API_KEY and LYBIC_ORG_ID.",
                field="authentication",
            )
        return LybicCredentials(api_key=ours.api_key, org_id=ours.org_id, endpoint=ours.endpoint)
    endpoint = normal_url(given.api_endpoint or settings.lybic.endpoint)
    if endpoint not in settings.lybic_endpoints:
        raise EndpointNotAllowed(
            "authentication.api_endpoint: not on the allow-list (LYBIC_ALLOWED_ENDPOINTS)",
            field="authentication.api_endpoint",
        )
    return LybicCredentials(api_key=given.api_key, org_id=given.org_id, endpoint=endpoint)


def _model_key(given: SecretStr | None, base_url: str, settings: Settings) -> SecretStr:
    if given is not None:
        return given
    ours = settings.model
    if ours.api_key is None:
        raise MissingCredentials(
            "ark_apikey: the model's API key is missing. Send ark_apikey, or set ARK_API_KEY.",
            field="ark_apikey",
        )
    if base_url != normal_url(ours.endpoint):
        raise MissingCredentials(
            "ark_apikey: the server's own key is for its own endpoint. Send the one for model.base_url.",
            field="ark_apikey",
        )
    return ours.api_key


def _options(request: RunAgentRequest, settings: Settings) -> JobOptions:
    model = request.model
    base_url = normal_url((model and model.base_url) or settings.model.endpoint)
    if base_url not in settings.model_endpoints:
        raise EndpointNotAllowed(
            "model.base_url: not on the allow-list (ARK_ALLOWED_ENDPOINTS)", field="model.base_url"
        )
    name = (model and model.name) or settings.model.name
    keep = request.keep_sandbox
    return JobOptions(
        max_steps=request.max_steps,
        timeout_seconds=request.timeout_seconds,
        user_system_prompt=request.user_system_prompt,
        language=request.language,
        model_name=name,
        model_base_url=base_url,
        dialect=(model and model.dialect) or profile_of(name).dialect,
        max_model_calls=request.max_model_calls,
        max_tokens=request.max_tokens,
        use_memory=request.use_memory,
        keep_sandbox=keep if keep is not None else request.sandbox_id is not None,
        traceparent=traceparent(),
    )


def _receiver(request: RunAgentRequest, settings: Settings, allowed: AllowedReceivers) -> Receiver | None:
    if request.webhook_url is None:
        if request.webhook_secret is not None:
            raise InvalidRequest(
                "webhook_secret: there is no webhook_url that it could be for", field="webhook_secret"
            )
        return None
    allowed.check(plain_url(request.webhook_url))
    secret = request.webhook_secret or settings.webhooks.secret
    if secret is None:
        raise MissingCredentials(
            "webhook_secret: webhooks are never sent unsigned. Send webhook_secret, or set WEBHOOK_SECRET.",
            field="webhook_secret",
        )
    return Receiver(url=request.webhook_url, secret=secret)


def new_job(
    request: RunAgentRequest,
    settings: Settings,
    receivers: AllowedReceivers,
    *,
    owner: UUID | None,
    idempotency: Idempotency | None,
) -> NewJob:
    """The job that a request asks for. Raises `InvalidRequest`."""
    options = _options(request, settings)
    return NewJob(
        owner_id=owner,
        idempotency=idempotency,
        instruction=request.instruction,
        options=options,
        credentials=Credentials(
            lybic=lybic_credentials(request.authentication, settings),
            model_key=_model_key(request.ark_apikey, options.model_base_url, settings),
        ),
        receiver=_receiver(request, settings, receivers),
        sandbox_id=request.sandbox_id,
        priority=request.priority,
        metadata=request.metadata,
    )


def idempotency(key: str | None, request: BaseModel, index: int = 0) -> Idempotency | None:
    """What makes the request, or its part of this index, one and the same when it is sent again."""
    if key is None:
        return None
    # Secrets are masked in the dump: a rotated one does not make it another request. Nor does an upgrade that
    # brings new fields, since what is left to its default is no part of it.
    digest = sha256(request.model_dump_json(exclude_defaults=True).encode()).digest()
    # No header holds a line feed: the parts of a batch can't meet the keys of others.
    return Idempotency(key=f"{key}\n{index}" if index else key, digest=digest)


def job_id(task_id: str) -> UUID:
    """The id of a job from its public form. Raises `JobNotFound`: what is no id names no task."""
    try:
        return UUID(task_id)
    except ValueError:
        raise JobNotFound(f"there is no task {task_id[:100]}") from None


def labels(wanted: Sequence[str]) -> list[tuple[str, Sequence[Any]]]:
    """`["run:7"]` → `[("run", ["7", 7])]`: what stands in a URL may be meant as a text or as a number."""
    found: list[tuple[str, Sequence[Any]]] = []
    for one in wanted:
        name, _, text = one.partition(":")
        found.append((name, [text, *_scalar(text)]))
    return found


def _scalar(text: str) -> list[Any]:
    try:
        found = read_object(b'{"value": %b}' % text.encode())
    except InvalidRequest:
        return []
    value = found["value"]
    return [] if len(found) > 1 or isinstance(value, str | list | dict) else [value]


def cursor(position: Position) -> str:
    """A place in the list as clients hand it back."""
    plain = f"{position.created_at.isoformat()} {position.job_id}"
    return urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def position(cursor: str | None) -> Position | None:
    """The place that a cursor names. Raises `InvalidRequest`."""
    if cursor is None:
        return None
    try:
        plain = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        moment, _, job = plain.partition(" ")
        found = Position(datetime.fromisoformat(moment), UUID(job))
    except ValueError:
        found = None
    if found is None or found.created_at.tzinfo is None:
        raise InvalidRequest("cursor: is none that this server gave", field="cursor")
    return found
