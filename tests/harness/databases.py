"""The two databases that a coordinator may have, made for one test each: an SQLite file, and a schema of a real PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select

from ringfence.server.artifacts import ArtifactStore, record
from ringfence.server.database import Database
from ringfence.server.database_schema import create_schema
from ringfence.server.run_store import Run, RunStore
from ringfence.server.tables import run_checkpoints

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


def run_store(folder: Path) -> RunStore:
    """Return the runs of a coordinator that has only a folder for its database and artifacts, made on first use."""
    database = Database(f"sqlite:///{folder.absolute() / 'coordinator.db'}")
    assert database.file is not None
    if not database.file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        create_schema(database, federation="example")
    return RunStore(database, artifacts=ArtifactStore(folder / "artifacts"))


def checkpoint_file(folder: Path, run: Run, *, round_: int) -> Path:
    """Return where the model after a round lies, for a test that damages it."""
    with run._database.reading() as connection:
        digest = connection.scalar(
            select(run_checkpoints.c.artifact).where(
                run_checkpoints.c.run == run.name, run_checkpoints.c.round == round_
            )
        )
    assert digest is not None
    return folder / "artifacts" / digest[:2] / digest


def replace_checkpoint(run: Run, *, round_: int, content: bytes | None) -> None:
    """Put another artifact in the place of a round's model, or none, past every check."""
    this = (run_checkpoints.c.run == run.name) & (run_checkpoints.c.round == round_)
    with run._database.transaction() as connection:
        if content is None:
            connection.execute(run_checkpoints.delete().where(this))
            return
        artifact = run._artifacts.keep(content, kind="checkpoint")
        record(artifact, on=connection, now=datetime.now(UTC))
        connection.execute(run_checkpoints.update().where(this).values(artifact=artifact.digest))
