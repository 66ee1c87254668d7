"""Files with one message a row, read by queries that see the named tables and nothing else."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest
from data_homes import LABEL_MAP, data_home

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.table_source import TableSource
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.conversation import Conversation
from ringfence.model.errors import ConfigError, DataError

PLANTED = "the blue heron waits"
MESSAGES = "SELECT conversation_id, message_id, sender_id, sent_at, text FROM dm"
LABELS = "SELECT conversation_id, label, decided_at FROM decisions"
ROWS = [
    {
        "conversation_id": "007",
        "message_id": 2,
        "sender_id": "otter",
        "sent_at": "2026-03-01T12:00:20Z",
        "text": "second",
    },
    {
        "conversation_id": "7",
        "message_id": 3,
        "sender_id": "wren",
        "sent_at": "2026-03-01T12:00:05Z",
        "text": 'a, "b"\nc',
    },
    {
        "conversation_id": "007",
        "message_id": 1,
        "sender_id": "newt",
        "sent_at": "2026-03-01T12:00:10Z",
        "text": "first 😀",
    },
]
DECISIONS = [
    {"conversation_id": "007", "label": "ban", "decided_at": "2026-03-02"},
    {"conversation_id": "7", "label": "no_violation", "decided_at": "2026-03-02"},
]


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        source = path.with_suffix(".jsonl")
        write(source, rows)
        duckdb.sql(f"COPY (SELECT * FROM read_json('{source}')) TO '{path}' (FORMAT parquet)")  # noqa: S608 - made here
        source.unlink()


def settings(**changes: Any) -> DataSettings:
    given: dict[str, Any] = {
        "tables": {"dm": "export/dm-*.jsonl", "decisions": "export/decisions.jsonl"},
        "messages": MESSAGES,
        "labels": LABELS,
        "label_map": LABEL_MAP,
    }
    return DataSettings(**{**given, **changes})


def read(home: MemberHome, data: DataSettings) -> dict[str, Conversation]:
    pseudonyms = Pseudonyms(contribution_secret(home))
    called = {pseudonyms.conversation(name).hex(): name for name in ("007", "7", "8")}
    with take_snapshot(home, data=data) as snapshot:
        return {called[item.id]: item for item in snapshot}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_conversations(home: MemberHome, ending: str) -> None:
    write(home.root / f"export/dm-1.{ending}", ROWS[:2])
    write(home.root / f"export/dm-2.{ending}", ROWS[2:])
    write(home.root / f"export/decisions.{ending}", DECISIONS)
    found = read(
        home, settings(tables={"dm": [f"export/dm-*.{ending}"], "decisions": f"export/decisions.{ending}"})
    )
    assert {name: item.label for name, item in found.items()} == {"007": 1, "7": 0}, "007 is not 7"
    assert [message.text for message in found["007"].messages] == ["first 😀", "second"]
    assert found["7"].messages[0].text == 'a, "b"\nc'
    assert found["007"].messages[0].time == 1772366410.0
    assert list(home.snapshots.glob("snapshot-*")) == []


@pytest.mark.parametrize(
    ("numbers", "in_order"),
    [
        (["8", "9", "10", "11", "12"], ["8", "9", "10", "11", "12"]),
        (["098", "099", "100", "101"], ["098", "099", "100", "101"]),
        (["-2", "-1", "0", "18446744073709551616"], ["-2", "-1", "0", "18446744073709551616"]),
        (["10", "10a", "9", "9a"], ["10", "10a", "9", "9a"]),
        (["01ARZ", "01BX5", "010ZZ"], ["010ZZ", "01ARZ", "01BX5"]),
    ],
    ids=["numbers", "zeros before them", "beyond what SQLite counts with", "mixed with text", "text"],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_messages_of_one_time_are_in_the_order_of_their_ids(
    home: MemberHome, ending: str, numbers: list[str], in_order: list[str]
) -> None:
    scattered = [*numbers[1::2], *numbers[::2]]
    rows = [{**ROWS[0], "message_id": number, "text": f"m{number}"} for number in scattered]
    write(home.root / f"export/dm.{ending}", rows)
    write(home.root / "export/decisions.jsonl", DECISIONS)
    found = read(home, settings(tables={"dm": f"export/dm.{ending}", "decisions": "export/decisions.jsonl"}))
    assert [message.text for message in found["007"].messages] == [f"m{number}" for number in in_order]


def test_007_and_7_are_two_ids_of_messages_and_7_twice_is_one(home: MemberHome) -> None:
    write(home.root / "export/decisions.jsonl", DECISIONS)
    data = settings(tables={"dm": "export/dm.csv", "decisions": "export/decisions.jsonl"})
    write(home.root / "export/dm.csv", [{**ROWS[0], "message_id": number} for number in ("7", "007")])
    assert len(read(home, data)["007"].messages) == 2
    write(home.root / "export/dm.csv", [{**ROWS[0], "message_id": number} for number in ("7", " 7")])
    with pytest.raises(DataError, match="message_id twice"):
        read(home, data)


def test_since_is_bound_in_files_as_well(home: MemberHome) -> None:
    write(home.root / "export/dm-1.jsonl", ROWS)
    write(home.root / "export/decisions.jsonl", DECISIONS)
    since = f"{MESSAGES} WHERE CAST(sent_at AS TIMESTAMP) >= CAST(:since AS TIMESTAMP)"
    assert set(read(home, settings(messages=since, since="2026-03-01 12:00:08"))) == {"007"}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM glob('{folder}/*')",
        "COPY dm TO '{folder}/out.csv'",
        "ATTACH '{folder}/out.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; SELECT 2",
    ],
)
def test_a_query_reaches_nothing_but_its_tables(home: MemberHome, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "elsewhere" / "secret.csv"
    write(secret, [{"text": PLANTED}])
    write(home.root / "export/dm-1.jsonl", ROWS)
    write(home.root / "export/decisions.jsonl", DECISIONS)
    with TableSource(home, data=settings()) as source, pytest.raises(DataError) as caught:
        list(source.query("messages", statement.format(secret=secret, folder=secret.parent)).rows)
    assert "messages query" in caught.value.message
    assert PLANTED not in caught.value.message + caught.value.hint
    assert [path.name for path in secret.parent.iterdir()] == ["secret.csv"]


def test_what_closes_the_tables_off_cannot_be_opened_again(home: MemberHome) -> None:
    write(home.root / "export/dm-1.jsonl", ROWS)
    write(home.root / "export/decisions.jsonl", DECISIONS)
    with TableSource(home, data=settings()) as source:
        assert source._database is not None
        for setting in (
            "enable_external_access = true",
            "memory_limit = '64GB'",
            "python_enable_replacements = true",
        ):
            with pytest.raises(duckdb.Error, match=r"locked|Cannot"):
                source._database.execute(f"SET {setting}")


def test_what_looks_like_a_number_in_the_first_rows_of_a_csv_need_not_be_one(home: MemberHome) -> None:
    rows = [{**ROWS[0], "conversation_id": "7", "message_id": number} for number in range(25_000)]
    write(
        home.root / "export/dm.csv",
        [*rows, {**ROWS[0], "message_id": "a-b"}, {**ROWS[0], "message_id": "1e3"}],
    )
    write(home.root / "export/decisions.jsonl", DECISIONS)
    found = read(home, settings(tables={"dm": "export/dm.csv", "decisions": "export/decisions.jsonl"}))
    assert {name: len(item.messages) for name, item in found.items()} == {"7": 25_000, "007": 2}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (MESSAGES.replace("dm", "nowhere"), "a table or function that there is not"),
        (MESSAGES.replace("sender_id", "absent AS sender_id"), "a column that its table has not"),
        (MESSAGES.replace("message_id", "CAST(text AS INTEGER) AS message_id"), "cannot be converted"),
        ("SELEC", "is not SQL"),
        ("SELECT conversation_id FROM dm", "no column message_id"),
    ],
)
def test_what_is_wrong_with_a_query_is_named_without_a_value(
    home: MemberHome, statement: str, expected: str
) -> None:
    write(home.root / "export/dm-1.jsonl", [{**ROWS[0], "text": PLANTED}])
    write(home.root / "export/decisions.jsonl", DECISIONS)
    with pytest.raises(DataError, match=expected) as caught:
        read(home, settings(messages=statement))
    assert PLANTED not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("dm-1.csv", b"conversation_id,text\n\xff\xfe\x00,heron\n", r"dm-1\.csv, line 2: is not UTF-8"),
        ("dm-1.jsonl", b'{"conversation_id": "heron"\n', r"dm-1\.jsonl, line 1: is not JSON"),
        ("dm-1.parquet", b"PAR1 heron PAR1", r"dm-1\.parquet is no whole Parquet file"),
        ("dm-1.xlsx", b"heron", "known kind"),
    ],
)
def test_a_damaged_file_is_said_to_be_one_and_not_quoted(
    home: MemberHome, name: str, content: bytes, expected: str
) -> None:
    (home.root / "export").mkdir()
    (home.root / "export" / name).write_bytes(content)
    write(home.root / "export/decisions.jsonl", DECISIONS)
    data = settings(tables={"dm": f"export/{name}", "decisions": "export/decisions.jsonl"})
    with pytest.raises((DataError, ConfigError), match=expected) as caught:
        read(home, data)
    assert "heron" not in caught.value.message + caught.value.hint


def test_a_pattern_that_matches_nothing_is_named(home: MemberHome) -> None:
    write(home.root / "export/decisions.jsonl", DECISIONS)
    with pytest.raises(ConfigError, match=r"dm-\*\.jsonl"):
        read(home, settings())


class TestFilesElsewhere:
    def test_are_fetched_privately_and_removed(self, home: MemberHome, tmp_path: Path) -> None:
        store = tmp_path / "store"
        write(store / "dm-1.parquet", ROWS[:2])
        write(store / "dm-2.parquet", ROWS[2:])
        write(store / "decisions.csv", DECISIONS)
        data = settings(
            tables={"dm": f"file://{store}/dm-*.parquet", "decisions": f"file://{store}/decisions.csv"}
        )
        assert data.needs_network
        assert set(read(home, data)) == {"007", "7"}
        assert [path for path in home.snapshots.rglob("*") if path.is_file()] == []

    def test_hold_whole_conversations_as_well(self, home: MemberHome) -> None:
        line = {"id": "7", "label": 1, "messages": [{"author": "otter", "text": "hello"}]}
        with fsspec.open("memory://bucket/chats-1.jsonl.gz", "wb") as file:
            file.write(gzip.compress(json.dumps(line).encode() + b"\n"))
        assert set(read(home, DataSettings(files=("memory://bucket/*.jsonl.gz",)))) == {"7"}

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:1/chats.jsonl", "ftp://127.0.0.1/x", "simplecache::s3://a/b"]
    )
    def test_are_not_fetched_in_the_clear_nor_left_in_caches(self, home: MemberHome, url: str) -> None:
        with pytest.raises(ConfigError, match="not fetched"):
            read(home, DataSettings(files=(url,)))

    def test_that_are_not_there_or_of_an_unknown_storage_are_named_by_their_kind(
        self, home: MemberHome
    ) -> None:
        with pytest.raises(DataError, match="memory://"):
            read(home, DataSettings(files=("memory://no-bucket/chats.jsonl",)))
        with pytest.raises(ConfigError, match="no-such-storage://"):
            read(home, DataSettings(files=("no-such-storage://a/b?secret=heron",)))
