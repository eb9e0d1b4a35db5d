"""How Alembic reaches the database: one migration at a time, and never waiting long for a lock."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from shared.models import Base

ONE_AT_A_TIME = 0x6C79626963  # key of the advisory lock: "lybic"


def run() -> None:
    """Migrates under an advisory lock, so that several starting replicas do not collide."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '60s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ONE_AT_A_TIME})
            context.run_migrations()


run()
