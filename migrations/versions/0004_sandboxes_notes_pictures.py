"""Sandboxes that are to be deleted, notes to be remembered, screenshots that are kept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("notes", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("has_pictures", sa.Boolean(), server_default="false", nullable=False))
    op.create_index("ix_jobs_pictures", "jobs", ["finished_at"], postgresql_where=sa.text("has_pictures"))
    op.add_column("steps", sa.Column("picture", sa.Text(), nullable=True))
    op.create_table(
        "sandboxes",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("sandbox_id", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("credentials", sa.LargeBinary(), nullable=False),
        sa.Column("linger", sa.Interval(), nullable=False),
        sa.Column("delete_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_sandboxes_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_sandboxes"),
    )
    op.create_index("ix_sandboxes_key", "sandboxes", ["key"], unique=True)
    op.create_index(
        "ix_sandboxes_due", "sandboxes", ["delete_at"], postgresql_where=sa.text("delete_at IS NOT NULL")
    )
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["api_keys.id"], name="fk_notes_owner_id_api_keys"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_notes_job_id_jobs", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )
    op.create_index("ix_notes_words", "notes", ["words"], postgresql_using="gin")
    op.create_index("ix_notes_owner_id", "notes", ["owner_id"])


def downgrade() -> None:
    op.drop_table("notes")
    op.drop_table("sandboxes")
    op.drop_column("steps", "picture")
    op.drop_index("ix_jobs_pictures", table_name="jobs")
    for column in ("has_pictures", "notes"):
        op.drop_column("jobs", column)
