"""The door: `python -m migrations upgrade|downgrade [REVISION]`."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError

from shared.db import driver_url
from shared.errors import GuiAgentError
from shared.settings import Settings


def config(url: str) -> Config:
    """Alembic's configuration for the database at `url`."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = driver_url(url)
    return made


def main(arguments: list[str]) -> int:
    """Migrates the configured database. Returns the exit code."""
    moves = {"upgrade": (command.upgrade, "head"), "downgrade": (command.downgrade, "-1")}
    if not arguments or arguments[0] not in moves:
        sys.stderr.write("usage: python -m migrations upgrade|downgrade [REVISION]\n")
        return 2
    settings = Settings()
    if settings.storage.url is None:
        sys.stderr.write("POSTGRES_CONNECTION_STRING is not set\n")
        return 1
    move, target = moves[arguments[0]]
    try:
        move(config(settings.storage.url.get_secret_value()), arguments[1] if arguments[1:] else target)
    except GuiAgentError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OperationalError as error:  # its text names host and port, and no password
        sys.stderr.write(f"the database can't be migrated: {error.orig}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
