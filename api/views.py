"""Rows as the HTTP contract shows them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.conversation import Turn, conversation, transcript
from shared.models import Event, Job
from shared.prompts import resolve_language, system_prompts
from shared.states import JobStatus


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`, to the millisecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task(job: Job) -> dict[str, Any]:
    """A job's state and result."""
    return {
        "success": True,
        "task_id": str(job.id),
        "status": job.status,
        "query": job.instruction,
        "max_steps": job.options["max_steps"],
        "steps": job.step_count,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "updated_at": timestamp(job.updated_at),
        "finished_at": timestamp(job.finished_at),
        "sandbox_info": job.sandbox or ({"sandbox_id": job.sandbox_id} if job.sandbox_id else None),
        "finished_output": job.output,
        "error_code": job.error_code,
        "error_message": job.error_message,
        "parent_task_id": str(job.parent_id) if job.parent_id else None,
        "metadata": job.meta,
        "usage": {
            "model_calls": job.model_calls,
            "input_tokens": job.input_tokens,
            "output_tokens": job.output_tokens,
        },
    }


def pending_reason(job: Job, waits_for: UUID | None) -> str | None:
    """Why a job is still pending."""
    if job.status != JobStatus.PENDING:
        return None
    if waits_for is not None:
        return f"waiting for sandbox {job.sandbox_id}, which task {waits_for} uses or asked for first"
    return "waiting for a worker"


def llm_context(job: Job, turns: list[Turn]) -> dict[str, Any]:
    """Roles and texts as the model sees them, without pictures."""
    language = resolve_language(job.options["language"], job.instruction)
    prompts = system_prompts(language, job.options["user_system_prompt"])
    return {"messages": transcript(conversation(prompts, turns))}


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
        case "human_intervention":
            return "System", f"👤 Calling user for help\n\n{content}"
        case "cancelled":
            return "System", "🚫 Task cancelled"
        case "error":
            return "Error", f"❌ {payload['error']}"
        case _:
            return "System", "Task completed successfully!"


def event(row: Event) -> dict[str, Any]:
    """An event with its envelope."""
    stage, message = _compatible(row.type, row.payload)
    return {
        "type": row.type,
        "task_id": str(row.job_id),
        "taskId": str(row.job_id),
        "seq": row.seq,
        "timestamp": timestamp(row.created_at),
        "stage": stage,
        "message": message,
        **row.payload,
    }


def pauses(row: Event) -> bool:
    """Whether a `/run` stream ends here though the task goes on."""
    return row.type == JobStatus.HUMAN_INTERVENTION
