"""The sentence encoder gives a message the same vector whatever stands beside it, and nothing but the pinned file runs."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.model.encoders import ONNX_FILE, TOKENIZER_FILE
from ringfence.model.errors import ConfigError, ReleaseError, TamperedError
from ringfence.model.feature_set import ConversationState, FeatureSet, load_feature_set
from ringfence.model.onnx_encoder import MAXIMUM_PIECES, OnnxEncoder

TEXTS = ["hi there", "did you do the homework?", "lol", "a" * 3000, "🙂🎮", "日本語 العربية", "lol"]
NAME = "minilm-384"


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set(NAME)


@pytest.fixture(scope="module")
def encoder(features: FeatureSet) -> OnnxEncoder:
    return OnnxEncoder(features.files[TOKENIZER_FILE].decode(), features.files[ONNX_FILE])


def test_vectors_have_unit_norm_and_do_not_depend_on_their_neighbours(encoder: OnnxEncoder) -> None:
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), 384)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    for text, row in zip(TEXTS, together, strict=True):
        assert np.array_equal(encoder.encode([text])[0], row)


def test_what_has_no_piece_is_all_zero(encoder: OnnxEncoder) -> None:
    assert not encoder.encode(["", "  \n"]).any()
    assert encoder.encode([]).shape == (0, 384)


def test_only_the_beginning_of_a_long_message_is_read(encoder: OnnxEncoder) -> None:
    words = [f"word{number}" for number in range(400)]
    long, longer = " ".join(words[:200]), " ".join(words)
    assert MAXIMUM_PIECES < 200
    assert np.array_equal(*encoder.encode([long, longer]))


def test_meaning_is_closer_than_words(encoder: OnnxEncoder) -> None:
    """The pooling and the marks are right: with another mean or without marks, this order does not hold."""
    asked, same, other = encoder.encode(["how old are you?", "what is your age", "how old is this building?"])
    assert asked @ same > asked @ other > 0.2


def test_it_agrees_with_the_reference_vectors_of_its_model(encoder: OnnxEncoder) -> None:
    """Cosine of two sentences by the full-precision model, as its card gives it: 0.6 and more for a pair, near 0 for none."""
    pair = encoder.encode(["This is an example sentence", "Each sentence is converted"])
    assert pair[0, :3] == pytest.approx([0.0676, 0.0635, 0.0487], abs=0.015)
    assert pair[1, :3] == pytest.approx([0.0864, 0.1026, 0.0052], abs=0.015)


def test_message_by_message_gives_the_row_of_the_whole(features: FeatureSet) -> None:
    conversation = Conversation(
        "c", tuple(Message(f"p{place % 3}", text) for place, text in enumerate(TEXTS))
    )
    state = ConversationState(features)
    for message in conversation.messages:
        state.add(message)
    assert state.features() == pytest.approx(features.rows(conversation)[0], abs=1e-5)


def test_a_release_carries_the_encoder_and_needs_no_package_of_it(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in features.files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("ringfence.model.feature_set._ENCODER_PACKAGE", "ringfence_package_that_is_not_there")
    assert load_feature_set(NAME, folder=tmp_path).fingerprint == features.fingerprint
    with pytest.raises(ConfigError) as raised:
        load_feature_set(NAME)
    assert "ringfence[minilm]" in raised.value.hint


def test_an_encoder_that_is_not_the_pinned_one_is_refused(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "another_encoder"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.onnx").write_bytes(features.files[ONNX_FILE][:-1] + b"\0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ringfence.model.feature_set._ENCODER_PACKAGE", "another_encoder")
    with pytest.raises(TamperedError):
        load_feature_set(NAME)


@pytest.mark.parametrize(("name", "content"), [(ONNX_FILE, b"no model"), (TOKENIZER_FILE, b"{}")])
def test_files_that_are_not_in_the_agreed_form_are_refused(
    features: FeatureSet, name: str, content: bytes
) -> None:
    with pytest.raises(ReleaseError):
        FeatureSet(NAME, "0" * 64, {**features.files, name: content})


def test_without_its_runtime_the_error_names_the_fix(
    features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError) as raised:
        FeatureSet(NAME, "0" * 64, features.files)
    assert "ringfence[minilm]" in raised.value.hint


def test_the_installed_files_hold_everything_but_the_encoder() -> None:
    folder = Path(str(resources.files("ringfence.model").joinpath("public", NAME)))
    assert {path.name for path in folder.iterdir()} == {
        "NOTICE.md",
        "manifest.json",
        "public.safetensors",
        "tokenizer.json",
    }
