"""Every setting, each with its environment variable and a sentence that describes it.

Built once at the doors (`api.wsgi`, `worker.app`, `migrations`, `local`) and passed down; nothing else reads
the environment. The names of the original server's manual keep working. An empty variable counts as unset.
"""

from contextlib import suppress
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.signing import good_secret


def _split(value: object) -> object:
    """`a, b` → `("a", "b")`: lists are written with commas in the environment."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


RATE = r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$"
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
SecretsCommaSeparated = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        populate_by_name=True,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )


class LogSettings(_Group):
    """What is written to the log, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", validation_alias="LOG_LEVEL", description="Least severe level that is logged."
    )
    format: Literal["auto", "json", "text"] = Field(
        "auto", validation_alias="LOG_FORMAT", description="`auto` is text on a terminal and JSON elsewhere."
    )


class ApiSettings(_Group):
    """How the API is reached, and by whom."""

    host: str = Field("127.0.0.1", validation_alias="API_HOST", description="Address that the API binds to.")
    port: int = Field(5000, ge=0, le=65535, validation_alias="API_PORT", description="Port of the API.")
    processes: int = Field(
        2,
        ge=1,
        le=64,
        validation_alias="WEB_CONCURRENCY",
        description="Processes of the API. One keeps one core busy, with about 400 submissions a second.",
    )
    keys: Literal["auto", "required", "off"] = Field(
        "auto",
        validation_alias="API_KEYS",
        description="Whether requests need an API key (`lybic-guiagent keys create NAME`). `auto`: required "
        "unless API_HOST is a loopback address. `off` elsewhere only behind a proxy that checks callers.",
    )
    rate_limit: str = Field(
        "1200/minute",
        pattern=RATE,
        validation_alias="API_RATE_LIMIT",
        description="Most requests per API key, such as 100/second or 1200/minute; a key may have its own.",
    )
    max_active_tasks: int | None = Field(
        None,
        ge=1,
        validation_alias="API_MAX_ACTIVE_TASKS",
        description="Most tasks of one API key that have not ended; a key may have its own.",
    )
    cors_origins: CommaSeparated = Field(
        (),
        validation_alias="API_CORS_ORIGINS",
        description="Origins whose web pages may call the API, such as https://app.example.com, or *.",
    )
    trusted_hosts: CommaSeparated = Field(
        (),
        validation_alias="API_TRUSTED_HOSTS",
        description="Host names that requests may be addressed to; a leading dot stands for all below. "
        "Unset: any, but only names of this machine where neither keys nor a network address are in use.",
    )
    keep_alive_seconds: float = Field(
        15,
        gt=0,
        validation_alias="SSE_KEEP_ALIVE_SECONDS",
        description="How often an event stream without news says that it is still there.",
    )
    send_seconds: float = Field(
        30,
        gt=0,
        validation_alias="SSE_SEND_SECONDS",
        description="A client that reads nothing for so long is cut off; it may come back and go on.",
    )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the API."""
        return is_loopback(self.host)

    @property
    def keys_required(self) -> bool:
        """Whether requests need an API key."""
        return self.keys == "required" or (self.keys == "auto" and not self.on_loopback)


class LybicSettings(_Group):
    """The sandbox service. Credentials in a request win over these."""

    api_key: SecretStr | None = Field(
        None, validation_alias="LYBIC_API_KEY", description="API key of the Lybic organisation."
    )
    org_id: str | None = Field(
        None, validation_alias="LYBIC_ORG_ID", description="Id of the Lybic organisation."
    )
    endpoint: str = Field(
        "https://api.lybic.cn",
        validation_alias="LYBIC_API_ENDPOINT",
        description="Base URL of the Lybic API.",
    )
    allowed_endpoints: CommaSeparated = Field(
        (),
        validation_alias="LYBIC_ALLOWED_ENDPOINTS",
        description="Further base URLs that a request may name in authentication.api_endpoint.",
    )
    screenshot_hosts: CommaSeparated = Field(
        (),
        validation_alias="SCREENSHOT_ALLOWED_HOSTS",
        description="Further hosts that screenshots may be fetched from, such as pictures.example.com; a "
        "leading dot stands for all below. Hosts of the Lybic endpoints always may.",
    )
    shape: str = Field(
        "beijing-2c-4g-cpu",
        validation_alias="SANDBOX_SHAPE",
        description="Shape of the sandboxes that are created for tasks that name none.",
    )
    life_seconds: int = Field(
        3600,
        ge=300,
        le=86400,
        validation_alias="SANDBOX_LIFE_SECONDS",
        description="Life span of the sandboxes that are created for tasks that name none.",
    )
    linger_seconds: float = Field(
        300,
        ge=0,
        validation_alias="SANDBOX_LINGER_SECONDS",
        description="How long a sandbox that was created for a task stays after it, for a follow-up.",
    )
    timeout_seconds: float = Field(
        20,
        gt=0,
        validation_alias="LYBIC_TIMEOUT_SECONDS",
        description="Longest wait for an answer of the Lybic API.",
    )


class ModelSettings(_Group):
    """The vision model: any OpenAI-compatible endpoint."""

    api_key: SecretStr | None = Field(
        None, validation_alias="ARK_API_KEY", description="API key of the model's endpoint."
    )
    endpoint: str = Field(
        "https://ark.cn-beijing.volces.com/api/v3",
        validation_alias="ARK_API_ENDPOINT",
        description="Base URL of the OpenAI-compatible endpoint.",
    )
    allowed_endpoints: CommaSeparated = Field(
        (),
        validation_alias="ARK_ALLOWED_ENDPOINTS",
        description="Further base URLs that a request may name in model.base_url.",
    )
    name: str = Field(
        "doubao-1-5-ui-tars-250428", validation_alias="MODEL_NAME", description="Name of the model."
    )
    timeout_seconds: float = Field(
        60,
        gt=0,
        validation_alias="MODEL_TIMEOUT_SECONDS",
        description="Longest wait for one answer of the model.",
    )
    fallback_name: str | None = Field(
        None,
        validation_alias="MODEL_FALLBACK_NAME",
        description="Model that is asked where the first one does not answer, even when asked again.",
    )
    fallback_endpoint: str | None = Field(
        None,
        validation_alias="MODEL_FALLBACK_ENDPOINT",
        description="Its OpenAI-compatible base URL; unset: ARK_API_ENDPOINT.",
    )
    fallback_api_key: SecretStr | None = Field(
        None,
        validation_alias="MODEL_FALLBACK_API_KEY",
        description="Its API key; unset: ARK_API_KEY, if it is at ARK_API_ENDPOINT.",
    )
    max_output_tokens: int = Field(
        2048,
        ge=64,
        validation_alias="MODEL_MAX_OUTPUT_TOKENS",
        description="Most tokens that the model may write in one answer.",
    )
    image: Literal["auto", "url", "data"] = Field(
        "auto",
        validation_alias="MODEL_IMAGE",
        description="How screenshots reach the model: their URL, their bytes as a data URL, or `auto`: "
        "bytes where a local address is involved, which a remote model could not reach.",
    )


class StorageSettings(_Group):
    """PostgreSQL, where the truth is."""

    backend: Literal["memory", "postgres"] | None = Field(
        None,
        validation_alias="TASK_STORAGE_BACKEND",
        description="For `lybic-guiagent up`: `memory` is a throw-away database, `postgres` the one given, "
        "or one kept in the state folder. Unset: whichever the other settings imply, else throw-away.",
    )
    url: SecretStr | None = Field(
        None,
        validation_alias="POSTGRES_CONNECTION_STRING",
        description="postgresql://user:password@host:port/database",
    )
    pool_size: int = Field(
        8,
        ge=1,
        validation_alias="POSTGRES_POOL_SIZE",
        description="Connections that a process keeps open; a worker has five more.",
    )
    task_days: float | None = Field(
        None,
        gt=0,
        validation_alias="TASK_DAYS",
        description="How long tasks are kept after their end, with their steps and events. Unset: for ever.",
    )
    credentials_keys: SecretsCommaSeparated = Field(
        (),
        validation_alias="CREDENTIALS_KEYS",
        description="Fernet keys that encrypt the credentials of requests at rest, newest first; the "
        "others still decrypt. `lybic-guiagent up` makes one of its own.",
    )


class RedisSettings(_Group):
    """Redis or Valkey, which only wakes: losing it loses no task."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias="REDIS_URL",
        description="Broker of the task messages and channel of the wakes.",
    )


class AgentSettings(_Group):
    """How the agent works at a task."""

    settle_seconds: float = Field(
        1,
        ge=0,
        le=60,
        validation_alias="AGENT_SETTLE_SECONDS",
        description="Longest wait after an action for the screen to settle; over when two looks are alike.",
    )
    max_screenshots: int = Field(
        5, ge=1, validation_alias="AGENT_MAX_SCREENSHOTS", description="Most screenshots in a model request."
    )
    max_messages: int = Field(
        20,
        ge=2,
        validation_alias="AGENT_MAX_MESSAGES",
        description="Most text messages in a model request, beside the system prompt and the instruction.",
    )

    loop_nudge: int = Field(
        3,
        ge=2,
        validation_alias="AGENT_LOOP_NUDGE",
        description="The same action so often, on a screen that does not change: the model is told.",
    )
    loop_limit: int = Field(
        6,
        ge=2,
        validation_alias="AGENT_LOOP_LIMIT",
        description="The same action so often, on a screen that does not change: the task ends.",
    )
    notes: int = Field(
        5,
        ge=1,
        validation_alias="AGENT_NOTES",
        description="Most notes of earlier tasks that a task with use_memory is given.",
    )


class PictureSettings(_Group):
    """The screenshots that tasks leave behind."""

    store: str | None = Field(
        None,
        validation_alias="SCREENSHOT_STORE",
        description="Where they are kept: a folder, or a URL such as s3://bucket/prefix (credentials as the "
        "AWS tools take them). Unset: not at all; `lybic-guiagent up` keeps them beside its database.",
    )
    days: float = Field(
        7,
        gt=0,
        validation_alias="SCREENSHOT_DAYS",
        description="How long they are kept after the end of their task.",
    )


class WorkerSettings(_Group):
    """How the workers hold their jobs."""

    lease_seconds: float = Field(
        6,
        ge=1,
        validation_alias="LEASE_SECONDS",
        description="A task whose worker died is free for another worker after at most this time.",
    )
    step_seconds: float = Field(
        600,
        gt=0,
        validation_alias="STEP_SECONDS",
        description="A step that makes no progress for this long loses its task, though its worker lives. "
        "More than the model may take with all retries.",
    )
    sweep_seconds: float = Field(
        1,
        gt=0,
        validation_alias="SWEEP_SECONDS",
        description="How often each worker looks for tasks that nobody holds.",
    )
    clean_seconds: float = Field(
        5,
        gt=0,
        validation_alias="CLEAN_SECONDS",
        description="How often each worker looks for sandboxes and screenshots that nobody needs any more.",
    )
    drain_seconds: float = Field(
        20,
        ge=0,
        validation_alias="DRAIN_SECONDS",
        description="How long a worker that was told to stop waits for actions under way.",
    )
    max_runs: int = Field(
        5,
        ge=1,
        validation_alias="MAX_RUNS",
        description="A task whose worker died this often ends as an error.",
    )


class WebhookSettings(_Group):
    """What tasks tell servers of others."""

    secret: Annotated[SecretStr, AfterValidator(good_secret)] | None = Field(
        None,
        validation_alias="WEBHOOK_SECRET",
        description="Signs the webhooks of requests that bring no webhook_secret: whsec_ and base64, or 16 "
        "to 200 printable characters.",
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        validation_alias="WEBHOOK_ALLOWED_HOSTS",
        description="Receivers that may be in a private network and be reached by http: names, such as "
        "localhost or, for all below, .example.com; addresses; networks, such as 10.0.0.0/8.",
    )
    timeout_seconds: float = Field(
        15,
        gt=0,
        le=300,
        validation_alias="WEBHOOK_TIMEOUT_SECONDS",
        description="Longest time that sending a webhook may take, from looking up the name to the answer.",
    )
    max_attempts: int = Field(
        15,
        ge=1,
        le=100,
        validation_alias="WEBHOOK_MAX_ATTEMPTS",
        description="How often a webhook is sent until it is accepted; 15 attempts take about a day.",
    )
    retry_seconds: float = Field(
        5,
        gt=0,
        le=86400,
        validation_alias="WEBHOOK_RETRY_SECONDS",
        description="Pause after the first attempt, more or less; after each further one twice as long.",
    )


class MetricsSettings(_Group):
    """What Prometheus is shown."""

    token: SecretStr | None = Field(
        None,
        validation_alias="METRICS_TOKEN",
        description="Whoever reads /metrics of the API must send it as a bearer token. Unset: where requests "
        "need API keys nobody may read it, elsewhere everybody.",
    )
    worker_host: str = Field(
        "127.0.0.1",
        validation_alias="WORKER_METRICS_HOST",
        description="Address at which a worker shows its metrics, to whoever reaches it.",
    )
    worker_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias="WORKER_METRICS_PORT",
        description="Port at which a worker process shows its metrics; 0: not at all. With `lybic-guiagent "
        "up` the port of the first worker, the others follow.",
    )


class TracingSettings(_Group):
    """OpenTelemetry traces; needs `lybic-guiagent[tracing]`."""

    endpoint: str | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="Base URL of an OTLP/HTTP collector, such as http://localhost:4318. Unset: no traces. "
        "OpenTelemetry reads its other variables, such as OTEL_TRACES_SAMPLER, by itself.",
    )


class Settings(BaseSettings):
    """All settings, in groups. `Settings()` reads the environment and `.env`."""

    model_config = SettingsConfigDict(frozen=True)

    log: LogSettings = Field(default_factory=LogSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    lybic: LybicSettings = Field(default_factory=LybicSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    agent: AgentSettings = Field(default_factory=AgentSettings)
    pictures: PictureSettings = Field(default_factory=PictureSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)

    @cached_property
    def lybic_endpoints(self) -> frozenset[str]:
        """The base URLs of Lybic that a request may name."""
        return frozenset(map(normal_url, (self.lybic.endpoint, *self.lybic.allowed_endpoints)))

    @cached_property
    def model_endpoints(self) -> frozenset[str]:
        """The base URLs of models that a request may name."""
        return frozenset(map(normal_url, (self.model.endpoint, *self.model.allowed_endpoints)))


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine only."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def normal_url(url: str) -> str:
    """The form in which base URLs are compared: no blanks around, no slash at the end."""
    return url.strip().rstrip("/")
