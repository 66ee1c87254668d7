"""Feature rows on disk: made once a conversation, kept however the making ends, and never taken if they were changed."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_homes import data_home

from ringfence.client import local_data
from ringfence.client.local_data import TrainingRows, training_rows
from ringfence.client.member_home import MemberHome
from ringfence.client.row_cache import RowCache
from ringfence.client.row_file import ConversationKeys, FeatureRow
from ringfence.model.conversation import Conversation, Message
from ringfence.model.errors import ConfigError

BATCH = local_data._BATCH
PLANTED = "the blue heron waits"


class Features:
    """Stands for a feature set, and remembers what it was asked for: a row says how long a conversation is."""

    def __init__(self, fingerprint: str = "f" * 64) -> None:
        self.fingerprint = fingerprint
        self.dimension = 3
        self.made: list[str] = []

    def rows(self, conversation: Conversation, *, prefixes: tuple[float, ...]) -> np.ndarray:
        self.made.append(conversation.id)
        said = sum(len(message.text) for message in conversation.messages)
        return np.outer(prefixes, [said, len(conversation.messages), 1.0]).astype(np.float32)


def talk(number: int, *people: str, text: str = "hello", label: int | None = None) -> Conversation:
    messages = tuple(Message(person, f"{text} {number}") for person in people or (f"p{number}", f"q{number}"))
    return Conversation(f"c{number}", messages, label=number % 2 if label is None else label)


TALKS = [talk(number) for number in range(12)]


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def rows_of(
    home: MemberHome,
    conversations: list[Conversation],
    features: Features | None = None,
    *,
    prefixes: tuple[float, ...] = (0.5, 1.0),
    contribution_bound: int = 2,
    **options: Any,
) -> TrainingRows:
    return training_rows(
        home,
        conversations=conversations,
        feature_set=features or Features(),  # type: ignore[arg-type]
        prefixes=prefixes,
        contribution_bound=contribution_bound,
        bounds="greedy",
        **options,
    )


def made(home: MemberHome, conversations: list[Conversation], **options: Any) -> list[str]:
    """Which conversations' rows are made."""
    features = Features()
    rows_of(home, conversations, features, **options)
    return sorted(features.made)


def row_file(home: MemberHome) -> Path:
    (path,) = home.cache.glob("rows-*")
    return path


def test_rows_are_made_once_and_read_as_they_were_made(home: MemberHome) -> None:
    first = rows_of(home, TALKS)
    features = Features()
    again = rows_of(home, TALKS, features)
    assert features.made == []
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.features.dtype == again.features.dtype == np.float32
    assert first.features.shape == (12, 2, 3)


def test_a_new_conversation_costs_one_row(home: MemberHome) -> None:
    rows_of(home, TALKS)
    assert made(home, [*TALKS, talk(99)]) == ["c99"]


def test_another_contribution_bound_costs_only_the_rows_of_those_it_adds(home: MemberHome) -> None:
    busy = [talk(number, "busy", f"q{number}") for number in range(12)]
    assert len(made(home, busy, contribution_bound=2)) == 2
    assert len(made(home, busy, contribution_bound=8)) == 6
    assert made(home, busy, contribution_bound=2) == []
    assert made(home, busy, contribution_bound=8) == [], "rows that a smaller bound does not use stay"


def test_a_new_label_costs_nothing_and_counts(home: MemberHome) -> None:
    first = rows_of(home, TALKS)
    other = [replace(item, label=1 - (item.label or 0)) for item in TALKS]
    features = Features()
    found = rows_of(home, other, features)
    assert features.made == []
    np.testing.assert_array_equal(found.labels, 1 - first.labels)


@pytest.mark.parametrize(
    "messages",
    [
        (Message("p3", "hello 4"), Message("q3", "hello 3")),
        (Message("q3", "hello 3"), Message("p3", "hello 3")),
        (Message("p3", "hello 3"),),
        (Message("p3", "hello 3"), Message("q3", "hello 3"), Message("p3", "")),
        (Message("p3", "hello 3', 'x"), Message("q3", "hello 3")),
        (Message("p3", "hello 3", 5.0), Message("q3", "hello 3")),
    ],
)
def test_a_conversation_that_changed_is_made_anew_and_what_it_was_goes(
    home: MemberHome, messages: tuple[Message, ...]
) -> None:
    rows_of(home, TALKS)
    changed = [replace(item, messages=messages) if item.id == "c3" else item for item in TALKS]
    assert made(home, changed) == ["c3"]
    with RowCache(home).lock(), RowCache(home).rows("f" * 64) as file:
        assert len(file) == len(TALKS)


def test_rows_of_other_beginnings_and_other_features_are_kept_beside(home: MemberHome) -> None:
    rows_of(home, TALKS)
    whole = rows_of(home, TALKS, prefixes=(1.0,))
    assert whole.features.shape == (12, 1, 3)
    other = Features("e" * 64)
    rows_of(home, TALKS, other)
    assert len(other.made) == 12
    assert made(home, TALKS) == made(home, TALKS, prefixes=(1.0,)) == []
    assert len(list(home.cache.glob("rows-*"))) == 2


def test_rows_that_no_conversation_uses_any_more_go_from_every_file(home: MemberHome) -> None:
    rows_of(home, TALKS)
    rows_of(home, TALKS, Features("e" * 64))
    (home.cache / "rows-0123.safetensors").write_bytes(b"left by an earlier version")
    rows_of(home, TALKS[4:])
    for fingerprint in ("f" * 64, "e" * 64):
        with RowCache(home).lock(), RowCache(home).rows(fingerprint) as file:
            assert len(file) == 8
    assert not list(home.cache.glob("*.safetensors"))


def test_the_file_is_its_owners_alone_and_holds_neither_text_nor_names(home: MemberHome) -> None:
    rows_of(home, [talk(1, "quiet-otter", "b", text=PLANTED)])
    assert row_file(home).stat().st_mode & 0o777 == 0o600
    assert home.cache.stat().st_mode & 0o777 == 0o700
    content = row_file(home).read_bytes()
    for said in (PLANTED.encode(), b"heron", b"otter"):
        assert said not in content


def test_a_key_tells_nothing_without_the_members_secret() -> None:
    first, other = ConversationKeys(b"s" * 32), ConversationKeys(b"t" * 32)
    assert first.of(TALKS[0]) == first.of(TALKS[0])
    assert first.of(TALKS[0]) != other.of(TALKS[0])
    assert len({first.of(item) for item in TALKS}) == len(TALKS)


def change(home: MemberHome, statement: str, *values: object) -> None:
    with sqlite3.connect(row_file(home)) as database:
        changed = database.execute(statement, values).rowcount
    database.close()
    assert changed == 1


NOT_A_NUMBER = np.full(6, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE feature_row SET content = ? WHERE rowid = 1", (NOT_A_NUMBER,)),
        ("UPDATE feature_row SET content = ? WHERE rowid = 1", (b"",)),
        ("UPDATE feature_row SET content = 'text' WHERE rowid = 1", ()),
        ("UPDATE feature_row SET checksum = ? WHERE rowid = 1", (b"",)),
        ("DELETE FROM feature_row WHERE rowid = 1", ()),
        (
            """UPDATE feature_row SET (content, checksum) =
               (SELECT content, checksum FROM feature_row WHERE rowid = 2) WHERE rowid = 1""",
            (),
        ),
    ],
    ids=["not a number", "empty", "another type", "no checksum", "gone", "another conversation's"],
)
def test_a_row_that_was_changed_is_noticed_and_made_anew(
    home: MemberHome, statement: str, values: tuple[object, ...]
) -> None:
    talks = [talk(number, text="x" * number) for number in range(5)]
    first = rows_of(home, talks)
    change(home, statement, *values)
    features = Features()
    np.testing.assert_array_equal(rows_of(home, talks, features).features, first.features)
    assert len(features.made) == 1
    assert made(home, talks) == []


@pytest.mark.parametrize("damage", ["emptied", "another file", "cut off", "another version", "overwritten"])
def test_a_file_of_another_version_or_damaged_is_made_anew(home: MemberHome, damage: str) -> None:
    talks = [talk(number) for number in range(200)]
    first = rows_of(home, talks)
    path = row_file(home)
    content = path.read_bytes()
    if damage == "another version":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    else:
        path.write_bytes(
            {
                "emptied": b"",
                "another file": b"rows of an earlier version",
                "cut off": content[: len(content) // 2],
                "overwritten": content[:4096] + b"\x07" * 8192 + content[4096 + 8192 :],
            }[damage]
        )
    features = Features()
    np.testing.assert_array_equal(rows_of(home, talks, features).features, first.features)
    assert features.made
    assert made(home, talks) == []
    assert row_file(home).stat().st_mode & 0o777 == 0o600


def _be_stopped(root: Path) -> None:
    class Stopping(Features):
        def rows(self, conversation: Conversation, *, prefixes: tuple[float, ...]) -> np.ndarray:
            if len(self.made) == BATCH + 5:
                time.sleep(600)
            return super().rows(conversation, prefixes=prefixes)

    rows_of(MemberHome(root), [talk(number) for number in range(2 * BATCH)], Stopping())


def test_a_stop_in_the_middle_loses_no_batch_that_was_written(home: MemberHome) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_be_stopped, args=(home.root,))
    worker.start()
    deadline = time.monotonic() + 120
    while _written(home) < BATCH and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.kill()
    worker.join(60)
    assert len(made(home, [talk(number) for number in range(2 * BATCH)])) == BATCH


def _written(home: MemberHome) -> int:
    if not list(home.cache.glob("rows-*")):
        return 0
    with RowCache(home).lock(), RowCache(home).rows("f" * 64) as file:
        return len(file)


def test_a_batch_is_written_whole_or_not_at_all(home: MemberHome) -> None:
    cache = RowCache(home)
    good = FeatureRow(b"a", ("ab" * 32,), np.zeros((1, 3), np.float32))
    with cache.lock(), cache.rows("f" * 64) as file:
        with pytest.raises(ValueError, match="hexadecimal"):
            file.write(
                [good, replace(good, key=b"b", participants=("no pseudonym",))], prefixes=(1.0,), now=0
            )
        assert len(file) == 0
        file.write([good], prefixes=(1.0,), now=0)
        assert len(file) == 1


def test_how_far_the_making_is_is_told_and_only_of_what_is_new(home: MemberHome) -> None:
    rows_of(home, [talk(number) for number in range(5)])
    told: list[tuple[int, int]] = []
    everything = [talk(number) for number in range(BATCH + 25)]
    rows_of(home, everything, progress=lambda done, of: told.append((done, of)))
    assert told == [(BATCH, BATCH + 20), (BATCH + 20, BATCH + 20)]
    rows_of(home, everything, progress=lambda done, of: told.append((done, of)))
    assert len(told) == 2, "nothing was made"


def test_a_cache_that_cannot_be_written_is_the_operators_to_mend(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ringfence.client import row_file as module

    def small(path: Path) -> sqlite3.Connection:
        database = connection(path)
        database.execute("PRAGMA max_page_count = 4")
        return database

    connection = module._connection
    monkeypatch.setattr(module, "_connection", small)
    with pytest.raises(ConfigError, match="SQLITE_FULL"):
        rows_of(home, [talk(number) for number in range(500)])


def test_a_manifest_of_an_earlier_version_says_who_is_in_it_and_proves_nobody_absent(
    home: MemberHome,
) -> None:
    home.cache.mkdir(exist_ok=True)
    path = home.cache / "manifest-0123.json"
    path.write_text(json.dumps({"rows": "rows-0123.safetensors", "participants": ["ab" * 32]}))
    cache = RowCache(home)
    with cache.lock():
        assert cache.holds("ab" * 32)
        assert not cache.holds("cd" * 32)
        assert cache.datasets(secret=b"s" * 32) == frozenset()
        assert cache.remove_person("cd" * 32, secret=b"s" * 32).manifests == 1


def test_a_manifest_says_under_which_secret_it_names_people_and_not_the_secret(home: MemberHome) -> None:
    manifest = rows_of(home, TALKS).manifest
    cache, secret = RowCache(home), home.contribution_key_file.read_bytes()
    with cache.lock():
        assert cache.datasets(secret=secret) == {manifest.digest()}
        for other in (b"s" * 32, b""):
            assert cache.datasets(secret=other) == frozenset()
    (path,) = home.cache.glob("manifest-*")
    assert secret.hex() not in path.read_text()
