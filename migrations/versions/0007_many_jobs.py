"""Indexes for tables of a million jobs, made without holding up those who write.

What a version before looks for by an index that goes is found by another one, or more slowly, until its
processes are replaced.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PENDING, RUNNING = "status = 'pending'", "status = 'running'"
OWNED = "owner_id IS NOT NULL"
NEW = {
    "ix_jobs_status": ("jobs", ["status", "created_at", "id"], None),
    "ix_jobs_owner_status": ("jobs", ["owner_id", "status", "created_at", "id"], OWNED),
    "ix_jobs_queue": ("jobs", ["priority", "created_at", "id"], PENDING),
    "ix_jobs_running": ("jobs", ["created_at"], RUNNING),
    "ix_jobs_sandbox_queue": ("jobs", ["sandbox_key", "created_at", "id"], PENDING),
    "ix_jobs_parent": ("jobs", ["parent_id"], "parent_id IS NOT NULL"),
    "ix_notes_job": ("notes", ["job_id"], "job_id IS NOT NULL"),
}
OLD = {
    "ix_jobs_created_at_id": ("jobs", ["created_at", "id"], None),
    "ix_jobs_active": ("jobs", ["created_at"], "finished_at IS NULL"),
    "ix_jobs_owner": ("jobs", ["owner_id", "created_at", "id"], OWNED),
    "ix_jobs_owner_active": ("jobs", ["owner_id"], "owner_id IS NOT NULL AND finished_at IS NULL"),
    "ix_jobs_pending": ("jobs", ["priority", "created_at"], PENDING),
    "ix_jobs_leases": ("jobs", ["lease_expires_at"], RUNNING),
    "ix_jobs_wanted_sandbox": ("jobs", ["sandbox_key"], PENDING),
    "ix_jobs_parent_id": ("jobs", ["parent_id"], None),
}
# Each step changes its job twice: where the page has room for that, no index is written to. And few dead rows
# are many to whoever looks for the few jobs that have not ended.
STORAGE = {
    "fillfactor": 75,
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_analyze_scale_factor": 0.02,
}

Indexes = dict[str, tuple[str, list[str], str | None]]


def upgrade() -> None:
    settings = ", ".join(f"{name} = {value}" for name, value in STORAGE.items())
    op.execute(f"ALTER TABLE jobs SET ({settings})")
    _replace(OLD, NEW)


def downgrade() -> None:
    _replace(NEW, OLD)
    op.execute(f"ALTER TABLE jobs RESET ({', '.join(STORAGE)})")


def _replace(old: Indexes, new: Indexes) -> None:
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        for name, (table, columns, where) in new.items():
            # One that was interrupted has left an index that nobody may use.
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
            op.create_index(
                name,
                table,
                columns,
                postgresql_concurrently=True,
                postgresql_where=None if where is None else sa.text(where),
            )
        for name, (table, _, _) in old.items():
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
