"""Logging: JSON lines that carry `job_id` and `run`, plain text on a terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

from shared.settings import LogSettings

_context: ContextVar[dict[str, object]] = ContextVar("log_context", default={})  # noqa: B039 - never mutated

TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(context)s%(message)s"
FIELDS = ["levelname", "name", "message"]

# The first write whole requests and answers at DEBUG, keys among them; lybic calls every refusal an error,
# though our adapter reports it; celery adds two lines to each job's own; opentelemetry tells of every try.
QUIET = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "openai": logging.WARNING,
    "lybic": logging.CRITICAL,
    "celery.app.trace": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "opentelemetry": logging.ERROR,
}


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Adds the fields to every line that this thread logs within the block."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class _TextFormatter(logging.Formatter):
    """Text with the context's fields before the message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _context.get().items())
        record.context = f"[{fields}] " if fields else ""
        return super().format(record)


class _JsonFormatter(JsonFormatter):
    """JSON with the context's fields beside the usual ones."""

    def add_fields(
        self,
        log_data: dict[str, object],
        record: logging.LogRecord,
        message_dict: dict[str, object],
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.update({key: str(value) for key, value in _context.get().items()})


def _formatter(style: str, stream: TextIO) -> logging.Formatter:
    if style == "text" or (style == "auto" and stream.isatty()):
        return _TextFormatter(TEXT)
    return _JsonFormatter(
        FIELDS,
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
        json_ensure_ascii=False,
    )


def configure_logging(settings: LogSettings, stream: TextIO = sys.stderr) -> None:
    """Sends every logger of the process to one stream, in one format."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(settings.format, stream))
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
