"""Logs of processes that serve: one line an event, for people or for machines, without anything that a library quotes.

A message is written with its values by our own code, which never logs what people wrote. Of an exception only the kind is
kept: its text and its traceback may hold what a library read.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

VARIABLE = "RINGFENCE_LOG_FORMAT"
_LONGEST_MESSAGE = 2000
_NOISY = {
    **dict.fromkeys(("httpx", "httpcore", "flwr", "uvicorn", "alembic"), logging.ERROR),
    "tuf": logging.WARNING,  # it says at INFO which keys did not sign, when enough of the others did
}


class LogFormat(StrEnum):
    """How lines look."""

    TEXT = "text"
    JSON = "json"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", help="Lines for people, or one JSON object each.", envvar=VARIABLE),
]


def log_to_stderr(form: LogFormat) -> None:
    """Write the process's log to standard error, from INFO up; libraries that talk much from higher up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form is LogFormat.JSON else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy, level in _NOISY.items():
        logging.getLogger(noisy).setLevel(level)


class TextLines(logging.Formatter):
    """``2026-01-31 12:00:00 INFO ringfence.agent connected``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        at = _at(record).strftime("%Y-%m-%d %H:%M:%S")
        kind = _kind(record)
        return f"{at} {record.levelname} {record.name} {_one_line(record)}" + (f" [{kind}]" if kind else "")


class JsonLines(logging.Formatter):
    """One object a line: at (RFC 3339, UTC), level, logger, message, and error: the kind of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        values = {
            "at": _at(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _one_line(record),
        }
        kind = _kind(record)
        return json.dumps({**values, "error": kind} if kind else values)


def _at(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _one_line(record: logging.LogRecord) -> str:
    # A name that a peer chose must not begin a line of its own, nor steer a terminal.
    text = record.getMessage()[:_LONGEST_MESSAGE]
    return "".join(character if character.isprintable() else " " for character in text)


def _kind(record: logging.LogRecord) -> str:
    return record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
