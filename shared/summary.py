"""A job as others are shown it, by the API and by webhooks: there it is called a task."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from shared.models import Job
from shared.schemas import Usage
from shared.states import JobStatus


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with `Z`, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    datetime,
    PlainSerializer(timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class TaskSummary(BaseModel):
    """A task's state and result."""

    task_id: str
    status: JobStatus
    query: str = Field(description="The instruction.")
    max_steps: int
    steps: int = Field(description="How many there were so far.")
    priority: int
    created_at: Timestamp
    started_at: Timestamp | None
    updated_at: Timestamp
    finished_at: Timestamp | None
    sandbox_info: dict[str, Any] | None
    finished_output: str | None
    error_code: str | None
    error_message: str | None
    parent_task_id: str | None
    metadata: dict[str, Any]
    usage: Usage


def summary(job: Job) -> dict[str, Any]:
    """The fields of `TaskSummary`. Reads old and odd rows, too: one must not spoil a list."""
    return {
        "task_id": str(job.id),
        "status": job.status,
        "query": job.instruction,
        "max_steps": as_object(job.options).get("max_steps", 0),
        "steps": job.step_count,
        "priority": job.priority,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "updated_at": job.updated_at,
        "finished_at": job.finished_at,
        "sandbox_info": as_object(job.sandbox)
        or ({"sandbox_id": job.sandbox_id} if job.sandbox_id else None),
        "finished_output": job.output,
        "error_code": job.error_code,
        "error_message": job.error_message,
        "parent_task_id": str(job.parent_id) if job.parent_id else None,
        "metadata": as_object(job.meta),
        "usage": Usage(
            model_calls=job.model_calls, input_tokens=job.input_tokens, output_tokens=job.output_tokens
        ),
    }


def as_object(value: Any) -> dict[str, Any]:
    """The value if it is an object of JSON, else an empty one."""
    return value if isinstance(value, dict) else {}
