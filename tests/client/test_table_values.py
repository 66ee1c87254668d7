"""Values of tables are read as they stand in the file, whatever the first rows look like; and what only some files have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from data_homes import data_home

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_preview import ColumnPreview, preview, probe
from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.table_source import TableSource
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError

MESSAGES = "SELECT conversation_id, message_id, sender_id, sent_at, text FROM dm"
NAMES = ("conversation_id", "message_id", "sender_id", "sent_at", "text")
MANY = 22_000  # more rows than DuckDB looks at to guess a type
LABEL_MAP = {"positive": ["1"], "negative": ["0"]}


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = ("c1", number, f"u{number % 2}", 1_700_000_000 + number, f"m{number}")
    return {**dict(zip(NAMES, values, strict=True)), **changes}


def jsonl(home: MemberHome, name: str, rows: Iterable[dict[str, Any]]) -> str:
    (home.root / name).write_text("".join(json.dumps(each) + "\n" for each in rows))
    return name


def table(home: MemberHome, name: str, content: str | bytes) -> str:
    (home.root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def parquet(home: MemberHome, name: str, select: str, options: str = "") -> str:
    duckdb.sql(f"COPY ({select}) TO '{home.root / name}' (FORMAT parquet{options})")
    return name


def settings(*files: str, messages: str = MESSAGES, **changes: Any) -> DataSettings:
    return DataSettings(
        **{"tables": {"dm": files, **changes.pop("tables", {})}, "messages": messages, **changes}
    )


def rows_of(home: MemberHome, data: DataSettings) -> list[Sequence[object]]:
    with TableSource(home, data=data) as source:
        return list(source.query("messages", data.messages or "").rows)


def conversations(home: MemberHome, data: DataSettings, *names: str) -> dict[str, Conversation]:
    pseudonyms = Pseudonyms(contribution_secret(home))
    called = {pseudonyms.conversation(name).hex(): name for name in names}
    with take_snapshot(home, data=data, labelled_only=False) as snapshot:
        return {called[item.id]: item for item in snapshot}


class TestJsonLines:
    def test_what_is_null_in_the_first_rows_is_read_in_the_later_ones(self, home: MemberHome) -> None:
        dm = jsonl(home, "dm.jsonl", (row(n, conversation_id=f"c{n}") for n in range(MANY)))
        decisions = jsonl(
            home,
            "decisions.jsonl",
            (
                {"conversation_id": f"c{n}", "label": None if n < MANY - 100 else str(n % 2)}
                for n in range(MANY)
            ),
        )
        data = settings(
            dm,
            tables={"decisions": (decisions,)},
            labels="SELECT * FROM decisions",
            label_map=LABEL_MAP,
        )
        with take_snapshot(home, data=data) as snapshot:
            assert len(snapshot) == 100
        times = jsonl(
            home, "times.jsonl", (row(n, sent_at=None if n < MANY else 5.0) for n in range(MANY + 1))
        )
        assert rows_of(home, settings(times))[-1][3] == 5.0

    @pytest.mark.parametrize(
        ("late", "column", "expected"),
        [
            ({"conversation_id": "late"}, 0, "late"),
            ({"sent_at": 1.5}, 3, 1.5),
            ({"sent_at": "2024-01-01T00:00:00.25+05:30"}, 3, "2024-01-01T00:00:00.25+05:30"),
            ({"text": "words"}, 4, "words"),
            ({"text": None}, 4, None),
        ],
        ids=["a text among numbers", "a fraction", "another form of time", "words after dates", "null"],
    )
    def test_what_comes_late_is_read_as_it_stands(
        self, home: MemberHome, late: dict[str, Any], column: int, expected: object
    ) -> None:
        early = {"conversation_id": 7, "text": "2024-01-01"} if "sent_at" not in late else {}
        dm = jsonl(home, "dm.jsonl", [*(row(n, **early) for n in range(MANY)), row(MANY, **late)])
        found = rows_of(home, settings(dm))
        assert found[-1][column] == expected
        assert len(found) == MANY + 1
        if early:
            assert found[0][4] == "2024-01-01"

    def test_a_field_that_only_late_rows_have_is_a_column(self, home: MemberHome) -> None:
        bare = {name: value for name, value in row(0).items() if name != "sent_at"}
        dm = jsonl(
            home, "dm.jsonl", [*({**bare, "message_id": n} for n in range(MANY)), row(MANY, sent_at=9)]
        )
        found = rows_of(home, settings(dm))
        assert (found[0][3], found[-1][3]) == (None, 9)

    @pytest.mark.parametrize(
        "ids",
        [
            ["ABCDEF00-0000-0000-0000-00000000000A", "abcdef00-0000-0000-0000-00000000000b"],
            ["2024-01-01", "2024-01-02"],
            ["10:30:00", "11:30:00"],
            ["007", "7"],
            ["1e3", "1000"],
        ],
        ids=["UUIDs in capitals", "dates", "times of a day", "zeros", "an exponent"],
    )
    def test_an_id_is_the_one_that_stands_there(self, home: MemberHome, ids: list[str]) -> None:
        dm = jsonl(home, "dm.jsonl", (row(n, conversation_id=each) for n, each in enumerate(ids)))
        decisions = "conversation_id,label\n" + "".join(f"{each},{n % 2}\n" for n, each in enumerate(ids))
        data = settings(
            dm,
            tables={"decisions": (table(home, "decisions.csv", decisions),)},
            labels="SELECT * FROM decisions",
            label_map=LABEL_MAP,
        )
        found = conversations(home, data, *ids)
        assert {name: item.label for name, item in found.items()} == {
            each: n % 2 for n, each in enumerate(ids)
        }

    @pytest.mark.parametrize(
        "ids",
        [
            [12345678901234567890120, 12345678901234567890121],
            [18446744073709551614, 18446744073709551615],
            [9007199254740992, 9007199254740993, 1.5],
        ],
        ids=["beyond 64 bits", "without a sign", "among fractions"],
    )
    def test_large_numbers_stay_apart(self, home: MemberHome, ids: list[float]) -> None:
        dm = jsonl(home, "dm.jsonl", (row(n, conversation_id=each) for n, each in enumerate(ids)))
        found = rows_of(home, settings(dm))
        assert [str(each[0]) for each in found] == [str(each) for each in ids]

    def test_times_in_nanoseconds_can_be_divided(self, home: MemberHome) -> None:
        dm = jsonl(home, "dm.jsonl", [row(0, sent_at=1_700_000_000_000_000_000)])
        query = MESSAGES.replace("sent_at", "sent_at / 1000000000.0 AS sent_at")
        assert rows_of(home, settings(dm, messages=query))[0][3] == 1_700_000_000.0

    def test_numbers_and_truths_can_be_computed_with(self, home: MemberHome) -> None:
        rows = (row(n, sent_at=5_000 + n, gone=n == 0, score=n / 4, tick=n, text=12) for n in range(3))
        dm = jsonl(home, "dm.jsonl", rows)
        query = (
            "SELECT *, tick + score AS total FROM (SELECT conversation_id, message_id, sender_id, tick, score, "
            "sent_at / 1000.0 AS sent_at, CAST(text AS VARCHAR) AS text FROM dm WHERE NOT gone)"
        )
        found = rows_of(home, settings(dm, messages=query))
        assert [each[5:7] for each in found] == [(5.001, "12"), (5.002, "12")]

    @pytest.mark.parametrize("field", ["conversation_id", "text"])
    @pytest.mark.parametrize("nested", [["a"], {"a": "heron"}])
    def test_a_list_or_object_in_one_row_changes_no_other(
        self, home: MemberHome, field: str, nested: object
    ) -> None:
        dm = jsonl(home, "dm.jsonl", [row(0), row(1, **{field: nested}), row(2)])
        with pytest.raises(
            DataError, match=rf"dm\.jsonl: the field {field} is a list or an object"
        ) as caught:
            rows_of(home, settings(dm))
        assert "heron" not in caught.value.message + caught.value.hint
        other = {"conversation_id": "sender_id", "text": "NULL"}[field]
        found = rows_of(home, settings(dm, messages=MESSAGES.replace(field, f"{other} AS {field}")))
        assert [each[1] for each in found] == [0, 1, 2], "a query that does not use the field reads every row"

    def test_a_list_of_messages_can_be_taken_apart(self, home: MemberHome) -> None:
        unit = "ABCDEF00-0000-0000-0000-00000000000A"
        nested = [{"id": unit, "by": "otter", "at": 5, "body": "2024-01-01"}]
        dm = jsonl(home, "dm.jsonl", [{"conversation_id": "c1", "said": nested}])
        query = (
            "SELECT conversation_id, m.id AS message_id, m.by AS sender_id, m.at AS sent_at, m.body AS text "
            "FROM (SELECT conversation_id, unnest(said) AS m FROM dm)"
        )
        assert rows_of(home, settings(dm, messages=query)) == [("c1", unit, "otter", 5, "2024-01-01")]

    def test_a_field_that_is_spelled_in_two_ways_is_not_half_lost(self, home: MemberHome) -> None:
        second = {("Text" if name == "text" else name): value for name, value in row(1).items()}
        dm = jsonl(home, "dm.jsonl", [row(0), second])
        with pytest.raises(DataError, match="field text is spelled with small letters"):
            rows_of(home, settings(dm))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b'{"text": "a"}\n{"text": heron}\n', r"dm\.jsonl, line 2: is not JSON"),
            (b'{"text": "a"}\n\n{"text": "heron\xff"}\n', r"dm\.jsonl, line 3: is not UTF-8"),
            (
                b'{"text": "a"}\n{"text": "heron \\ud83d"}\n',
                r"dm\.jsonl, line 2: holds half of a surrogate pair",
            ),
            (b'[{"text": "heron"}]\n', r"dm\.jsonl holds lines that are no JSON object"),
            (b'{"text": "a", "text": "heron"}\n', r"dm\.jsonl: in some line a field stands twice"),
            (b"", "files of table dm are empty"),
        ],
    )
    def test_a_bad_line_is_named_by_file_and_number(
        self, home: MemberHome, content: bytes, expected: str
    ) -> None:
        with pytest.raises(DataError, match=expected) as caught:
            rows_of(home, settings(table(home, "dm.jsonl", content)))
        assert "heron" not in caught.value.message + caught.value.hint


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_a_quote_that_comes_late_is_one(self, home: MemberHome, delimiter: str, mark: str) -> None:
        lines = [delimiter.join(NAMES), *(delimiter.join(("c1", str(n), "u", "5", "x")) for n in range(MANY))]
        lines.append(delimiter.join(("c1", "late", "u", "5", '"a, ""b""; c\nd|\te"')))
        dm = table(home, "dm.csv", mark + "\n".join(lines) + "\n")
        found = rows_of(home, settings(dm))
        assert len(found) == MANY + 1
        assert found[-1][4] == 'a, "b"; c\nd|\te'

    @pytest.mark.parametrize(
        ("last", "expected"),
        [
            ('c1,9,u,5,"heron', r"dm\.csv, line 3: a quote is not closed"),
            ("c1,9,u,5", r"dm\.csv, line 3: has more or fewer values"),
            ("c1,9,u,5,heron,heron", r"dm\.csv, line 3: has more or fewer values"),
            (b"c1,9,u,5,heron\xff", r"dm\.csv, line 3: is not UTF-8"),
        ],
    )
    def test_a_bad_line_is_named_by_file_and_number(
        self, home: MemberHome, last: str | bytes, expected: str
    ) -> None:
        start = ",".join(NAMES) + "\nc1,1,u,5,x\n"
        content = start.encode() + (last.encode() if isinstance(last, str) else last) + b"\n"
        table(home, "before.csv", start)
        with pytest.raises(DataError, match=expected) as caught:
            rows_of(home, settings("before.csv", table(home, "dm.csv", content)))
        assert "heron" not in caught.value.message + caught.value.hint

    def test_a_file_without_a_header_is_said_to_have_none_and_not_quoted(self, home: MemberHome) -> None:
        table(home, "dm.csv", "c1,1,otter,1700000000,heron\n")
        with pytest.raises(DataError, match="the first line holds values") as caught:
            rows_of(home, settings("dm.csv"))
        assert "heron" not in caught.value.message + caught.value.hint
        table(home, "dm.csv", "c1,1,otter,5,heron\n")
        with pytest.raises(DataError, match="column that its table has not: conversation_id") as caught:
            rows_of(home, settings("dm.csv"))
        assert "heron" not in caught.value.message + caught.value.hint
        assert "dm has 5 columns" in caught.value.hint

    def test_an_index_without_a_name_and_names_that_stand_twice_are_columns(self, home: MemberHome) -> None:
        table(home, "dm.csv", "," + ",".join(NAMES) + ",text\n0,c1,1,u,5,first,second\n")
        assert rows_of(home, settings("dm.csv")) == [("c1", "1", "u", "5", "first")]

    def test_compressed_files_are_read_and_cut_ones_named(self, home: MemberHome) -> None:
        lines = "".join(f"c1,{n},u,5,word {n * 7919}\n" for n in range(MANY))
        whole = gzip.compress((",".join(NAMES) + "\n" + lines).encode())
        table(home, "dm.csv.gz", whole)
        assert len(rows_of(home, settings("dm.csv.gz"))) == MANY
        duckdb.sql(
            f"COPY (SELECT * FROM read_csv('{home.root}/dm.csv.gz', all_varchar = true)) "  # noqa: S608 - made here
            f"TO '{home.root}/packed.csv.zst' (HEADER, COMPRESSION zstd)"
        )
        assert len(rows_of(home, settings("packed.csv.zst"))) == MANY
        table(home, "cut.csv.gz", whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"cut\.csv\.gz is cut off, damaged or not gzip"):
            rows_of(home, settings("dm.csv.gz", "cut.csv.gz"))


class TestFilesOfOneTable:
    @pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
    def test_a_column_that_one_file_lacks_is_an_error_only_if_it_is_used(
        self, home: MemberHome, ending: str
    ) -> None:
        for name, extra in (("a", "text"), ("b", "body")):
            select = f"SELECT '{name}' AS conversation_id, 1 AS message_id, 'u' AS sender_id, 5 AS sent_at, 'x' AS {extra}"
            duckdb.sql(
                f"COPY ({select}) TO '{home.root}/{name}.{ending}' "
                f"(FORMAT {'json' if ending == 'jsonl' else ending})"
            )
        files = (f"a.{ending}", f"b.{ending}")
        for query in (MESSAGES, "SELECT * FROM dm"):
            with pytest.raises(DataError, match=rf"b\.{ending}: there is no column text"):
                rows_of(home, settings(*files, messages=query))
        bare = "SELECT conversation_id, message_id, sender_id, sent_at, '' AS text FROM dm"
        for query in (bare, "SELECT *, '' AS text FROM (SELECT * EXCLUDE (text) FROM dm)"):
            assert [each[0] for each in rows_of(home, settings(*files, messages=query))] == ["a", "b"]

    def test_files_keep_their_order_and_may_order_their_columns_differently(self, home: MemberHome) -> None:
        for name, names in (("a", NAMES), ("b", NAMES[::-1]), ("c", NAMES)):
            values = dict(zip(NAMES, (name, "1", "u", "", f"t{name}"), strict=True))
            table(
                home, f"{name}.csv", ",".join(names) + "\n" + ",".join(values[each] for each in names) + "\n"
            )
        found = rows_of(home, settings("*.csv"))
        assert [(each[0], each[4]) for each in found] == [("a", "ta"), ("b", "tb"), ("c", "tc")]


class TestParquet:
    ROWS = (
        "SELECT 'c' || range // 20 AS conversation_id, range AS message_id, 'u' AS sender_id, 5.0 AS sent_at, "
        "range || repeat(md5(range::VARCHAR), {times}) AS text FROM range({rows})"
    )

    def test_a_large_row_group_is_read(self, home: MemberHome) -> None:
        select = self.ROWS.format(times=32, rows=130_000)
        parquet(home, "dm.parquet", select, ", ROW_GROUP_SIZE 1000000, COMPRESSION zstd")
        assert len(rows_of(home, settings("dm.parquet"))) == 130_000

    def test_too_large_a_row_group_is_said_to_be_the_reason(
        self, home: MemberHome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ringfence.client import table_source

        parquet(home, "dm.parquet", self.ROWS.format(times=32, rows=200_000), ", ROW_GROUP_SIZE 1000000")
        monkeypatch.setattr(table_source, "_memory_mib", lambda _: 64)
        with pytest.raises(DataError, match="needs more memory") as caught:
            rows_of(home, settings("dm.parquet"))
        assert "row_group_size=50_000" in caught.value.hint

    def test_a_cut_file_is_named_among_whole_ones(self, home: MemberHome) -> None:
        parquet(home, "a.parquet", self.ROWS.format(times=1, rows=20))
        content = (home.root / "a.parquet").read_bytes()
        table(home, "b.parquet", content[:-50])
        with pytest.raises(DataError, match=r"b\.parquet is no whole Parquet file"):
            rows_of(home, settings("*.parquet"))
        middle = content[:100] + bytes(200) + content[300:]
        table(home, "b.parquet", middle)
        with pytest.raises(DataError, match=r"b\.parquet is no whole Parquet file"):
            rows_of(home, settings("*.parquet"))


def test_of_a_long_text_the_middle_is_not_even_fetched(home: MemberHome) -> None:
    letters = "é😀" + "a" * 20_000 + "e\u0301z"
    dm = jsonl(home, "dm.jsonl", [row(0, text=letters), row(1, text="b" * 16_384)])
    found = rows_of(home, settings(dm))
    assert found[0][4] == letters[:8_192] + letters[-8_192:]
    assert found[1][4] == "b" * 16_384


HOSTILE = "x') AS y, (SELECT content FROM read_text('/etc/hostname')) AS \"z\" -- \\"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_names_of_columns_and_files_are_names_and_no_sql(home: MemberHome, ending: str) -> None:
    name = f"it's [1] {{a}}.{ending}"
    if ending == "jsonl":
        jsonl(home, name, [row(0, **{HOSTILE: 1, "": 2, "\0": 3})])
    else:
        quoted = HOSTILE.replace('"', '""')
        table(home, name, f'{",".join(NAMES)},"{quoted}"\nc1,0,u0,1700000000,m0,1\n')
    table(home, f"it's 1 {{a}}.{ending}", "not a file of the table")
    data = settings(name)
    assert [str(each[1]) for each in rows_of(home, data)] == ["0"]
    with TableSource(home, data=data) as source:
        assert HOSTILE in source.tables()["dm"]


def test_a_first_line_beyond_all_measure_is_no_header(home: MemberHome) -> None:
    table(home, "dm.csv", "heron " * 100_000 + "\n")
    with pytest.raises(DataError, match="the first line holds values") as caught:
        rows_of(home, settings("dm.csv"))
    assert "heron" not in caught.value.message + caught.value.hint


def test_rows_keep_the_order_that_the_query_asks_for(home: MemberHome) -> None:
    dm = jsonl(home, "dm.jsonl", (row(n, text=f"{n * 7919 % 1000:03}") for n in range(1_000)))
    found = rows_of(home, settings(dm, messages="SELECT * FROM dm ORDER BY text DESC; -- newest first"))
    assert [each[4] for each in found] == [f"{n:03}" for n in reversed(range(1_000))]


def test_since_is_a_time_and_no_text(home: MemberHome) -> None:
    times = ("2026-03-01 12:00:10", "2026-03-01T12:00:20Z", "2026-03-01T13:00:05+01:00")
    dm = jsonl(home, "dm.jsonl", (row(n, sent_at=at) for n, at in enumerate(times)))
    query = f"{MESSAGES} WHERE CAST(sent_at AS TIMESTAMPTZ) >= :since"
    found = rows_of(home, settings(dm, messages=query, since="2026-03-01T12:00:08"))
    assert [each[1] for each in found] == [0, 1]
    with pytest.raises(DataError, match="compares or computes with a text") as caught:
        rows_of(home, settings(dm, messages=f"{MESSAGES} WHERE sent_at >= :since", since="2026-03-01"))
    assert "CAST(sent_at AS TIMESTAMPTZ)" in caught.value.hint


def test_a_column_that_was_renamed_is_named_with_those_that_are_there(home: MemberHome) -> None:
    dm = jsonl(home, "dm.jsonl", [{("sender" if name == "sender_id" else name): 1 for name in NAMES}])
    data = settings(dm)
    with pytest.raises(DataError, match="column that its table has not: sender_id") as caught:
        rows_of(home, data)
    assert "dm has conversation_id, message_id, sender, sent_at, text." in caught.value.hint
    found = preview(home, data=data)
    assert ColumnPreview("dm", "sender", "", "column of this table") in found
    assert [item.meaning for item in found if item.missing] == [caught.value.message]
    with pytest.raises(DataError, match="sender_id"):
        probe(home, data=data, first=5)


@pytest.mark.parametrize("label", ["1.0", "1", "CAST(1 AS DECIMAL(3, 1))", "1::DOUBLE", "' 1.00 '"], ids=str)
def test_a_whole_number_is_the_same_label_with_zeros_behind_its_point(home: MemberHome, label: str) -> None:
    dm = jsonl(home, "dm.jsonl", [row(0)])
    query = f"SELECT 'c1' AS conversation_id, {label} AS label FROM dm"  # noqa: S608 - from the table above
    found = conversations(home, settings(dm, labels=query, label_map=LABEL_MAP), "c1")
    assert found["c1"].label == 1
