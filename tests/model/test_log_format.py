"""A log line is one line, whatever is in it, and quotes nothing of an exception."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from ringfence.model.log_format import JsonLines, TextLines

PLANTED = "cormorant-quilt"


def record(message: str, *values: object, fails: bool = False) -> logging.LogRecord:
    information = None
    if fails:
        try:
            raise ValueError(PLANTED)
        except ValueError:
            information = sys.exc_info()
    return logging.LogRecord("ringfence.agent", logging.WARNING, "x.py", 1, message, values, information)


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()], ids=["json", "text"])
def test_a_peers_name_cannot_begin_a_line_or_steer_a_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record("refused %s", "acme\n2026 INFO all is well\x1b[2J\u2028"))
    assert line.isprintable()
    assert "acme" in line


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()], ids=["json", "text"])
def test_of_an_exception_its_kind_is_kept_and_nothing_else(formatter: logging.Formatter) -> None:
    line = formatter.format(record("it failed", fails=True))
    assert "ValueError" in line
    assert PLANTED not in line
    assert "Traceback" not in line


def test_a_json_line_has_time_level_logger_and_message() -> None:
    values = json.loads(JsonLines().format(record("refused %s", "acme")))
    assert set(values) == {"at", "level", "logger", "message"}
    assert (values["level"], values["logger"], values["message"]) == (
        "warning",
        "ringfence.agent",
        "refused acme",
    )
    assert values["at"].endswith("+00:00")
    assert json.loads(JsonLines().format(record("it failed", fails=True)))["error"] == "ValueError"


def test_an_endless_message_is_cut() -> None:
    assert len(TextLines().format(record("x" * 100_000))) < 3000


PROGRAM = """
import logging, sys
from ringfence.model.log_format import LogFormat, log_to_stderr
log_to_stderr(LogFormat(sys.argv[1]))
logging.getLogger("ringfence.test").info("one")
logging.getLogger("httpx").info("a request line")
logging.getLogger("tuf.api._payload").info("No signature for keyid")
try:
    {}["key"]
except KeyError:
    logging.getLogger("any.library").exception("two")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_process_writes_one_line_an_event_to_standard_error(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert "one" in first
    assert "KeyError" in second
    if form == "json":
        assert [json.loads(line)["message"] for line in (first, second)] == ["one", "two"]
