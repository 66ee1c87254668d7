"""The detector on disk and in use: the same scores after loading, and a refusal of whatever would score otherwise."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ringfence.model.calibration import Calibration
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector, Score
from ringfence.model.errors import ReleaseError
from ringfence.model.explanation import explain
from ringfence.model.feature_set import STAGE_NAMES, FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.release_examples import EXAMPLES, check_examples, write_examples

CALIBRATION = Calibration(slope=0.8, intercept=-1.0, high_recall=0.2, high_precision=0.7, fitted_on="test")


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


@pytest.fixture(scope="module")
def detector(features: FeatureSet) -> Detector:
    return Detector(features, features.warm_start, calibration=CALIBRATION)


def test_a_saved_detector_scores_the_same_after_loading(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    loaded = Detector.load(tmp_path)
    assert list(loaded.score_many(EXAMPLES)) == list(detector.score_many(EXAMPLES))
    assert loaded.calibration == CALIBRATION
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors",
        "config.json",
        "calibration.json",
    }


def test_a_head_with_a_hidden_layer_is_saved_loaded_and_explained_like_any(
    features: FeatureSet, detector: Detector, tmp_path: Path
) -> None:
    deeper = Detector(features, ARCHITECTURES["hidden-1761"].initial(features), "hidden-1761", CALIBRATION)
    deeper.save(tmp_path)
    loaded = Detector.load(tmp_path)
    assert loaded.architecture == "hidden-1761"
    assert list(loaded.score_many(EXAMPLES)) == list(deeper.score_many(EXAMPLES))
    # It starts as the linear warm start does, so it explains as that does.
    for found, expected in zip(explain(loaded, EXAMPLES[0]), explain(detector, EXAMPLES[0]), strict=True):
        assert (found.index, found.stage) == (expected.index, expected.stage)
        assert found.share == pytest.approx(expected.share, abs=1e-9)


def test_saving_twice_gives_the_same_bytes(detector: Detector, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        detector.save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def edit_json(name: str, **fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def tensors(**arrays: np.ndarray) -> Callable[[Path], None]:
    return write("model.safetensors", safetensors.numpy.save(arrays))


NAN = np.full(109, np.nan)
PICKLE = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix"


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (tensors(parameters=np.zeros(108)), "do not belong together"),
        (tensors(parameters=np.zeros((109, 1))), "one tensor"),
        (tensors(parameters=np.zeros(109, np.float32)), "one tensor"),
        (tensors(parameters=np.zeros(109), more=np.zeros(1)), "one tensor"),
        (tensors(weights=np.zeros(109)), "one tensor"),
        (tensors(parameters=NAN), "not all finite"),
        (tensors(parameters=np.full(109, np.inf)), "not all finite"),
        (write("model.safetensors", PICKLE), "not a safetensors file"),
        (write("model.safetensors", b""), "not a safetensors file"),
        (write("model.safetensors", b"\xff" * 64), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "Cannot read"),
        (lambda f: (f / "config.json").unlink(), "Cannot read"),
        (lambda f: (f / "calibration.json").unlink(), "Cannot read"),
        (write("config.json", b"{"), "config.json is not in the agreed form"),
        (write("config.json", b"\xff"), "config.json is not in the agreed form"),
        (edit_json("config.json", schema_version=2), "schema_version"),
        (edit_json("config.json", kind="other"), "kind"),
        (edit_json("config.json", surprise=1), "surprise"),
        (edit_json("config.json", parameter_count=108), "do not belong together"),
        (edit_json("config.json", dimension=107), "do not belong together"),
        (edit_json("config.json", architecture="linear-999"), "does not know the architecture"),
        (edit_json("config.json", feature_set_sha256="0" * 64), "trained on other features"),
        (edit_json("calibration.json", slope=-1.0), "slope"),
        (edit_json("calibration.json", slope=float("nan")), "slope|not in the agreed form"),
    ],
)
def test_files_that_would_score_otherwise_are_refused(
    detector: Detector, tmp_path: Path, tamper: Callable[[Path], None], expected: str
) -> None:
    detector.save(tmp_path)
    tamper(tmp_path)
    with pytest.raises(ReleaseError, match=expected) as caught:
        Detector.load(tmp_path)
    assert caught.value.hint


def test_a_feature_set_under_another_name_is_refused(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    edit_json("config.json", feature_set="static-129")(tmp_path)
    with pytest.raises(ReleaseError):
        Detector.load(tmp_path)
    with pytest.raises(ReleaseError, match="other features"):
        Detector.load(tmp_path, feature_set=detector.feature_set)


@pytest.mark.parametrize("parameters", [np.zeros(110), np.zeros((1, 109)), NAN])
def test_parameters_that_do_not_fit_are_refused_at_once(features: FeatureSet, parameters: np.ndarray) -> None:
    with pytest.raises(ReleaseError):
        Detector(features, parameters)


def test_parameters_cannot_be_changed_from_outside(features: FeatureSet) -> None:
    given = features.warm_start.copy()
    detector = Detector(features, given)
    before = detector.score(EXAMPLES[0])
    given[:] = 0
    assert detector.score(EXAMPLES[0]) == before
    with pytest.raises(ValueError, match="read-only"):
        detector.parameters[0] = 1.0


def test_scoring_streams_and_agrees_with_scoring_together(detector: Detector) -> None:
    def endless() -> object:
        while True:
            yield EXAMPLES[0]

    stream = detector.score_many(endless())  # type: ignore[arg-type]
    assert next(stream) == next(stream) == detector.score(EXAMPLES[0])
    together = detector.score_together(EXAMPLES)
    for one, many in zip(detector.score_many(EXAMPLES), together, strict=True):
        assert one.logit == pytest.approx(many.logit, abs=1e-4)
    assert detector.score_together([]) == []


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (Message("a", ""),),
        (Message("a", "\x00\u202e\ud83d"), Message("b", "😀" * 1000)),
        (Message("a", "x" * 1_000_000),),
        tuple(Message(f"p{index % 60}", "hello there") for index in range(2000)),
    ],
)
def test_any_conversation_has_a_finite_score_and_explanation(
    detector: Detector, messages: tuple[Message, ...]
) -> None:
    conversation = Conversation("odd", messages)
    score = detector.score(conversation)
    assert isinstance(score, Score)
    assert np.isfinite(score.logit)
    assert 0 <= score.probability <= 1
    shares = explain(detector, conversation)
    assert [share.index for share in shares] == list(range(len(messages)))
    assert all(np.isfinite(share.share) and share.stage in STAGE_NAMES for share in shares)


def test_a_share_is_what_the_score_loses_without_the_message(detector: Detector) -> None:
    conversation = EXAMPLES[0]
    whole = detector.score(conversation).logit
    for share in explain(detector, conversation):
        rest = tuple(m for index, m in enumerate(conversation.messages) if index != share.index)
        without = detector.score(Conversation("rest", rest)).logit
        assert share.share == pytest.approx(whole - without, abs=1e-4)


def test_the_stage_of_a_plain_request_for_secrecy_is_named(detector: Detector) -> None:
    shares = explain(detector, EXAMPLES[0])
    assert shares[6].stage == "secrecy"
    assert shares[6].stage_probability > 0.5


def test_a_release_that_scores_its_examples_otherwise_is_refused(detector: Detector, tmp_path: Path) -> None:
    write_examples(detector, tmp_path)
    check_examples(detector, tmp_path)
    changed = Detector(detector.feature_set, detector.parameters + 1e-3)
    with pytest.raises(ReleaseError, match="does not score its own examples"):
        check_examples(changed, tmp_path)
    scores = tmp_path / "examples.scores.jsonl"
    for content in ("", "{}\n", "x", "\n".join(scores.read_text().splitlines()[:-1])):
        scores.write_text(content)
        with pytest.raises(ReleaseError):
            check_examples(detector, tmp_path)
