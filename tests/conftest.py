"""Fixtures of tests in more than one folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import KINDS, empty_database_url, new_database

from ringfence.server.database import Database


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Take back what a command that ran within a test did to the process's log: its stream ends with the test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [found for found in root.handlers if found not in before]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables: SQLite, then PostgreSQL."""
    with empty_database_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A coordinator's empty database: SQLite, then PostgreSQL."""
    with new_database(request.param, tmp_path) as made:
        yield made
