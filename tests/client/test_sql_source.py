"""A member's database: read within one read-only transaction, and no error quotes what is in it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from data_homes import LABELS, MESSAGES, ChatDatabase, at, chat_database, data_home
from pydantic import ValidationError

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.sql_source import SqlSource
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError

PLANTED = "the blue heron waits"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChatDatabase]:
    with chat_database(request.param, tmp_path) as made:
        made.say(
            ("c1", 2, "otter", at(20), "and then: 12:30? 100% of it"),
            ("c2", 1, "wren", at(5), "hello"),
            ("c1", 1, "newt", at(10), "first"),
            ("c1", 3, "newt", at(20), "same second, later id"),
            ("c3", 1, "vole", None, "nobody decided"),
        )
        made.decide(("c1", "ban", at(50)), ("c2", "no_violation", at(50)), ("c9", "ban", at(50)))
        yield made


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def read(
    home: MemberHome, database: ChatDatabase, *, labelled_only: bool = True, **changes: Any
) -> dict[str, Conversation]:
    """Conversations by the names in the source."""
    pseudonyms = Pseudonyms(contribution_secret(home))
    called = {pseudonyms.conversation(f"c{n}").hex(): f"c{n}" for n in range(100)}
    with take_snapshot(
        home, data=database.settings(**changes), labelled_only=labelled_only, environment=database.environment
    ) as snapshot:
        return {called[item.id]: item for item in snapshot}


def test_messages_become_conversations_in_order_of_time_with_their_labels(
    home: MemberHome, database: ChatDatabase
) -> None:
    found = read(home, database)
    assert {name: item.label for name, item in found.items()} == {"c1": 1, "c2": 0}
    assert [message.text for message in found["c1"].messages] == [
        "first",
        "and then: 12:30? 100% of it",
        "same second, later id",
    ]
    assert [message.time for message in found["c1"].messages] == [1772366410.0, 1772366420.0, 1772366420.0]


def test_conversations_that_nobody_decided_are_counted_and_never_trained_on(
    home: MemberHome, database: ChatDatabase
) -> None:
    assert set(read(home, database, labelled_only=False)) == {"c1", "c2", "c3"}
    assert set(read(home, database)) == {"c1", "c2"}


def test_people_and_conversations_go_by_pseudonyms_that_stay_the_same(
    home: MemberHome, database: ChatDatabase
) -> None:
    first, second = read(home, database), read(home, database)
    assert first == second
    for conversation in first.values():
        for name in ("otter", "newt", "wren", "c1", "c2"):
            assert name not in (conversation.id, *conversation.participants)
    assert len(first["c1"].participants) == 2


def test_the_newest_decision_stands_and_contradicting_ones_decide_nothing(
    home: MemberHome, database: ChatDatabase
) -> None:
    database.decide(("c2", "ban", at(55)), ("c3", "ban", at(10)), ("c3", "no_violation", at(10)))
    found = read(home, database, labelled_only=False)
    assert {name: item.label for name, item in found.items()} == {"c1": 1, "c2": 1, "c3": None}
    with take_snapshot(
        home, data=database.settings(), labelled_only=False, environment=database.environment
    ) as snapshot:
        assert snapshot.contradicting_labels == 1
        assert snapshot.decisions_without_messages == 1
    # Without a time nobody knows which was the last word.
    untimed = read(home, database, labels="SELECT conversation_id, decision AS label FROM mod_decisions")
    assert {name: item.label for name, item in untimed.items()} == {"c1": 1}


def test_a_decision_to_be_ignored_decides_nothing(home: MemberHome, database: ChatDatabase) -> None:
    database.decide(("c1", "skipped", at(55)), ("c3", None, at(55)))
    assert set(read(home, database)) == {"c2"}


def test_since_is_bound_and_never_pasted(home: MemberHome, database: ChatDatabase) -> None:
    found = read(
        home, database, messages=f"{MESSAGES} WHERE sent_at >= :since", since="2026-03-01T12:00:10+00:00"
    )
    assert set(found) == {"c1"}
    with pytest.raises(ValidationError):
        database.settings(
            messages=f"{MESSAGES} WHERE sent_at >= :since", since="2026-01-01'; DROP TABLE dm; --"
        )
    with pytest.raises(ValidationError, match="which is not set"):
        database.settings(messages=f"{MESSAGES} WHERE sent_at >= :since")


def test_since_counts_in_its_own_zone(home: MemberHome, database: ChatDatabase) -> None:
    for since in ("2026-03-01T14:00:10+02:00", "2026-03-01T12:00:10", "2026-03-01 07:00:10-05:00"):
        assert set(read(home, database, messages=f"{MESSAGES} WHERE sent_at >= :since", since=since)) == {
            "c1"
        }


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp with time zone", "date::timestamptz"])
def test_since_may_be_cast_in_the_way_of_postgresql(
    home: MemberHome, database: ChatDatabase, kind: str
) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite has no such cast")
    query = f"{MESSAGES} WHERE sent_at >= :since::{kind} AND body::text <> ':other'"
    since = "2026-03-01T12:00:10Z" if "date" not in kind else "2026-03-01"
    assert "c1" in read(home, database, messages=query, since=since)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.000+00:00", "%Y-%m-%dT%H:%M:%S"])
def test_times_that_sqlite_would_compare_wrongly_are_an_error_and_right_as_its_own(
    home: MemberHome, tmp_path: Path, form: str
) -> None:
    with chat_database("sqlite", tmp_path) as database:
        for hour in range(24):
            moment = datetime(2026, 3, 1, hour, tzinfo=UTC).strftime(form)
            database.say((f"c{hour}", 1, "otter", moment, PLANTED))
        since = "2026-03-01T12:00+02:00"
        with pytest.raises(DataError, match="before since") as caught:
            read(
                home,
                database,
                labelled_only=False,
                messages=f"{MESSAGES} WHERE sent_at >= :since",
                since=since,
            )
        assert "datetime(sent_at) >= :since" in caught.value.hint
        assert PLANTED not in caught.value.message
        rightly = f"{MESSAGES} WHERE datetime(sent_at) >= :since"
        assert set(read(home, database, labelled_only=False, messages=rightly, since=since)) == {
            f"c{hour}" for hour in range(10, 24)
        }
        # As of a day both forms are compared rightly.
        plainly = f"{MESSAGES} WHERE sent_at >= :since"
        assert len(read(home, database, labelled_only=False, messages=plainly, since="2026-03-01")) == 24


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM dm",
        "DELETE FROM dm RETURNING conversation_id, message_id, sender_id, sent_at, body AS text",
        "INSERT INTO dm VALUES ('x', 9, 'x', NULL, 'x')",
        "DROP TABLE dm",
        "CREATE TABLE other (a TEXT)",
        f"{MESSAGES}; COMMIT; DELETE FROM dm",  # noqa: S608 - it is meant to
        "COMMIT",
        "ATTACH DATABASE 'made-by-a-query.db' AS other",
        "WITH gone AS (DELETE FROM dm RETURNING *) SELECT conversation_id, message_id, sender_id, sent_at, body AS text FROM gone",
    ],
)
def test_a_query_that_would_write_is_refused_by_the_database(
    home: MemberHome, database: ChatDatabase, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read(home, database, messages=statement)
    assert caught.value.hint
    assert database.count() == 5
    assert not (tmp_path / "made-by-a-query.db").exists()


def test_both_queries_see_one_state_of_the_data(home: MemberHome, database: ChatDatabase) -> None:
    if database.kind == "sqlite":
        database.run("PRAGMA journal_mode = WAL")
    with SqlSource(home, data=database.settings(), environment=database.environment) as source:
        before = list(source.query("labels", LABELS).rows)
        database.decide(("c3", "ban", at(59)))
        database.say(("c4", 1, "hare", at(59), "written meanwhile"))
        assert list(source.query("labels", LABELS).rows) == before
        assert len(list(source.query("messages", MESSAGES).rows)) == 5
    assert database.count() == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"messages": "SELECT conversation_id, message_id, sender_id, sent_at, body FROM dm"},
            "no column text",
        ),
        ({"messages": "SELECT sender_id, sender_id FROM dm"}, "no column conversation_id"),
        ({"messages": "SELECT *, body AS text, body AS text FROM dm"}, "column text twice"),
        ({"messages": "SELECT a FROM nowhere"}, "nowhere"),
        ({"messages": "SELECT absent FROM dm"}, "absent"),
        ({"messages": "SELEC 1"}, "messages query"),
        ({"messages": f"{MESSAGES} WHERE 1 = 0"}, "yields no row"),
        ({"messages": f"{MESSAGES} UNION ALL {MESSAGES}"}, "message_id twice"),
        (
            {
                "messages": "SELECT conversation_id, message_id, NULL AS sender_id, sent_at, body AS text FROM dm"
            },
            "column sender_id: is null",
        ),
        (
            {
                "messages": "SELECT conversation_id, message_id, sender_id, body AS sent_at, body AS text FROM dm"
            },
            "column sent_at",
        ),
        ({"labels": "SELECT conversation_id, body AS label FROM dm"}, "column label"),
        (
            {"labels": "SELECT decision AS label FROM mod_decisions"},
            "labels query yields no column conversation_id",
        ),
    ],
)
def test_what_is_wrong_is_named_by_query_and_column_and_never_by_value(
    home: MemberHome, database: ChatDatabase, changes: dict[str, str], expected: str
) -> None:
    database.say(("c77", 1, "quiet-heron", at(30), PLANTED))
    with pytest.raises(DataError) as caught:
        read(home, database, **changes)
    said = f"{caught.value.message} {caught.value.hint}"
    assert expected in said
    for value in (PLANTED, "heron", "c77", "otter", "12:30"):
        assert value not in said
    assert caught.value.__cause__ is None, "a chained cause would print the row"


def test_a_conversion_that_fails_does_not_quote_the_value(home: MemberHome, database: ChatDatabase) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite converts anything")
    with pytest.raises(DataError, match="SQLSTATE 22") as caught:
        read(home, database, messages=MESSAGES.replace("message_id", "CAST(body AS INTEGER) AS message_id"))
    said = caught.value.message + caught.value.hint
    assert not [
        value for value in ("first", "then", "12:30", "hello", "same second", "nobody") if value in said
    ]


@pytest.mark.parametrize("column", ["conversation_id", "message_id", "sender_id"])
@pytest.mark.parametrize("value", ["infinite", "no number"])
def test_an_id_that_is_no_finite_number_is_named_by_column(
    home: MemberHome, database: ChatDatabase, column: str, value: str
) -> None:
    if database.kind == "sqlite":
        if value == "no number":
            pytest.skip("SQLite makes null of it")
        expression = "9e999"
    else:
        expression = "'Infinity'::float8" if value == "infinite" else "'NaN'::numeric"
    with pytest.raises(DataError, match=f"messages query, column {column}: is not a finite number"):
        read(home, database, messages=MESSAGES.replace(column, f"{expression} AS {column}"))


def test_numeric_ids_are_in_the_order_of_numbers(home: MemberHome, database: ChatDatabase) -> None:
    database.say(*((f"c{2}", number, "wren", at(40), f"m{number}") for number in (10, 8, 12, 9, 11)))
    kind = "REAL" if database.kind == "sqlite" else "numeric"
    found = read(
        home, database, messages=MESSAGES.replace("message_id", f"CAST(message_id AS {kind}) AS message_id")
    )
    said = [message.text for message in found["c2"].messages]
    assert said == ["hello", "m8", "m9", "m10", "m11", "m12"]


@pytest.mark.parametrize("value", ["infinity", "-infinity"])
def test_a_time_without_end_is_a_value_that_cannot_be_converted_and_no_fault_of_the_connection(
    home: MemberHome, database: ChatDatabase, value: str
) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite has no times")
    database.say(("c1", 9, "otter", value, PLANTED))
    with pytest.raises(DataError, match="messages query meets a value that cannot be converted") as caught:
        read(home, database)
    assert "NULLIF(sent_at, 'infinity')" in caught.value.hint
    assert "host" not in caught.value.hint
    leaving_out = MESSAGES.replace("sent_at", f"NULLIF(sent_at, '{value}') AS sent_at")
    assert len(read(home, database, messages=leaving_out)["c1"].messages) == 4


def test_a_statement_that_takes_too_long_is_ended(home: MemberHome, database: ChatDatabase) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite has no server that could end it")
    slow = MESSAGES.replace("body AS text", "body || pg_sleep(60)::text AS text")
    with pytest.raises(DataError, match="took too long"):
        read(home, database, messages=slow, query_timeout_s=1)


def test_large_messages_come_a_few_at_a_time(home: MemberHome, tmp_path: Path) -> None:
    """In a process of its own, whose highest use of memory is its own as well."""
    with chat_database("postgresql", tmp_path) as database:
        database.run(
            "INSERT INTO dm SELECT 'c' || n, n, 'otter', now(), n || repeat('lovely weather ', 70000) "
            "FROM generate_series(1, 400) n"
        )
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from ringfence.client.data_settings import DataSettings\n"
            "from ringfence.client.member_home import MemberHome\n"
            "from ringfence.client.taking_snapshot import take_snapshot\n"
            f"data = DataSettings(kind='sql', url_env='CHAT_DB_URL', messages={MESSAGES!r})\n"
            "with take_snapshot(MemberHome(Path(sys.argv[1])), data=data, labelled_only=False) as found:\n"
            "    assert len(found) == 400\n"
            "print(Path('/proc/self/status').read_text())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(home.root)],
            env={**os.environ, **database.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    highest_kib = int(next(line for line in done.stdout.splitlines() if line.startswith("VmHWM")).split()[1])
    assert highest_kib < 300 * 1024, "400 MiB of text, of which no more than some are held"


def test_text_of_a_database_that_is_not_utf_8_is_read_with_marks_in_its_place(
    home: MemberHome, tmp_path: Path
) -> None:
    with chat_database("sqlite", tmp_path) as database:
        database.run("INSERT INTO dm VALUES ('c1', 1, 'otter', '2026-03-01', CAST(x'68ff69' AS TEXT))")
        assert read(home, database, labelled_only=False)["c1"].messages[0].text == "h\ufffdi"


def test_a_file_that_is_no_database_is_said_to_be_none(home: MemberHome, tmp_path: Path) -> None:
    (tmp_path / "chats.db").write_text(PLANTED * 100)
    data = DataSettings(kind="sql", url_env="CHAT_DB_URL", messages=MESSAGES)
    with pytest.raises(DataError, match="no SQLite database"):
        take_snapshot(home, data=data, environment={"CHAT_DB_URL": f"sqlite:///{tmp_path}/chats.db"})


def test_the_database_is_opened_in_a_way_that_cannot_write_even_without_our_checks(tmp_path: Path) -> None:
    with chat_database("sqlite", tmp_path) as database:
        source = SqlSource(data_home(tmp_path), data=database.settings(), environment=database.environment)
        with source._sqlite().connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                driver.execute("DELETE FROM dm")
            driver.execute("PRAGMA query_only = OFF")
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                driver.execute("DELETE FROM dm")


def test_postgresql_is_told_that_this_transaction_and_every_later_one_only_reads(
    home: MemberHome, tmp_path: Path
) -> None:
    with (
        chat_database("postgresql", tmp_path) as database,
        SqlSource(home, data=database.settings(), environment=database.environment) as source,
    ):
        for setting, expected in (
            ("transaction_read_only", "on"),
            ("default_transaction_read_only", "on"),
            ("transaction_isolation", "repeatable read"),
        ):
            ((found,),) = source.query("messages", f"SELECT current_setting('{setting}')").rows
            assert found == expected, setting
