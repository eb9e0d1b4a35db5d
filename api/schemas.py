"""The requests of the HTTP contract, as they are validated."""

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from shared.errors import InvalidRequest

T = TypeVar("T", bound=BaseModel)

MOST_LABELS = 32


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _no_path(value: str) -> str:
    # Escaping keeps an id within its segment of Lybic's path, except for these two.
    if value in {".", ".."}:
        raise ValueError("is no id")
    return value


def _header_safe(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", value.get_secret_value()):
        raise ValueError("must be 1 to 1000 printable ASCII characters without blanks")
    return value


def _storable(value: Any, where: str = "body") -> None:
    """Raises `InvalidRequest` for text that PostgreSQL or JSON can't hold."""
    if isinstance(value, str) and ("\x00" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise InvalidRequest(f"{where}: must not hold NUL or lone surrogates", field=where)
    if isinstance(value, dict):
        for key, inner in value.items():
            _storable(key, where)
            _storable(inner, f"{where}.{key}" if where != "body" else key)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _storable(inner, f"{where}[{index}]")


class Request(BaseModel):
    """Unknown fields are ignored: clients of the original server may send more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def read(cls: type[T], body: bytes) -> T:
        """The request in a body, whatever its `Content-Type` says. Raises `InvalidRequest`."""
        try:
            value = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            raise InvalidRequest("the body is not valid JSON") from None
        _storable(value)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problems = [
                {
                    "field": ".".join(map(str, one["loc"])) or "body",
                    "problem": one["msg"].removeprefix("Value error, "),
                }
                for one in error.errors(include_input=False, include_url=False, include_context=False)
            ]
            first = problems[0]
            raise InvalidRequest(f"{first['field']}: {first['problem']}", problems=problems) from None


Key = Annotated[SecretStr, AfterValidator(_header_safe)]
Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_path)]
Label = str | int | float | bool | None


class LybicAuthentication(Request):
    """Lybic credentials; they win over the settings."""

    api_key: Key
    org_id: Id
    api_endpoint: str | None = Field(None, max_length=1000)


class ModelChoice(Request):
    """Another model than the configured one."""

    name: str | None = Field(None, min_length=1, max_length=200)
    base_url: str | None = Field(None, max_length=1000)
    dialect: Literal["doubao"] = "doubao"


class RunAgentRequest(Request):
    """An instruction and how it is to be carried out. Also what the manual calls `SubmitTaskRequest`."""

    instruction: Annotated[str, Field(max_length=100_000), AfterValidator(_not_blank)]
    sandbox_id: Id | None = None
    user_system_prompt: str | None = Field(None, max_length=100_000)
    continue_context: bool = False
    task_id: Id | None = None
    authentication: LybicAuthentication | None = None
    ark_apikey: Key | None = None
    max_steps: int = Field(50, ge=1, le=500)
    timeout_seconds: int | None = Field(None, ge=1, le=7 * 86400)
    model: ModelChoice | None = None
    language: Literal["auto", "zh", "en"] = "auto"
    priority: int = Field(5, ge=0, le=9)
    metadata: dict[str, Label] = Field(default_factory=dict, max_length=MOST_LABELS)
    keep_sandbox: bool | None = None


class CancelRequest(Request):
    """One task, or every active one of the caller."""

    task_id: Id | None = None
    authentication: LybicAuthentication | None = None


class CreateSandboxRequest(Request):
    """A sandbox to be created. `{}` is valid."""

    name: str = Field("sandbox", min_length=1, max_length=100)
    shape: Id | None = None
    life_seconds: int = Field(3600, ge=1, le=86400, alias="maxLifeSeconds")
    project_id: Id | None = Field(None, alias="projectId")
    authentication: LybicAuthentication | None = None
