"""Rows as the HTTP contract shows them."""

from typing import Any
from uuid import UUID

from api.answers import ActiveTask, Context, DeliveryView, StepView
from shared.conversation import Turn, conversation, transcript
from shared.events import EventRow
from shared.listing import Active
from shared.models import Delivery, Job, Step
from shared.prompts import resolve_language, system_prompts
from shared.schemas import vocabulary_of
from shared.states import DeliveryState, JobStatus
from shared.summary import as_object, timestamp
from shared.webhooks import message_id, message_type


def active_task(job: Active) -> ActiveTask:
    """A job that has not ended."""
    return ActiveTask(
        task_id=str(job.id),
        sandbox_id=job.sandbox_id,
        cancelled=job.cancel_requested_at is not None,
        status=JobStatus(job.status),
        worker=job.lease_owner,
        step=job.step_count,
    )


def step(row: Step) -> StepView:
    """A step."""
    shown = StepView.model_validate(row, from_attributes=True)
    return shown.model_copy(update={"screenshot": screenshot(row.job_id, row.picture, row.screenshot)})


def delivery(row: Delivery, event_type: str) -> DeliveryView:
    """A delivery of an event of this type."""
    return DeliveryView(
        id=message_id(row),
        type=message_type(event_type),
        seq=row.seq,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        status_code=row.status_code,
        error=row.error,
        created_at=row.created_at,
        attempted_at=row.attempted_at,
        next_attempt_at=row.due_at,
        ended_at=row.ended_at,
    )


def screenshot(job_id: UUID, picture: str | None, url: str | None) -> str | None:
    """Where a picture is: by our own route if it is kept, or else as the sandbox service said."""
    if picture is None:
        return url
    return f"/api/agent/task/{job_id}/screenshots/{picture.rpartition('/')[2]}"


def pending_reason(job: Job, ahead: Job | None) -> str | None:
    """Why a job is still pending. Another caller's task is not named."""
    if job.status != JobStatus.PENDING:
        return None
    if ahead is None:
        return "waiting for a worker"
    who = f"task {ahead.id}" if ahead.owner_id == job.owner_id else "another task"
    return f"waiting for sandbox {job.sandbox_id}, which {who} uses or asked for first"


def llm_context(job: Job, turns: list[Turn]) -> Context:
    """Roles and texts as the model sees them, without pictures."""
    options = as_object(job.options)
    language = resolve_language(options.get("language", "auto"), job.instruction)
    prompts = system_prompts(
        language,
        vocabulary=vocabulary_of(as_object(job.sandbox).get("os")),
        dialect=options.get("dialect", "doubao"),
        user_system_prompt=options.get("user_system_prompt"),
        notes=job.notes or (),
    )
    return Context.model_validate({"messages": transcript(conversation(prompts, turns))})


def _compatible(kind: str, payload: dict[str, Any]) -> tuple[str, str]:
    """`stage` and `message`, which clients of the original server read."""
    content = payload.get("content", "")
    match kind:
        case "status":
            return "System", f"Task is {payload['status']}"
        case "thinking":
            return "manager_planner", f"💭 Thought: {content}"
        case "action":
            return "Grounding", f"🎯 Executing action: {content}"
        case "observation":
            return "System", f"📷 Screenshot before step {payload['step']}"
        case "result":
            return "System", f"💾 Output saved: {content}"
        case "human_intervention" if payload.get("taken_over"):
            return "System", f"👤 {content}"
        case "human_intervention":
            return "System", f"👤 Calling user for help\n\n{content}"
        case "cancelled":
            return "System", "🚫 Task cancelled"
        case "error":
            return "Error", f"❌ {payload['error']}"
        case _:
            return "System", "Task completed successfully!"


def event(row: EventRow) -> dict[str, Any]:
    """An event with its envelope."""
    stage, message = _compatible(row.type, row.payload)
    payload = dict(row.payload)
    if picture := payload.pop("picture", None):
        payload["screenshot"] = screenshot(row.job_id, picture, None)
    return {
        "type": row.type,
        "task_id": str(row.job_id),
        "taskId": str(row.job_id),
        "seq": row.seq,
        "timestamp": timestamp(row.created_at),
        "stage": stage,
        "message": message,
        **payload,
    }
