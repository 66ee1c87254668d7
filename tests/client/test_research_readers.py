"""The forms in which researchers hold corpora under licence, against made-up files."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_homes import data_home

from ringfence.client.data_settings import DataSettings
from ringfence.client.pan12_reader import read_pan12, read_predators
from ringfence.client.panc_reader import read_panc
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.errors import DataError

CORPUS = """<?xml version="1.0" encoding="UTF-8"?>
<conversations>
  <conversation id="c1">
    <message line="1"><author>a1</author><time>03:20</time><text>hello &amp; welcome &#128512;</text></message>
    <message line="2"><author>a2</author><time>03:21</time><text></text></message>
  </conversation>
  <conversation id="c2"><message line="1"><author>a3</author><time>23:59</time><text>lovely weather</text></message></conversation>
</conversations>
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.xml"
    path.write_text(CORPUS)
    (tmp_path / "listed.txt").write_text("a2\n\n a9 \n")
    return path


def test_conversations_with_a_listed_author_are_positive(corpus: Path) -> None:
    listed = read_predators(corpus.parent / "listed.txt")
    assert listed == {"a2", "a9"}
    first, second = read_pan12(corpus, predators=listed)
    assert (first.id, first.label, second.id, second.label) == ("c1", 1, "c2", 0)
    assert [(message.author, message.text, message.time) for message in first.messages] == [
        ("a1", "hello & welcome 😀", None),
        ("a2", "", None),
    ]


def test_a_byte_order_mark_before_the_list_loses_nobody(corpus: Path) -> None:
    listed = corpus.parent / "listed.txt"
    listed.write_bytes(b"\xef\xbb\xbfa2\r\na9\r\n")
    assert read_predators(listed) == {"a2", "a9"}
    assert [item.label for item in read_pan12(corpus, predators=read_predators(listed))] == [1, 0]


def test_the_settings_name_corpus_and_list(corpus: Path, tmp_path: Path) -> None:
    data = DataSettings(files=(str(corpus),), format="pan-2012", predators=str(tmp_path / "listed.txt"))
    with take_snapshot(data_home(tmp_path), data=data) as snapshot:
        assert sorted(item.label or 0 for item in snapshot) == [0, 1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><conversations>&e;</conversations>',
            "document type",
        ),
        ('<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><x>&b;</x>', "document type"),
        ("<conversations><conversation id='c'></conversations>", "is not XML"),
        ("<conversations></conversations>", "holds no conversation"),
        ("<x><conversation><message/></conversation></x>", "id must not be empty"),
        (
            "<x><conversation id='c'><message><text>heron</text></message></conversation></x>",
            "author must not be empty",
        ),
        ("<x><conversation id='c'/><conversation id='c'/></x>", "already used"),
        ("", "is not XML"),
    ],
)
def test_another_form_is_refused_by_line_and_without_its_content(
    tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "corpus.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        list(read_pan12(path, predators=frozenset({"a"})))
    assert "heron" not in caught.value.message


def test_a_corpus_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "corpus.xml"
    said = "<message line='1'><author>a</author><time>1:00</time><text>hello</text></message>"
    path.write_text("<x>" + "".join(f"<conversation id='c{n}'>{said}</conversation>" for n in range(20_000)))
    stream = read_pan12(path, predators=frozenset({"a"}))
    assert next(stream).id == "c0", "the first comes before the end, which is missing"
    with pytest.raises(DataError, match="is not XML"):
        list(stream)


def test_stretches_of_one_chat_are_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "PANC-train.csv"
    path.write_text(
        '"label","chatName","segment"\n"predator","x-0","hello"\n"non-predator","y","fine"\n"predator","x-1","you"\n'
    )
    assert [label for _, label in read_panc(path)] == [1, 0, 1]
    data = DataSettings(files=(str(path),), format="panc")
    with take_snapshot(data_home(tmp_path), data=data) as snapshot:
        found = {tuple(message.text for message in item.messages): item for item in snapshot}
    assert {texts: item.label for texts, item in found.items()} == {("hello", "you"): 1, ("fine",): 0}
    assert all(len(item.participants) == 1 for item in found.values())


def test_a_byte_order_mark_before_the_columns_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "PANC-train.csv"
    path.write_bytes(b"\xef\xbb\xbflabel,chatName,segment\r\npredator,x,hello\r\n")
    assert [(message.conversation, label) for message, label in read_panc(path)] == [("x", 1)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("label,chatName,segment\n", "holds no row"),
        ("label,chatName\n", "no column segment"),
        ("label,chatName,segment\nheron,x,y\n", "neither predator nor non-predator"),
        ("label,chatName,segment\npredator,,heron\n", "chatName"),
    ],
)
def test_other_csv_is_refused_by_row(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        list(read_panc(path))
    assert "heron" not in caught.value.message
