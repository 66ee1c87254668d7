"""Whatever platforms hold: conversations of no message and of thousands, any script, any length, ids and labels that clash.

Each is read, made into rows that are finite, and scored; or refused with the place named.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_homes import data_home

from ringfence.client.data_settings import DataSettings
from ringfence.client.local_data import TrainingRows, training_rows
from ringfence.client.member_home import MemberHome
from ringfence.client.snapshot_writer import MAXIMUM_CHARACTERS
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.detector import Detector
from ringfence.model.errors import DataError
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.jsonl_reader import read_conversations
from ringfence.model.running_score import timeline

PREFIXES = (0.35, 0.6, 0.8, 1.0)


def said(author: str, text: str, time: float | None = None) -> dict[str, object]:
    return {"author": author, "text": text, "time": time}


ODD: dict[str, list[dict[str, object]]] = {
    "one message": [said("a", "hello")],
    "five thousand messages": [said(f"a{n % 2}", f"message {n}", float(n)) for n in range(5_000)],
    "one author": [said("a", f"alone {n}") for n in range(20)],
    "sixty authors": [said(f"a{n}", f"i am number {n}") for n in range(60)],
    "no times": [said("a", "when"), said("b", "never")],
    "times out of order": [
        said("a", "late", 9.0),
        said("b", "early", 1.0),
        said("a", "none"),
        said("b", "negative", -1e9),
    ],
    "nothing but emoji": [said("a", "😀😀👨‍👩‍👧‍👦"), said("b", "🇫🇷")],
    "right to left": [said("a", "مرحبا كيف حالك"), said("b", "שלום \u202eevil\u202c")],
    "other languages": [said("a", "где ты живешь"), said("b", "你好，今天怎么样？")],
    "leetspeak": [said("a", "h3y wh3r3 d0 y0u l1v3"), said("b", "1337")],
    "spaced letters": [said("a", "h o w   o l d   a r e   y o u"), said("b", "s.e.c.r.e.t")],
    "a message of a megabyte": [said("a", "word " * 200_000), said("b", "x" * 1_000_000)],
    "empty texts": [said("a", ""), said("b", "   "), said("c", "\u200b\u200d")],
    "control characters": [said("a", "a\x00b\x1b[31m\r\n"), said("b", "\ufeff\ufffd")],
    "combining marks": [said("a", "z̷̡̛a̶l̵g̸o̴" * 200), said("b", "é e\u0301")],
}


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set("static-128")


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


def write(home: MemberHome, *lines: object) -> DataSettings:
    (home.root / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataSettings(files=("chats.jsonl",))


def rows_of(home: MemberHome, data: DataSettings, features: FeatureSet) -> TrainingRows:
    with take_snapshot(home, data=data) as snapshot:
        return training_rows(
            home,
            conversations=snapshot,
            feature_set=features,
            prefixes=PREFIXES,
            contribution_bound=2,
            bounds="greedy",
        )


@pytest.mark.parametrize("kind", ODD)
def test_odd_conversations_become_finite_rows_that_are_bounded(
    home: MemberHome, features: FeatureSet, kind: str
) -> None:
    data = write(home, {"id": "odd", "label": 1, "messages": ODD[kind]})
    rows = rows_of(home, data, features)
    assert rows.features.shape == (1, len(PREFIXES), features.dimension)
    assert np.isfinite(rows.features).all()
    assert (np.linalg.norm(rows.features, axis=2) <= 4.0 + 1e-5).all()
    with take_snapshot(home, data=data) as snapshot:
        (read,) = snapshot
    assert len(read.messages) == len(ODD[kind]), "no message is lost"
    assert [message.time for message in read.messages] == [item["time"] for item in ODD[kind]], (
        "nor put elsewhere"
    )
    for message, item in zip(read.messages, ODD[kind], strict=True):
        said = str(item["text"])
        if len(said) > MAXIMUM_CHARACTERS:
            said = said[: MAXIMUM_CHARACTERS // 2] + said[-MAXIMUM_CHARACTERS // 2 :]
        assert message.text == said


def test_a_long_message_is_trained_on_as_it_is_scored_beginning_and_end(
    home: MemberHome, features: FeatureSet
) -> None:
    text = "so the game was fun " + "today " * 20_000 + " please keep it our secret, add me on the other app"
    data = write(home, {"id": "long", "label": 1, "messages": [said("a", text), said("b", "ok")]})
    (conversation,) = read_conversations(home.root / "chats.jsonl")
    np.testing.assert_array_equal(
        rows_of(home, data, features).features[0], features.rows(conversation, prefixes=PREFIXES)
    )


@pytest.mark.parametrize("kind", [*ODD, "no message"])
def test_odd_conversations_are_scored_alike_whole_and_while_they_go_on(
    home: MemberHome, features: FeatureSet, kind: str
) -> None:
    write(home, {"id": "odd", "messages": ODD.get(kind, [])})
    (conversation,) = read_conversations(home.root / "chats.jsonl")
    detector = Detector(features, features.warm_start)
    found = detector.score(conversation)
    assert np.isfinite(found.logit)
    assert 0.0 <= found.probability <= 1.0
    scores = timeline(detector, conversation)
    assert len(scores) == len(conversation.messages)
    assert all(np.isfinite(score.logit) and 0.0 <= score.probability <= 1.0 for score in scores)
    if scores:
        assert scores[-1].logit == pytest.approx(found.logit, abs=1e-6)


def test_a_conversation_without_messages_is_counted_and_never_trained_on(
    home: MemberHome, features: FeatureSet
) -> None:
    data = write(
        home,
        {"id": "empty", "label": 1, "messages": []},
        {"id": "c", "label": 0, "messages": ODD["no times"]},
    )
    with take_snapshot(home, data=data) as snapshot:
        assert len(snapshot) == 2
    assert list(rows_of(home, data, features).labels) == [0]
    with pytest.raises(DataError, match="No conversation is left"):
        rows_of(home, write(home, {"id": "empty", "label": 1, "messages": []}), features)


def test_ids_that_occur_twice_are_refused_by_line_and_across_files(home: MemberHome) -> None:
    line = {"id": "quiet-heron", "label": 1, "messages": ODD["no times"]}
    for name in ("a.jsonl", "b.jsonl"):
        (home.root / name).write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=r"b\.jsonl, line 1, field id") as caught:
        take_snapshot(home, data=DataSettings(files=("*.jsonl",)))
    assert "heron" not in caught.value.message


def test_labels_that_contradict_in_two_lines_of_one_conversation_are_refused(home: MemberHome) -> None:
    data = write(home, *({"id": "c", "label": label, "messages": ODD["no times"]} for label in (0, 1)))
    with pytest.raises(DataError, match="line 2, field id"):
        take_snapshot(home, data=data)


@pytest.mark.parametrize("label", ["1", 2, True, 0.5, [1]])
def test_a_label_that_is_none_is_refused_by_field_and_not_quoted(home: MemberHome, label: object) -> None:
    with pytest.raises(DataError, match=r"line 1, field label: must be 0, 1 or null"):
        take_snapshot(home, data=write(home, {"id": "c", "label": label, "messages": []}))


def test_bytes_that_are_not_utf_8_are_refused_by_line(home: MemberHome) -> None:
    data = write(home, {"id": "c", "label": 1, "messages": []})
    with (home.root / "chats.jsonl").open("ab") as file:
        file.write(b'{"id": "d", "messages": [{"author": "a", "text": "caf\xe9"}]}\n')
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        take_snapshot(home, data=data)


def test_a_failed_reading_leaves_nothing_on_disk(home: MemberHome) -> None:
    data = write(
        home, {"id": "c", "label": 1, "messages": ODD["no times"]}, {"id": "d", "label": "x", "messages": []}
    )
    with pytest.raises(DataError):
        take_snapshot(home, data=data)
    assert list(home.snapshots.iterdir()) == []
