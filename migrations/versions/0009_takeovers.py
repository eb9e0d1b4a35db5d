"""Humans may take jobs over: the request, and what the model is told before its first step.

The index by which a worker finds what is asked of its runs serves both kinds of requests, and the version
before, which looks for those to cancel.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

RUNNING, TO_CANCEL = "status = 'running'", "cancel_requested_at IS NOT NULL"
OLD = "ix_jobs_asked_to_cancel", f"{RUNNING} AND {TO_CANCEL}"
NEW = "ix_jobs_requests", f"{RUNNING} AND ({TO_CANCEL} OR takeover_requested_at IS NOT NULL)"


def upgrade() -> None:
    moment = sa.Column("takeover_requested_at", sa.DateTime(timezone=True))
    for column in (moment, sa.Column("advice", sa.Text())):
        op.add_column("jobs", column, if_not_exists=True)  # by a migration that was interrupted below
    _replace(OLD, NEW)


def downgrade() -> None:
    _replace(NEW, OLD)
    op.drop_column("jobs", "advice")
    op.drop_column("jobs", "takeover_requested_at")


def _replace(old: tuple[str, str], new: tuple[str, str]) -> None:
    name, where = new
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        # One that was interrupted has left an index that nobody may use.
        op.drop_index(name, "jobs", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            name, "jobs", ["lease_owner"], postgresql_concurrently=True, postgresql_where=sa.text(where)
        )
        op.drop_index(old[0], "jobs", postgresql_concurrently=True, if_exists=True)
