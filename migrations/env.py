"""How Alembic reaches the database: one migration at a time, and never waiting long for a lock."""

import time

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from shared.models import Base

ONE_AT_A_TIME = 0x6C79626963  # key of the advisory lock: "lybic"
TRY_SECONDS = 0.2


def run() -> None:
    """Migrates under an advisory lock, so that several starting replicas do not collide."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '60s'"))
        connection.commit()
        _wait_for_turn(connection)
        context.configure(
            connection=connection, target_metadata=Base.metadata, transaction_per_migration=True
        )
        with context.begin_transaction():
            context.run_migrations()


def _wait_for_turn(connection: Connection) -> None:
    """Takes the lock until the connection is closed, so also between the transactions of a migration.

    By trying: an index that is made concurrently waits for every transaction, and one that waits for the lock
    would wait for the index.
    """
    while True:
        with connection.begin():
            mine = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ONE_AT_A_TIME})
        if mine:
            return
        time.sleep(TRY_SECONDS)


run()
