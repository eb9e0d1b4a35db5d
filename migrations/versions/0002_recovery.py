"""What recovery needs: counted crashes, one driver per sandbox, indexes for the sweepers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PENDING = sa.text("status = 'pending'")
RUNNING = sa.text("status = 'running'")
DRIVING = sa.text("status IN ('running', 'human_intervention')")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default="5", nullable=False))
    op.add_column("jobs", sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("sandbox_key", sa.Text(), nullable=True))
    op.create_index("ix_jobs_pending", "jobs", ["priority", "created_at"], postgresql_where=PENDING)
    op.create_index("ix_jobs_leases", "jobs", ["lease_expires_at"], postgresql_where=RUNNING)
    op.create_index("ix_jobs_driven_sandbox", "jobs", ["sandbox_key"], unique=True, postgresql_where=DRIVING)
    op.create_index("ix_jobs_wanted_sandbox", "jobs", ["sandbox_key"], postgresql_where=PENDING)
    op.drop_column("jobs", "dispatched_at")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True))
    for index in ("ix_jobs_wanted_sandbox", "ix_jobs_driven_sandbox", "ix_jobs_leases", "ix_jobs_pending"):
        op.drop_index(index, table_name="jobs")
    for column in ("sandbox_key", "crashes", "priority"):
        op.drop_column("jobs", column)
