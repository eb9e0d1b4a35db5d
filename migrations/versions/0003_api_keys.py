"""API keys and the jobs that belong to them; idempotency keys, labels that can be looked for, pauses."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OWNED = sa.text("owner_id IS NOT NULL")
OWNED_ACTIVE = sa.text("owner_id IS NOT NULL AND finished_at IS NULL")
KEYED = sa.text("idempotency_key IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("rate_limit", sa.Text(), nullable=True),
        sa.Column("max_active_tasks", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index(
        "ix_api_keys_name", "api_keys", ["name"], unique=True, postgresql_where=sa.text("revoked_at IS NULL")
    )
    op.add_column("jobs", sa.Column("owner_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("idempotency_key", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("request_digest", sa.LargeBinary(), nullable=True))
    op.add_column("jobs", sa.Column("paused", sa.Interval(), server_default="0", nullable=False))
    op.create_foreign_key("fk_jobs_owner_id_api_keys", "jobs", "api_keys", ["owner_id"], ["id"])
    op.create_index("ix_jobs_owner", "jobs", ["owner_id", "created_at", "id"], postgresql_where=OWNED)
    op.create_index("ix_jobs_owner_active", "jobs", ["owner_id"], postgresql_where=OWNED_ACTIVE)
    op.create_index(
        "ix_jobs_metadata",
        "jobs",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )
    op.create_index(
        "ix_jobs_idempotency",
        "jobs",
        ["owner_id", "idempotency_key"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=KEYED,
    )


def downgrade() -> None:
    for index in ("ix_jobs_idempotency", "ix_jobs_metadata", "ix_jobs_owner_active", "ix_jobs_owner"):
        op.drop_index(index, table_name="jobs")
    op.drop_constraint("fk_jobs_owner_id_api_keys", "jobs", type_="foreignkey")
    for column in ("paused", "request_digest", "idempotency_key", "owner_id"):
        op.drop_column("jobs", column)
    op.drop_table("api_keys")
