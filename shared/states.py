"""The life of a job: its states, the moves between them, and what its run may be asked for."""

from datetime import datetime
from enum import StrEnum


class JobStatus(StrEnum):
    """The public states of a job (the HTTP contract calls a job a task)."""

    PENDING = "pending"
    RUNNING = "running"
    HUMAN_INTERVENTION = "human_intervention"
    FINISHED = "finished"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state never changes again."""
        return not MOVES[self]


MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.PENDING,  # a draining worker gives the job back
            JobStatus.RUNNING,  # another worker reclaims it after its lease expired
            JobStatus.HUMAN_INTERVENTION,
            JobStatus.FINISHED,
            JobStatus.ERROR,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.HUMAN_INTERVENTION: frozenset({JobStatus.PENDING, JobStatus.CANCELLED}),
    JobStatus.FINISHED: frozenset(),
    JobStatus.ERROR: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

ACTIVE = tuple(status for status in JobStatus if not status.terminal)


def may_move(before: JobStatus, after: JobStatus) -> bool:
    """Whether a job may go from one state to the other."""
    return after in MOVES[before]


class Request(StrEnum):
    """What somebody asks of a job that runs."""

    CANCEL = "cancel"
    TAKEOVER = "takeover"  # a human wants to act in its sandbox

    @classmethod
    def of(
        cls, cancel_requested_at: datetime | None, takeover_requested_at: datetime | None
    ) -> "Request | None":
        """The one that is in force: to cancel wins, whichever came first."""
        if cancel_requested_at is not None:
            return cls.CANCEL
        return None if takeover_requested_at is None else cls.TAKEOVER


class StepStatus(StrEnum):
    """What is known of a step's actions."""

    INTENDED = "intended"  # decided and recorded; the actions may be under way
    DONE = "done"  # every action was carried out
    FAILED = "failed"  # the sandbox refused an action: it had no effect
    UNKNOWN = "unknown"  # the sandbox's answer was lost: it may have had its effect
    INTERRUPTED = "interrupted"  # the run died, or was stopped, between intent and outcome
    UNUSABLE = "unusable"  # the model's answer could not be read; nothing was done


class DeliveryState(StrEnum):
    """What became of a webhook."""

    PENDING = "pending"  # not accepted yet; it is tried, again and again
    DELIVERED = "delivered"
    FAILED = "failed"  # it is not tried any more
