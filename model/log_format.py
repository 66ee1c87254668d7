"""Logs of processes that serve: one line an event, for people or for machines, without anything that a library quotes.

A message is written with its values by our own code, which never logs what people wrote. Of an exception only the kind is
kept: its text and its traceback may hold what a library read.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

VARIABLE = "RINGFENCE_LOG_FORMAT"
_OPTION = "--log-format"
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
    typer.Option(_OPTION, help="Lines for people, or one JSON object each.", envvar=VARIABLE),
]


def log_to_stderr(form: LogFormat) -> None:
    """Write the process's log to standard error, from INFO up; libraries that talk much from higher up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form is LogFormat.JSON else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy, level in _NOISY.items():
        logging.getLogger(noisy).setLevel(level)


def asks_for_json(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a command line, or else the variable, asks for one object a line; also one that is wrong otherwise.

    Args:
        arguments: of the command.
        environment: where the variable may be; None to leave it out.
    """
    asked = (environment or {}).get(VARIABLE)
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before == _OPTION:
            asked = argument
        elif argument.startswith(f"{_OPTION}="):
            asked = argument.removeprefix(f"{_OPTION}=")
    return asked == LogFormat.JSON


def last_line(message: str, *, level: int, exit_code: int, error_code: str = "", hint: str = "") -> str:
    """Return the object with which a process ends whose log is one object a line: as `JsonLines`, and what to do."""
    record = logging.LogRecord("ringfence.command", level, "", 0, message, (), None)
    told = {"error_code": error_code, "hint": _readable(hint), "exit_code": exit_code}
    return json.dumps({**_values(record), **{name: value for name, value in told.items() if value != ""}})


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
        values = _values(record)
        kind = _kind(record)
        return json.dumps({**values, "error": kind} if kind else values)


def _values(record: logging.LogRecord) -> dict[str, str]:
    return {
        "at": _at(record).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _one_line(record),
    }


def _at(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _one_line(record: logging.LogRecord) -> str:
    return _readable(record.getMessage())


def _readable(text: str) -> str:
    # A name that a peer chose must not begin a line of its own, nor steer a terminal.
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST_MESSAGE])


def _kind(record: logging.LogRecord) -> str:
    return record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
