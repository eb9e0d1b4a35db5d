"""The tables. A job has steps and events; all three are written by `shared.jobs` and `shared.events` only."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.states import DeliveryState, JobStatus, Request, StepStatus

JSON = dict[str, Any]


class Base(DeclarativeBase):
    """Maps Python types to columns and names constraints, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a class attribute
        str: Text(),
        datetime: DateTime(timezone=True),
        JSON: JSONB(),
        list[JSON]: JSONB(),
        list[str]: JSONB(),
        bytes: LargeBinary(),
    }


def _one_of(column: str, values: type[JobStatus | StepStatus | DeliveryState]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


class ApiKey(Base):
    """A caller of the API. The key itself is not here: it is shown once, when it is made."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("ix_api_keys_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    hint: Mapped[str]
    """The key's first characters, for people to tell keys apart."""
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the key: its 256 random bits need no salt and no slow hash."""
    rate_limit: Mapped[str | None]
    """Such as 100/second; None: the settings'."""
    max_active_tasks: Mapped[int | None]
    """None: the settings'."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]


class Job(Base):
    """The durable row of one request."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(_one_of("status", JobStatus), name="status"),
        CheckConstraint(
            "(status = 'running') = (lease_owner IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="lease_while_running",
        ),
        CheckConstraint("finished_at IS NULL OR credentials IS NULL", name="credentials_wiped_at_the_end"),
        # Lists are merged from one scan per status, which is in the order of the list whatever it filters by.
        Index("ix_jobs_status", "status", "created_at", "id"),
        Index(
            "ix_jobs_owner_status",
            "owner_id",
            "status",
            "created_at",
            "id",
            postgresql_where=text("owner_id IS NOT NULL"),
        ),
        Index("ix_jobs_queue", "priority", "created_at", "id", postgresql_where=text("status = 'pending'")),
        # Not by its lease: then to renew one would be to write to every index of the table.
        Index("ix_jobs_running", "created_at", postgresql_where=text("status = 'running'")),
        Index(
            "ix_jobs_requests",
            "lease_owner",
            postgresql_where=text(
                "status = 'running'"
                " AND (cancel_requested_at IS NOT NULL OR takeover_requested_at IS NOT NULL)"
            ),
        ),
        # One sandbox, one driver: two jobs would fight over one mouse. A human at it counts as a driver.
        Index(
            "ix_jobs_driven_sandbox",
            "sandbox_key",
            unique=True,
            postgresql_where=text("status IN ('running', 'human_intervention')"),
        ),
        Index(
            "ix_jobs_sandbox_queue",
            "sandbox_key",
            "created_at",
            "id",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_jobs_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        Index("ix_jobs_pictures", "finished_at", postgresql_where=text("has_pictures")),
        Index("ix_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "ix_jobs_metadata",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
        ),
        Index(
            "ix_jobs_idempotency",
            "owner_id",
            "idempotency_key",
            unique=True,
            postgresql_nulls_not_distinct=True,  # callers without a key share one namespace
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The API key that it was submitted with; None where none was asked for."""
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[bytes | None]
    """SHA-256 of the request that came with the idempotency key, secrets left out."""
    instruction: Mapped[str]
    options: Mapped[JSON] = mapped_column(server_default="{}")
    """`shared.schemas.JobOptions` as JSON."""
    meta: Mapped[JSON] = mapped_column("metadata", server_default="{}")
    """The caller's own labels."""
    credentials: Mapped[bytes | None]
    """`shared.schemas.Credentials`, encrypted; wiped at the terminal state."""
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    """The job whose context this one continues."""

    status: Mapped[str] = mapped_column(server_default=JobStatus.PENDING.value)
    priority: Mapped[int] = mapped_column(server_default="5")
    """0 is the most urgent, 9 the least."""
    run: Mapped[int] = mapped_column(server_default="0")
    """Number of the last run: the fencing token of every write."""
    crashes: Mapped[int] = mapped_column(server_default="0")
    """How many runs lost their lease without giving it back."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    takeover_requested_at: Mapped[datetime | None]
    """When a human asked to have it; in force until it is resumed."""

    sandbox_id: Mapped[str | None]
    sandbox_key: Mapped[str | None]
    """Names the sandbox among those of all organisations (`shared.schemas.sandbox_key`)."""
    sandbox: Mapped[JSON | None]
    """What is known of the sandbox (`shared.schemas.SandboxInfo`)."""
    step_count: Mapped[int] = mapped_column(server_default="0")
    event_count: Mapped[int] = mapped_column(server_default="0")
    """Number of the last event; the row's lock makes commit order number order."""

    output: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    model_calls: Mapped[int] = mapped_column(server_default="0")
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    notes: Mapped[list[str] | None]
    """What was remembered from earlier jobs when this one began; None if it did not ask."""
    advice: Mapped[str | None]
    """What humans told the model before the first step; later it stands in the steps' feedback."""
    has_pictures: Mapped[bool] = mapped_column(server_default="false")
    """The store keeps screenshots of it."""
    paused: Mapped[timedelta] = mapped_column(server_default="0")
    """How long it waited for humans; that does not count towards its time limit."""

    recovered = False
    """No column: whether the claim that gave this job took it from a run whose lease had run out."""

    @property
    def request(self) -> Request | None:
        """What somebody asked of its run."""
        return Request.of(self.cancel_requested_at, self.takeover_requested_at)


class Step(Base):
    """One pass of the loop: what was seen, what was decided (the intent), what came of it (the outcome)."""

    __tablename__ = "steps"
    __table_args__ = (CheckConstraint(_one_of("status", StepStatus), name="status"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, 3… over all runs of the job."""
    run: Mapped[int]
    status: Mapped[str] = mapped_column(server_default=StepStatus.INTENDED.value)
    screenshot: Mapped[str | None]
    """URL of the picture that the decision was made on."""
    picture: Mapped[str | None]
    """Its name in the store of screenshots."""
    raw: Mapped[str]
    """The model's answer as it was sent."""
    thought: Mapped[str]
    actions: Mapped[list[JSON]]
    """Lybic actions in order."""
    feedback: Mapped[str | None]
    """What the model is told about this step before its next decision."""
    input_tokens: Mapped[int] = mapped_column(server_default="0")
    output_tokens: Mapped[int] = mapped_column(server_default="0")
    model_ms: Mapped[int] = mapped_column(server_default="0")
    """Milliseconds that the model took to decide."""
    action_ms: Mapped[int | None]
    """Milliseconds that the sandbox took to act."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Event(Base):
    """Append-only, numbered per job: what a client is told, in order."""

    __tablename__ = "events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, 3… in the job, without gaps."""
    type: Mapped[str]
    payload: Mapped[JSON]
    """The fields of its type; the envelope is added where it is read."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Sandbox(Base):
    """A sandbox that was made for a job, until it is deleted. Its row is there before the sandbox is."""

    __tablename__ = "sandboxes"
    __table_args__ = (
        Index("ix_sandboxes_key", "key", unique=True),
        Index("ix_sandboxes_due", "delete_at", postgresql_where=text("delete_at IS NOT NULL")),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    """The job that it was made for; its name at Lybic is made of this id."""
    sandbox_id: Mapped[str | None]
    """None until Lybic has answered: it may exist all the same, and is then found by its name."""
    key: Mapped[str | None]
    """As in `Job.sandbox_key`."""
    credentials: Mapped[bytes]
    """`shared.schemas.LybicCredentials`, encrypted: who may delete it. Gone with the row."""
    linger: Mapped[timedelta]
    """How long it stays after each job that used it."""
    delete_at: Mapped[datetime | None]
    """When it may be deleted, unless a job uses it then. None while its first job goes on."""
    attempts: Mapped[int] = mapped_column(server_default="0")
    """How often deleting it was tried."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Note(Base):
    """What a model asked to remember, for later jobs of the same owner."""

    __tablename__ = "notes"
    __table_args__ = (
        Index("ix_notes_words", "words", postgresql_using="gin"),
        Index("ix_notes_owner_id", "owner_id"),
        Index("ix_notes_job", "job_id", postgresql_where=text("job_id IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    step: Mapped[int]
    content: Mapped[str]
    words: Mapped[Any] = mapped_column(TSVECTOR)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Webhook(Base):
    """Who is told what becomes of a job. Gone when the job has ended and there is nothing left to tell."""

    __tablename__ = "webhooks"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    host: Mapped[str]
    """With the port: one that hangs must not keep us from the others."""
    receiver: Mapped[bytes]
    """`shared.schemas.Receiver`, encrypted."""


class Delivery(Base):
    """An event that a receiver is told of.

    A trigger on `events` writes it (migration 0005). So no end of a job goes without, whoever writes that: it
    may be a process of an older version, which knows of no webhooks.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "seq"], ["events.job_id", "events.seq"], ondelete="CASCADE"),
        CheckConstraint(_one_of("state", DeliveryState), name="state"),
        CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="due_while_pending"),
        Index("ix_deliveries_due", "due_at", postgresql_where=text("state = 'pending'")),
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING.value)
    attempts: Mapped[int] = mapped_column(server_default="0")
    """Number of the last one: the fencing token of what is written about it."""
    due_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())
    """When it is sent next; during an attempt, when that is taken for lost."""
    attempted_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    status_code: Mapped[int | None]
    """HTTP status of the last answer."""
    error: Mapped[str | None]
    """Why the last attempt failed (`worker.post`)."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
