"""``ringfence data preview-schema``: names, types and meanings, and never a value."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_homes import LABEL_MAP, ChatDatabase, at, chat_database, data_home

from ringfence.client.data_commands import application
from ringfence.client.data_preview import ColumnPreview, preview, probe
from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, save_member_settings
from ringfence.model.console import run_application
from ringfence.model.errors import DataError

PLANTED = "the blue heron waits"


def join(home: MemberHome, data: DataSettings) -> None:
    save_member_settings(
        home,
        settings=MemberSettings(
            federation="north",
            member="acme",
            fleet_address="h:1",
            release_address="h:2",
            plan_public_key="x",
            data=data,
        ),
    )


def fill(database: ChatDatabase) -> None:
    database.say(
        ("quiet-room", 1, "quiet-otter", at(1), PLANTED), ("quiet-room", 2, "quiet-wren", at(2), PLANTED)
    )
    database.decide(("quiet-room", "ban", at(3)))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_columns_of_a_database_are_named_with_their_types(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = data_home(tmp_path)
    with chat_database(kind, tmp_path) as database:
        fill(database)
        monkeypatch.setenv("CHAT_DB_URL", database.url)
        join(home, database.settings(messages="SELECT *, body AS text, 1.5 AS extra FROM dm"))
        assert run_application(application, ["preview-schema", "--home", str(home.root)]) == 0
        assert run_application(application, ["preview-schema", "--home", str(home.root), "--json"]) == 0
        assert run_application(application, ["check", "--home", str(home.root)]) == 0
    written = capsys.readouterr()
    columns = _columns(written.out)
    expected = {"sqlite": ("text", "whole number", "text"), "postgresql": ("text", "int8", "timestamptz")}[
        kind
    ]
    assert (
        tuple(columns["messages", name]["type"] for name in ("conversation_id", "message_id", "sent_at"))
        == expected
    )
    assert columns["messages", "extra"]["meaning"] == "passed over"
    assert columns["labels", "decided_at"]["meaning"] == "the newest decision stands"
    assert not any(item["missing"] for item in columns.values())
    assert "1: 1 positive" in written.out
    for value in ("heron", "quiet"):
        assert value not in written.out + written.err


def _columns(out: str) -> dict[tuple[str, str], Any]:
    (line,) = (line for line in out.splitlines() if line.startswith('{"schema_version"'))
    return {(item["source"], item["column"]): item for item in json.loads(line)["data"]["columns"]}


def test_a_column_that_is_missing_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = data_home(tmp_path)
    with chat_database("sqlite", tmp_path) as database:
        fill(database)
        monkeypatch.setenv("CHAT_DB_URL", database.url)
        join(home, database.settings(messages="SELECT conversation_id, sent_at FROM dm"))
        assert run_application(application, ["preview-schema", "--home", str(home.root)]) == 0
    written = capsys.readouterr()
    assert "MISSING" in written.out
    assert "3 columns that are needed are missing" in written.err


def test_the_fields_of_conversations_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chats.jsonl"
    message = {"author": "quiet-otter", "text": PLANTED, "time": 1.5, "shoe_size": 43}
    path.write_text(
        json.dumps({"id": 7, "label": None, "messages": [message, {"author": 9}], "queue": PLANTED})
        + "\nnot json\n"
    )
    assert (
        run_application(
            application, ["preview-schema", str(path), "--home", str(tmp_path / "home"), "--json"]
        )
        == 0
    )
    written = capsys.readouterr()
    columns = _columns(written.out)
    assert columns["files", "messages[].author"]["type"] == "text or whole number"
    assert (
        columns["files", "queue"]["meaning"]
        == columns["files", "messages[].shoe_size"]["meaning"]
        == "passed over"
    )
    assert "heron" not in written.out + written.err
    assert not (tmp_path / "home").exists()


def test_a_file_that_is_cut_off_or_not_gzip_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"".join(
        json.dumps({"id": number, "messages": [{"author": "quiet-otter", "text": PLANTED}]}).encode() + b"\n"
        for number in range(900)
    )
    whole = gzip.compress(lines)
    damaged = whole[:200] + bytes(100) + whole[300:]
    for name, content in (("cut", whole[:-30]), ("damaged", damaged), ("not", lines)):
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        arguments = ["preview-schema", str(path), "--home", str(tmp_path / "home")]
        assert run_application(application, arguments) == 4, name
        written = capsys.readouterr()
        assert "cut off, damaged or not gzip" in written.err
        assert "rename it if it is not compressed" in written.err
        assert "heron" not in written.out + written.err


def test_tables_of_files_have_the_types_that_the_files_declare(tmp_path: Path) -> None:
    home = data_home(tmp_path)
    (home.root / "dm.csv").write_text(
        f"conversation_id,message_id,sender_id,sent_at,text\n7,1,a,2026-03-01,{PLANTED}\n"
    )
    (home.root / "decisions.jsonl").write_text('{"conversation_id": 7, "label": "ban"}\n')
    data = DataSettings(
        tables={"dm": ("dm.csv",), "decisions": ("decisions.jsonl",)},
        messages="SELECT * FROM dm",
        labels="SELECT * FROM decisions",
        label_map=LABEL_MAP,  # type: ignore[arg-type]
    )
    found = preview(home, data=data)
    assert ColumnPreview("messages", "text", "VARCHAR", "what was written; null is an empty message") in found
    assert [item.type for item in found if item.source == "labels"] == ["BIGINT", "VARCHAR"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_probe_finds_a_missing_column_and_a_database_that_is_down(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = data_home(tmp_path)
    with chat_database(kind, tmp_path) as database:
        fill(database)
        monkeypatch.setenv("CHAT_DB_URL", database.url)
        probe(home, data=database.settings(), first=5)
        with pytest.raises(DataError, match="labels query yields no column label"):
            probe(home, data=database.settings(labels="SELECT conversation_id FROM mod_decisions"), first=5)
    monkeypatch.setenv("CHAT_DB_URL", "postgresql://x@127.0.0.1:1/test")
    with pytest.raises(DataError, match="could not be asked"):
        probe(home, data=database.settings(), first=5)


def test_a_probe_reads_the_first_conversations_of_every_file(tmp_path: Path) -> None:
    home = data_home(tmp_path)
    good = json.dumps({"id": 1, "messages": []}) + "\n"
    (home.root / "a.jsonl").write_text(good + "not json\n")
    (home.root / "b.jsonl").write_text("not json\n")
    probe(home, data=DataSettings(files=("a.jsonl",)), first=1)
    for files, first in ((("a.jsonl",), 2), (("*.jsonl",), 1)):
        with pytest.raises(DataError, match="is not JSON"):
            probe(home, data=DataSettings(files=files), first=first)
