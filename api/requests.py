"""From a validated request to a job: credentials and endpoints filled in from the settings, or refused."""

from pydantic import SecretStr

from api.schemas import LybicAuthentication, RunAgentRequest
from shared.errors import EndpointNotAllowed, MissingCredentials
from shared.schemas import Credentials, JobOptions, LybicCredentials, NewJob
from shared.settings import Settings, normal_url


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


def _model_key(given: SecretStr | None, settings: Settings) -> SecretStr:
    key = given or settings.model.api_key
    if key is None:
        raise MissingCredentials(
            "ark_apikey: the model's API key is missing. Send ark_apikey, or set ARK_API_KEY.",
            field="ark_apikey",
        )
    return key


def _options(request: RunAgentRequest, settings: Settings) -> JobOptions:
    model = request.model
    base_url = normal_url((model and model.base_url) or settings.model.endpoint)
    if base_url not in settings.model_endpoints:
        raise EndpointNotAllowed(
            "model.base_url: not on the allow-list (ARK_ALLOWED_ENDPOINTS)", field="model.base_url"
        )
    keep = request.keep_sandbox
    return JobOptions(
        max_steps=request.max_steps,
        timeout_seconds=request.timeout_seconds,
        user_system_prompt=request.user_system_prompt,
        language=request.language,
        model_name=(model and model.name) or settings.model.name,
        model_base_url=base_url,
        dialect=model.dialect if model else "doubao",
        keep_sandbox=keep if keep is not None else request.sandbox_id is not None,
    )


def new_job(request: RunAgentRequest, settings: Settings) -> NewJob:
    """The job that a request asks for. Raises `InvalidRequest`."""
    return NewJob(
        instruction=request.instruction,
        options=_options(request, settings),
        credentials=Credentials(
            lybic=lybic_credentials(request.authentication, settings),
            model_key=_model_key(request.ark_apikey, settings),
        ),
        sandbox_id=request.sandbox_id,
        priority=request.priority,
        metadata=request.metadata,
    )
