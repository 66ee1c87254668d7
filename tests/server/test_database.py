"""All or nothing, one writer at a time, bounded waits: the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

import ringfence.server
from ringfence.model.errors import ConfigError, StorageBusyError, StorageError
from ringfence.server.database import Database, parse_database_url
from ringfence.server.database_schema import (
    SCHEMA_VERSIONS,
    create_schema,
    require_current_schema,
    require_federation,
    schema_version,
    upgrade_schema,
)
from ringfence.server.tables import audit_events, metadata, properties


def put(database: Database, key: str, value: str = "x") -> None:
    with database.transaction() as connection:
        connection.execute(properties.insert().values(key=key, value=value))


def keys(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.scalars(select(properties.c.key)))


def test_what_several_stores_do_in_one_transaction_is_kept_together_or_not_at_all(database: Database) -> None:
    def fail_late() -> None:
        with database.transaction():
            put(database, "one")
            put(database, "two")
            assert keys(database) == {"federation", "one", "two"}, "inside, one's own changes are seen"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_late()
    assert keys(database) == {"federation"}
    with database.transaction():
        put(database, "one")
        put(database, "two")
    assert keys(database) == {"federation", "one", "two"}


def test_others_see_nothing_of_a_transaction_before_its_end_and_do_not_wait(database: Database) -> None:
    seen: list[set[str]] = []
    with database.transaction():
        put(database, "one")
        reader = threading.Thread(target=lambda: seen.append(keys(database)))
        reader.start()
        reader.join(60)
    assert seen == [{"federation"}]


def test_a_reader_sees_one_state_however_long_it_reads(database: Database) -> None:
    with database.reading() as connection:
        first = set(connection.scalars(select(properties.c.key)))
        writer = threading.Thread(target=lambda: put(database, "one"))
        writer.start()
        writer.join(60)
        assert set(connection.scalars(select(properties.c.key))) == first
    assert keys(database) == first | {"one"}


def test_a_check_before_a_change_holds_against_everybody_else(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(properties.insert().values(key="count", value="0"))
    lost: list[BaseException] = []

    def add() -> None:
        try:
            for _ in range(10):
                with database.transaction() as connection:
                    number = int(connection.scalar(_count) or "")
                    connection.execute(
                        properties.update().where(properties.c.key == "count").values(value=str(number + 1))
                    )
        except BaseException as error:  # noqa: BLE001 - told to the test below
            lost.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert lost == []
    with database.reading() as connection:
        assert connection.scalar(_count) == "40"


_count = select(properties.c.value).where(properties.c.key == "count")


def test_waiting_for_ones_turn_is_bounded_and_says_so(database: Database) -> None:
    hasty = Database(database.url, busy_timeout_s=0.2)
    refused: list[BaseException] = []

    def try_once() -> None:
        try:
            put(hasty, "two")
        except StorageBusyError as error:
            refused.append(error)

    with database.transaction():
        put(database, "one")
        other = threading.Thread(target=try_once)
        other.start()
        other.join(60)
        assert len(refused) == 1
        assert "busy" in str(refused[0])
        assert refused[0].exit_code == 3  # type: ignore[attr-defined]
    put(hasty, "two")
    assert keys(hasty) == {"federation", "one", "two"}
    hasty.close()


_KILLED = """
import os, signal, sys
from ringfence.server.database import Database
from ringfence.server.tables import properties
database = Database(sys.argv[1])
with database.transaction() as connection:
    connection.execute(properties.insert().values(key="kept", value=""))
with database.transaction() as connection:
    connection.execute(properties.insert().values(key="half", value=""))
    connection.execute(properties.update().values(value="changed"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_inside_a_transaction_leaves_the_one_before_and_holds_nobody_up(
    database: Database,
) -> None:
    url = database.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", _KILLED, url], timeout=120, check=False)
    assert done.returncode == -9
    put(database, "after")
    assert keys(database) == {"federation", "kept", "after"}
    with database.reading() as connection:
        assert set(connection.scalars(select(properties.c.value))) == {"example", "", "x"}


def test_moments_come_back_as_they_went_in(database: Database) -> None:
    at = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    with database.transaction() as connection:
        connection.execute(audit_events.insert().values(_event(at)))
        found = connection.scalar(select(audit_events.c.at))
    assert found == at
    assert found is not None
    assert found.tzinfo == UTC


@pytest.mark.parametrize(
    "statement", ["DELETE FROM audit_events", "UPDATE audit_events SET actor = 'nobody'"]
)
def test_what_was_audited_cannot_be_changed_or_removed(statement: str, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(audit_events.insert().values(_event(datetime.now(UTC))))
    with pytest.raises(StorageError), database.transaction() as connection:
        connection.execute(text(statement))
    with database.reading() as connection:
        assert connection.scalar(select(audit_events.c.actor)) == "someone"


def _event(at: datetime) -> dict[str, object]:
    return {"at": at, "actor": "someone", "action": "tried", "subject": "", "detail": ""}


def test_the_migrations_make_the_tables_that_the_program_uses(database: Database) -> None:
    with database.reading() as connection:
        found = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(found, metadata) == []
    scripts = ScriptDirectory(str(Path(ringfence.server.__file__).parent / "migrations"))
    in_order = [script.revision for script in scripts.walk_revisions()][::-1]
    assert tuple(in_order) == SCHEMA_VERSIONS


def test_a_form_is_made_in_one_transaction_and_only_in_an_empty_database(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises((StorageError, ConfigError)):
        require_current_schema(database)
    create_schema(database, federation="example")
    require_current_schema(database)
    assert upgrade_schema(database) == (SCHEMA_VERSIONS[-1], SCHEMA_VERSIONS[-1])
    with pytest.raises(ConfigError, match="holds a coordinator already"):
        create_schema(database, federation="another")
    require_federation(database, federation="example")
    with pytest.raises(ConfigError, match="of the federation example, not of another"):
        require_federation(database, federation="another")
    database.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    create_schema(database, federation="example")
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    # Every table is there already, so that the first migration fails at its first statement or later.
    with pytest.raises(StorageError):
        upgrade_schema(database)
    with database.reading() as connection:
        assert not inspect(connection).has_table("alembic_version")
        assert connection.scalar(select(properties.c.value)) == "example"
    database.close()


def test_a_form_that_this_program_does_not_know_is_refused_and_left_alone(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (require_current_schema, upgrade_schema):
        with pytest.raises(ConfigError, match="does not know") as caught:
            attempt(database)
        assert caught.value.exit_code == 4
        assert "A newer version made it" in caught.value.hint
    assert schema_version(database) == "9999"


def test_an_older_form_is_refused_with_the_command_that_upgrades_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringfence.server.database_schema.SCHEMA_VERSIONS", ("0001", "0002"))
    with pytest.raises(ConfigError, match="schema version 0001, this program uses 0002") as caught:
        require_current_schema(database)
    assert "ringfence-coordinator db upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///relative.db", "mysql://user:hidden@host/x", "postgresql:hidden"]
)
def test_a_url_that_is_not_of_a_known_database_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_database_url(url)
    assert "hidden" not in str(caught.value) + caught.value.hint


def test_a_password_is_never_shown() -> None:
    database = Database("postgresql://someone:hidden@127.0.0.1:1/nothing", busy_timeout_s=1)
    with pytest.raises(StorageError, match="cannot be reached") as caught, database.reading():
        pass
    assert "hidden" not in database.place + str(caught.value) + caught.value.hint
    assert "someone" in database.place
