"""Which jobs ended long ago. The index is made without holding up those who write."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        # One that was interrupted has left an index that nobody may use.
        op.drop_index("ix_jobs_finished_at", "jobs", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_jobs_finished_at",
            "jobs",
            ["finished_at"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("finished_at IS NOT NULL"),
        )


def downgrade() -> None:
    op.drop_index("ix_jobs_finished_at", table_name="jobs")
