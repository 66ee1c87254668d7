"""A snapshot: one reading, under pseudonyms, in a file without a name, whatever the order and the number of the rows."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from data_homes import data_home

from ringfence.client.data_settings import DataSettings
from ringfence.client.erasure import forget_person
from ringfence.client.member_home import MemberHome
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.snapshot import Selection, Snapshot
from ringfence.client.snapshot_folder import folder_in_use, new_snapshot_file, remove_left_over
from ringfence.client.snapshot_writer import SnapshotWriter, SourceMessage
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.conversation import Conversation, Message
from ringfence.model.errors import ConfigError, DataError

PSEUDONYMS = Pseudonyms(b"s" * 32)
PLANTED = "the blue heron waits"


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def written(
    home: MemberHome,
    fill: Callable[[SnapshotWriter], None],
    *,
    labelled_only: bool = False,
    excluded: str = "",
) -> Snapshot:
    path = new_snapshot_file(home)
    with SnapshotWriter(
        path, pseudonyms=PSEUDONYMS, excluded=lambda person: person == excluded, labelled_only=labelled_only
    ) as writer:
        fill(writer)
        writer.finish()
    return Snapshot(path)


def scattered(writer: SnapshotWriter) -> None:
    rows = [
        SourceMessage(f"c{c}", m, f"p{c}-{m % 3}", float(100 * c + m), f"{c}/{m}")
        for c in range(40)
        for m in range(30)
    ]
    random.Random(5).shuffle(rows)
    for row in rows:
        writer.add_message(row)


def test_rows_in_any_order_become_whole_conversations(home: MemberHome) -> None:
    with written(home, scattered) as snapshot:
        assert len(snapshot) == 40
        for conversation in snapshot:
            number = conversation.messages[0].text.split("/")[0]
            assert [message.text for message in conversation.messages] == [f"{number}/{m}" for m in range(30)]
            assert len(conversation.participants) == 3


def test_a_snapshot_is_a_sequence_that_reads_the_same_however_it_is_asked(home: MemberHome) -> None:
    with written(home, scattered) as snapshot:
        everything = list(snapshot)
        assert [snapshot[n] for n in range(40)] == everything
        assert snapshot[-1] == everything[-1]
        assert snapshot[3:6] == everything[3:6]
        for position in (40, -41):
            with pytest.raises(IndexError):
                snapshot[position]
        chosen = Selection(snapshot, [7, 3, 3])
        assert list(chosen) == chosen[:] == [everything[7], everything[3], everything[3]]
        assert list(Selection(snapshot, range(40))) == everything


def test_its_file_is_private_and_has_no_name_once_it_is_open(home: MemberHome) -> None:
    path = new_snapshot_file(home)
    assert path.stat().st_mode & 0o077 == 0
    assert home.snapshots.stat().st_mode & 0o077 == 0
    path.unlink()
    with written(home, scattered) as snapshot:
        assert list(home.snapshots.iterdir()) == []
        held = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_snapshot(fd)}
        assert held
        assert all(name.endswith("(deleted)") for name in held)
        assert len(snapshot[0].messages) == 30
    assert not [fd for fd in os.listdir("/proc/self/fd") if _is_snapshot(fd)], "closing lets go of the text"


def _is_snapshot(fd: str) -> bool:
    try:
        return "snapshot-" in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def test_no_name_of_the_source_is_in_the_file(home: MemberHome) -> None:
    path = new_snapshot_file(home)
    with SnapshotWriter(path, pseudonyms=PSEUDONYMS, excluded=lambda _: False, labelled_only=False) as writer:
        writer.add_decision("room-of-otters", 1, None)
        writer.settle_decisions()
        writer.add_message(SourceMessage("room-of-otters", 1, "quiet-heron", 1.0, "said"))
        writer.add_conversation(Conversation("room-of-wrens", (Message("quick-vole", "said"),), label=0))
        writer.finish()
    content = path.read_bytes()
    assert b"said" in content
    for name in (b"otters", b"wrens", b"heron", b"vole"):
        assert name not in content


def test_pseudonyms_are_the_members_own_and_a_change_of_case_is_the_same_person() -> None:
    other = Pseudonyms(b"t" * 32)
    assert PSEUDONYMS.person("Otter") == PSEUDONYMS.person(" ｏｔｔｅｒ ")
    assert PSEUDONYMS.person("otter") != PSEUDONYMS.conversation("otter")
    assert PSEUDONYMS.person("otter") != other.person("otter")
    assert PSEUDONYMS.conversation("A") != PSEUDONYMS.conversation("a"), (
        "ids of conversations are what they are"
    )


def test_a_conversation_with_somebody_forgotten_goes_as_a_whole(home: MemberHome) -> None:
    def fill(writer: SnapshotWriter) -> None:
        scattered(writer)
        writer.add_conversation(Conversation("given", (Message("p7-1", "x"), Message("other", "y")), label=1))

    with written(home, fill, excluded="p7-1") as snapshot:
        assert len(snapshot) == 39
        assert snapshot.excluded == 2
        assert not [item for item in snapshot if item.messages[0].text.startswith("7/")]


def test_two_conversations_or_messages_of_one_id_are_refused(home: MemberHome) -> None:
    once = Conversation("c", (Message("a", "x"),), label=1)

    def twice(writer: SnapshotWriter) -> None:
        writer.add_conversation(once)
        writer.add_conversation(once)

    def same_message(writer: SnapshotWriter) -> None:
        for text in ("one", "other"):
            writer.add_message(SourceMessage("c", "m", "a", None, text))

    for fill in (twice, same_message):
        with pytest.raises(DataError):
            written(home, fill)


def test_without_a_time_on_every_message_the_order_of_the_rows_stands(home: MemberHome) -> None:
    def fill(writer: SnapshotWriter) -> None:
        for number, time in ((3, 30.0), (1, None), (2, 20.0)):
            writer.add_message(SourceMessage("c", number, "a", time, str(number)))

    with written(home, fill) as snapshot:
        assert [message.text for message in snapshot[0].messages] == ["3", "1", "2"]


def test_a_disk_that_is_full_is_said_to_be(home: MemberHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(path: Path) -> object:
        database = opened(path)
        database.execute("PRAGMA max_page_count = 12")
        return database

    from ringfence.client import snapshot_writer

    opened = snapshot_writer._open
    monkeypatch.setattr(snapshot_writer, "_open", small)
    messages = [{"author": "a", "text": PLANTED * 9}] * 2_000
    (home.root / "chats.jsonl").write_text(json.dumps({"id": "c", "label": 1, "messages": messages}) + "\n")
    with pytest.raises(ConfigError, match="SQLITE_FULL") as caught:
        take_snapshot(home, data=DataSettings(files=("chats.jsonl",)))
    assert PLANTED not in caught.value.message
    assert list(home.snapshots.iterdir()) == []


def left_over(home: MemberHome) -> None:
    """What a process leaves that is killed outright."""
    new_snapshot_file(home).write_text(PLANTED)
    for folder in ("fetched-1-abc/def", "duckdb"):
        (home.snapshots / folder).mkdir(parents=True)
        (home.snapshots / folder / "part.jsonl").write_text(PLANTED)


def test_what_a_killed_reader_left_is_removed_by_the_next(home: MemberHome) -> None:
    left_over(home)
    (home.root / "chats.jsonl").write_text('{"id": "c", "label": 1, "messages": []}\n')
    with take_snapshot(home, data=DataSettings(files=("chats.jsonl",))):
        assert list(home.snapshots.iterdir()) == []
    left_over(home)
    remove_left_over(home)
    assert list(home.snapshots.iterdir()) == []


def test_what_somebody_reads_now_is_not_taken_for_left_over(home: MemberHome) -> None:
    with folder_in_use(home):
        left_over(home)
        with folder_in_use(home):
            remove_left_over(home)
            assert len(list(home.snapshots.iterdir())) == 3


def test_a_snapshot_has_no_name_from_before_its_first_word_on(home: MemberHome) -> None:
    names: list[Path] = []
    said = {"id": "c", "label": 1, "messages": [{"author": "a", "text": PLANTED}] * 6_000}
    (home.root / "chats.jsonl").write_text(json.dumps(said) + "\n")
    with take_snapshot(
        home,
        data=DataSettings(files=("chats.jsonl",)),
        progress=lambda _: names.extend(home.snapshots.iterdir()),
    ) as snapshot:
        assert len(snapshot[0].messages) == 6_000
    assert names == []


def test_somebody_forgotten_after_a_reading_is_not_in_rows_made_from_it(home: MemberHome) -> None:
    home.settings_file.write_text(
        'federation = "north"\nmember = "acme"\nfleet_address = "localhost:1"\nrelease_address = "localhost:2"\n'
        'plan_public_key = "x"\n[data]\nfiles = ["chats.jsonl"]\n'
    )
    (home.root / "chats.jsonl").write_text(
        "".join(
            f'{{"id": "c{n}", "label": 1, "messages": [{{"author": "p{n}", "text": "x"}}]}}\n'
            for n in range(4)
        )
    )
    from ringfence.client.exclusions import load_exclusions

    with take_snapshot(home, data=DataSettings(files=("chats.jsonl",))) as snapshot:
        assert len(load_exclusions(home).allowed(snapshot)) == 4
        forget_person(home, "P2", now=1_772_000_000.0)
        assert len(load_exclusions(home).allowed(snapshot)) == 3
