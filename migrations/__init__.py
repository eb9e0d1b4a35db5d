"""The schema's history (Alembic). `python -m migrations upgrade` brings a database up to date."""
