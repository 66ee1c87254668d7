"""Writing that evades a word list is read as what it says; what people write plainly is read as it stands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.model.conversation import Message
from ringfence.model.encoders import TOKENIZER_FILE
from ringfence.model.feature_set import STAGE_NAMES, FeatureSet, load_feature_set
from ringfence.model.phrases import STAGES, load_phrase_bank
from ringfence.model.readable_text import MAXIMUM_CHARACTERS, WHOLE_CHARACTERS, TextReader, windows

CHAT = Path(__file__).parents[2] / "examples" / "data" / "chitchat-part.jsonl.gz"

DISGUISED = {
    "leetspeak": ("h0w 0ld 4r3 y0u", "how old are you"),
    "some leetspeak": ("what $chool, and wh3n?", "what school, and when?"),
    "leetspeak throughout": ("d0n7 73ll m3, 4nd k33p 17 s3cr37", "dont tell me, and keep it secret"),
    "letters apart": ("h o w  o l d  a r e  y o u", "how old are you"),
    "letters apart with nothing between words": ("h o w o l d a r e y o u?", "how old are you?"),
    "dots between letters": ("h.o.w o.l.d a.r.e y.o.u", "how old are you"),
    "dashes in one word": ("this is a s-e-c-r-e-t ok", "this is a secret ok"),
    "letters apart and leetspeak": ("h 0 w  0 l d", "how old"),
    "full width": ("ｈｏｗ ｏｌｄ？", "how old?"),
    "ornamental letters": ("𝐡𝐨𝐰 𝓸𝓵𝓭 🅰🆁🅴", "how old are"),
    "look-alike letters": ("hоw оld аrе уоu", "how old are you"),
    "what cannot be seen": ("te\u200bll no\u00adbody\u202e", "tell nobody"),
    "marks on letters": ("t̶e̶l̶l̶", "tell"),
}

PLAIN = [
    "gr8 c u b4 2day m8, l8r",
    "w8 4 me at 5pm or 17:30, 30mins max",
    "my ps4 broke, got a ps5 and an iphone5",
    "1st 2nd 3rd, a 3v3 and 5mile run",
    "player1 is too1 many",
    "hi! tax! wow!!! ok|no",
    "U.S.A. e.g. a b c",
    "где ты живёшь",
    "αβγ and μm",
    "日本語 العربية ไทย",
    "👩‍👩‍👧 ok…".replace("\u200d", ""),
    "a@b.com costs $5 or 5€",
    "",
]


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


@pytest.fixture(scope="module")
def reader(features: FeatureSet) -> TextReader:
    return TextReader(json.loads(features.files[TOKENIZER_FILE])["model"]["vocab"])


@pytest.mark.parametrize(("written", "meant"), DISGUISED.values(), ids=DISGUISED.keys())
def test_disguised_writing_is_read_as_what_it_says(reader: TextReader, written: str, meant: str) -> None:
    assert reader.read(written) == meant


@pytest.mark.parametrize("text", PLAIN)
def test_plain_writing_is_read_as_it_stands(reader: TextReader, text: str) -> None:
    assert reader.read(text) == text


def shipped_chat() -> Iterator[str]:
    with gzip.open(CHAT, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield from (message["text"] for message in json.loads(line)["messages"])


def test_of_the_chat_that_ships_almost_nothing_changes(reader: TextReader) -> None:
    """Eight of 80,403 messages, most of them letters apart (W h a t)."""
    texts = list(shipped_chat())
    changed = [text for text in texts if reader.read(text) != text]
    assert len(texts) > 80_000
    assert len(changed) <= 10
    assert "W h a t" in changed


@given(st.text(st.characters(), max_size=400))
def test_any_text_is_read_without_error_in_a_form_that_a_tokenizer_takes(text: str) -> None:
    reader = TextReader({"how": 2129, "old": 2214, "are": 2024, "you": 2017, "it": 2009})
    read = reader.read(text)
    read.encode("utf-8")
    assert reader.read(text) == read


@pytest.mark.parametrize("unit", ["a", "a ", "a.", "a1", "\u0430a", "\u0300", "!|", "1", "ﷺ", "\ud800"])
def test_of_a_message_of_a_megabyte_the_two_ends_are_read(reader: TextReader, unit: str) -> None:
    text = "begins here " + unit * 1_000_000 + " ends here"
    read = reader.read(text)
    assert read.startswith("begins here")
    assert read.endswith("ends here")
    # A character of Unicode stands for at most eighteen others (NFKC).
    assert len(read) <= 18 * MAXIMUM_CHARACTERS + 1


@given(st.text(st.characters(codec="utf-8"), max_size=5000))
def test_the_stretches_of_a_message_hold_all_that_is_read_of_it(text: str) -> None:
    found = windows(text)
    if len(text) <= WHOLE_CHARACTERS:
        assert found == [text]
    elif len(text) <= MAXIMUM_CHARACTERS:
        assert "".join(found) == text
    else:
        half = MAXIMUM_CHARACTERS // 2
        assert "".join(found) == f"{text[:half]} {text[-half:]}"
    assert max(map(len, found)) <= WHOLE_CHARACTERS
    assert len(found) <= 2 + MAXIMUM_CHARACTERS // 25


LEET = str.maketrans("oieastOIEAST", "013457013457")
LOOK_ALIKES = str.maketrans("aeopcyx", "аеорсух")
DISGUISES = {
    "leetspeak": lambda text: text.translate(LEET),
    "letters apart": " ".join,
    "dots between letters": lambda text: " ".join(".".join(word) for word in text.split()),
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "look-alike letters": lambda text: text.translate(LOOK_ALIKES),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES.keys())
def test_stages_are_told_as_well_in_disguise(features: FeatureSet, disguise) -> None:
    """Over the phrases of the simulation, of which the tagger has seen none: without the reader, .00 to .02 are told."""
    pools, rng = load_phrase_bank("pools"), np.random.default_rng(5)
    lines = [(pools.fill(phrase, rng), stage) for stage in STAGES for phrase in pools.stages[stage]]

    def share_told(texts: list[str]) -> float:
        tags = features.tags([Message("a", text) for text in texts]).argmax(axis=1)
        told = [STAGE_NAMES[tag] == stage for tag, (_, stage) in zip(tags, lines, strict=True)]
        return float(np.mean(told))

    plain = share_told([text for text, _ in lines])
    assert share_told([disguise(text) for text, _ in lines]) >= plain - 0.03
    assert plain > 0.25
