"""Webhooks: who is told what becomes of a job, and what became of telling it.

The trigger needs nothing of the processes that write events: those of the version before this one go on
working, and what they write is told as well.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FUNCTION = """
CREATE FUNCTION owe_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO deliveries (job_id, seq) SELECT job_id, NEW.seq FROM webhooks WHERE job_id = NEW.job_id;
  RETURN NULL;
END
$$
"""
TRIGGER = """
CREATE TRIGGER owe_delivery AFTER INSERT ON events FOR EACH ROW
WHEN (NEW.type IN ('finished', 'error', 'cancelled', 'human_intervention'))
EXECUTE FUNCTION owe_delivery()
"""


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("receiver", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_webhooks_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_webhooks"),
    )
    op.create_table(
        "deliveries",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()")),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="ck_deliveries_state"),
        sa.CheckConstraint(
            "(state = 'pending') = (due_at IS NOT NULL)", name="ck_deliveries_due_while_pending"
        ),
        sa.ForeignKeyConstraint(
            ["job_id", "seq"],
            ["events.job_id", "events.seq"],
            name="fk_deliveries_job_id_events",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_deliveries"),
    )
    op.create_index(
        "ix_deliveries_due", "deliveries", ["due_at"], postgresql_where=sa.text("state = 'pending'")
    )
    op.execute(FUNCTION)
    op.execute(TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER owe_delivery ON events")
    op.execute("DROP FUNCTION owe_delivery()")
    op.drop_table("deliveries")
    op.drop_table("webhooks")
