"""The frozen public features: the same for everybody, bounded, and refused when changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.model.encoders import TABLE_FILE
from ringfence.model.errors import ReleaseError, TamperedError
from ringfence.model.feature_set import (
    MANIFEST_FILE,
    PUBLIC_FILE,
    ROW_BOUND,
    STAGE_NAMES,
    ConversationState,
    FeatureManifest,
    FeatureSet,
    load_feature_set,
)
from ringfence.model.readable_text import MAXIMUM_CHARACTERS
from ringfence.model.stretches import present_stretch

PREFIXES = (0.35, 0.6, 0.8, 1.0)
INSTALLED = Path(str(resources.files("ringfence.model").joinpath("public", "static-128")))


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


def conversation(*lines: tuple[str, str]) -> Conversation:
    return Conversation("c", tuple(Message(author, text) for author, text in lines))


ORDINARY = conversation(
    ("a", "hi there"),
    ("b", "hello"),
    ("a", "did you do the homework?"),
    ("b", "not yet"),
    ("a", "keep it between us"),
)
ODD = {
    "empty": conversation(),
    "one empty text": conversation(("a", "")),
    "only white space": conversation(("a", "  \n\t "), ("b", "")),
    "one author": conversation(*[("a", f"message number {n}") for n in range(9)]),
    "sixty authors": conversation(*[(f"p{n}", "good game everyone") for n in range(60)]),
    "five thousand messages": conversation(*[(f"p{n % 3}", f"line {n}") for n in range(5000)]),
    "a message of a megabyte": conversation(("a", "word " * 200_000), ("b", "x" * 1_000_000)),
    "emoji": conversation(("a", "🙂🙂🎮"), ("b", "👩‍👩‍👧‍👦")),
    "half an emoji": conversation(("a", "broken \ud83d"), ("b", "\udc00\udc00")),
    "odd unicode": conversation(
        ("a", "\x00\u202e\ufeffZ̸a̷l̶g̵o"), ("b", "日本語 العربية ไทย"), ("\ud800", "ok")
    ),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_every_conversation_gives_finite_rows_within_the_bound(
    features: FeatureSet, odd: Conversation
) -> None:
    rows = features.rows(odd, PREFIXES)
    assert rows.shape == (4, features.dimension) == (4, 108)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows.astype(np.float64), axis=1).max() <= ROW_BOUND


@pytest.mark.parametrize("odd", [*ODD.values(), ORDINARY], ids=[*ODD.keys(), "ordinary"])
def test_message_by_message_gives_the_row_of_the_whole_or_of_its_last_stretch(
    features: FeatureSet, odd: Conversation
) -> None:
    if len(odd.messages) > 1000:
        odd = Conversation("c", odd.messages[:300])
    state = ConversationState(features)
    for message in odd.messages:
        state.add(message)
    present = Conversation("c", odd.messages[present_stretch(len(odd.messages)) :])
    np.testing.assert_allclose(state.features(), features.rows(present)[0], atol=1e-4)


def test_many_conversations_at_once_give_the_rows_of_each(features: FeatureSet) -> None:
    several = [ORDINARY, *list(ODD.values())[:5], ORDINARY]
    together = features.rows_of(several, PREFIXES)
    for index, item in enumerate(several):
        np.testing.assert_allclose(together[index], features.rows(item, PREFIXES), atol=1e-5)


def test_no_conversation_gives_no_row(features: FeatureSet) -> None:
    assert features.rows_of([], PREFIXES).shape == (0, 4, 108)


def test_a_prefix_is_the_conversation_cut_there_with_whole_messages_rounded_up(features: FeatureSet) -> None:
    rows = features.rows(ORDINARY, (0.35, 0.4, 1.0))
    for row, count in zip(rows, (2, 2, 5), strict=True):
        cut = Conversation("c", ORDINARY.messages[:count])
        np.testing.assert_allclose(row, features.rows(cut)[0], atol=1e-5)


def test_prefixes_may_come_in_any_order(features: FeatureSet) -> None:
    forwards = features.rows(ORDINARY, (0.2, 0.6, 1.0))
    backwards = features.rows(ORDINARY, (1.0, 0.6, 0.2))
    np.testing.assert_array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_a_prefix_that_is_no_share_is_refused(features: FeatureSet, share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        features.rows(ORDINARY, (share,))


def test_names_of_authors_do_not_matter(features: FeatureSet) -> None:
    renamed = {"a": "zz-top", "b": "aardvark"}
    other = Conversation("c", tuple(Message(renamed[m.author], m.text) for m in ORDINARY.messages))
    np.testing.assert_array_equal(features.rows(ORDINARY, PREFIXES), features.rows(other, PREFIXES))


def test_who_said_it_does_matter(features: FeatureSet) -> None:
    stages = [
        "how old are you?",
        "don't tell anyone about this",
        "do you want to meet?",
        "are your parents home?",
    ]
    by_one = conversation(*[("a", text) for text in stages], ("b", "ok"))
    by_many = conversation(*[(name, text) for name, text in zip("abcd", stages, strict=True)], ("b", "ok"))
    assert not np.allclose(features.rows(by_one), features.rows(by_many), atol=0.1)


def test_of_a_long_message_the_two_ends_are_read(features: FeatureSet) -> None:
    half = "good game " * (MAXIMUM_CHARACTERS // 20)
    said = "keep this secret, tell nobody about us."
    nothing, between, at_the_end = (
        conversation(("a", text))
        for text in (half + "x" * 30 + half, half + f"x x x {said} x" + half, half + half + said)
    )
    np.testing.assert_array_equal(features.rows(nothing), features.rows(between))
    assert not np.allclose(features.rows(nothing), features.rows(at_the_end), atol=0.1)


@pytest.mark.parametrize("place", ["before", "behind", "around"])
def test_padding_does_not_hide_a_sentence(features: FeatureSet, place: str) -> None:
    said, padding = "this is our secret, tell nobody. ", "nice weather here today, it was sunny. " * 12
    text = {"before": padding + said, "behind": said + padding, "around": padding + said + padding}[place]
    secrecy, other = STAGE_NAMES.index("secrecy"), STAGE_NAMES.index("other")
    plain, padded = features.tags([Message("a", padding), Message("a", text)])
    assert padded[secrecy] > plain[secrecy] + 0.2
    assert padded[other] < plain[other]
    np.testing.assert_allclose(padded.sum(), 1.0, atol=1e-5)


def test_stages_of_plain_examples_are_recognised(features: FeatureSet) -> None:
    examples = {
        "what school are you at?": "personal_information",
        "does your mom read your messages?": "risk_assessment",
        "this is our secret, tell nobody": "secrecy",
        "can we meet at the park tomorrow?": "meeting",
        "i will buy you a new game": "gift",
        "what did you think of the film?": "other",
        "it rained all day here": "other",
    }
    tags = features.tags([Message("a", text) for text in examples])
    assert tags.shape == (len(examples), len(STAGE_NAMES)) == (len(examples), 10)
    np.testing.assert_allclose(tags.sum(axis=1), 1.0, atol=1e-5)
    assert [STAGE_NAMES[index] for index in tags.argmax(axis=1)] == list(examples.values())


def test_embeddings_have_unit_norm_or_are_zero(features: FeatureSet) -> None:
    vectors = features.embed(["hello there", "", "🙂"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-5)


def test_the_fingerprint_stands_for_every_file_and_the_version(features: FeatureSet) -> None:
    manifest = FeatureManifest.model_validate_json(features.files[MANIFEST_FILE])
    assert features.fingerprint == manifest.fingerprint()
    seen = {manifest.fingerprint()}
    for name, entry in manifest.files.items():
        changed = manifest.files | {name: entry.model_copy(update={"sha256": "0" * 64})}
        seen.add(manifest.model_copy(update={"files": changed}).fingerprint())
    seen.add(manifest.model_copy(update={"feature_version": 99}).fingerprint())
    assert len(seen) == len(manifest.files) + 2


def test_the_public_data_stay_below_ten_megabytes_and_hold_no_pickle() -> None:
    files = [path for path in INSTALLED.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_a_copy_in_a_release_folder_is_the_same_feature_set(features: FeatureSet, tmp_path: Path) -> None:
    for name, content in features.files.items():
        (tmp_path / name).write_bytes(content)
    copy = load_feature_set("static-128", folder=tmp_path)
    assert copy.fingerprint == features.fingerprint
    np.testing.assert_array_equal(copy.rows(ORDINARY), features.rows(ORDINARY))


def _flip_last_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)


def _edit_manifest(folder: Path, **changes: object) -> None:
    form = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(form | changes))


def _fitting_but_broken(folder: Path) -> None:
    """An attacker or a bug that also corrects the hash: the content itself must be refused."""
    content = b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
    (folder / PUBLIC_FILE).write_bytes(content)
    form = json.loads((folder / MANIFEST_FILE).read_text())
    form["files"][PUBLIC_FILE] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (folder / MANIFEST_FILE).write_text(json.dumps(form))


ATTACKS = {
    "one bit of the table": (lambda f: _flip_last_byte(f, TABLE_FILE), TamperedError),
    "one bit of tagger and warm start": (lambda f: _flip_last_byte(f, PUBLIC_FILE), TamperedError),
    "a changed notice": (lambda f: _flip_last_byte(f, "NOTICE.md"), TamperedError),
    "a truncated file": (lambda f: (f / TABLE_FILE).write_bytes(b"x"), TamperedError),
    "a missing file": (lambda f: (f / TABLE_FILE).unlink(), ReleaseError),
    "a missing manifest": (lambda f: (f / MANIFEST_FILE).unlink(), ReleaseError),
    "a manifest that is no JSON": (lambda f: (f / MANIFEST_FILE).write_text("{"), ReleaseError),
    "a manifest with an unknown key": (lambda f: _edit_manifest(f, extra=1), ReleaseError),
    "another feature version": (lambda f: _edit_manifest(f, feature_version=99), ReleaseError),
    "another name": (lambda f: _edit_manifest(f, name="other"), ReleaseError),
    "no file at all": (lambda f: _edit_manifest(f, files={}), ReleaseError),
    "a path out of the folder": (
        lambda f: _edit_manifest(f, files={"../x": {"sha256": "0" * 64, "size_bytes": 1}}),
        ReleaseError,
    ),
    "tensors that are missing": (_fitting_but_broken, ReleaseError),
}


@pytest.mark.parametrize(("attack", "expected"), ATTACKS.values(), ids=ATTACKS.keys())
def test_a_changed_feature_set_is_refused_with_a_hint(attack, expected, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    shutil.copytree(INSTALLED, folder)
    attack(folder)
    with pytest.raises(expected) as raised:
        load_feature_set("static-128", folder=folder)
    assert type(raised.value) is expected
    assert raised.value.hint


@pytest.mark.parametrize("name", ["../static-128", "", "Static", "a/b", "no-such-set"])
def test_a_name_that_is_no_feature_set_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError):
        load_feature_set(name)
