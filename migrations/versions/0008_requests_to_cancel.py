"""Requests to cancel are found by those who hold the jobs, however many they hold."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAME, ASKED = "ix_jobs_asked_to_cancel", "status = 'running' AND cancel_requested_at IS NOT NULL"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        # One that was interrupted has left an index that nobody may use.
        op.drop_index(NAME, "jobs", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            NAME, "jobs", ["lease_owner"], postgresql_concurrently=True, postgresql_where=sa.text(ASKED)
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(NAME, "jobs", postgresql_concurrently=True, if_exists=True)
