"""The two databases that a coordinator may have, made for one test each: an SQLite file, and a schema of a real PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ringfence.server.database import Database
from ringfence.server.database_schema import create_schema

SERVER_VARIABLE = "RINGFENCE_TEST_POSTGRESQL"
SERVER = os.environ.get(SERVER_VARIABLE, "postgresql://postgres@127.0.0.1:5432/test")
KINDS = ("sqlite", "postgresql")


@contextmanager
def empty_database_url(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of a database without tables; what PostgreSQL held of it is dropped after the block."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'coordinator.db'}"
        return
    schema = f"ringfence_{secrets.token_hex(8)}"
    try:
        server = psycopg.connect(SERVER, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError:
        pytest.skip(f"no PostgreSQL at {SERVER}: set {SERVER_VARIABLE}")
    with server:
        server.execute(f"CREATE SCHEMA {schema}")
        try:
            yield f"{SERVER}?options=-csearch_path%3D{schema}"
        finally:
            server.execute(f"DROP SCHEMA {schema} CASCADE")


@contextmanager
def new_database(kind: str, folder: Path, *, federation: str = "example") -> Iterator[Database]:
    """Give a coordinator's empty database."""
    with empty_database_url(kind, folder) as url:
        database = Database(url)
        create_schema(database, federation=federation)
        try:
            yield database
        finally:
            database.close()


def write_database_url(folder: Path, url: str | None) -> Path | None:
    """Write the file that ``database_url_file`` names, if the coordinator shall have another database than its own."""
    if url is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "database.url"
    file.write_text(url)
    file.chmod(0o600)
    return file
