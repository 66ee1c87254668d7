"""The ONNX form of the head: it says what the detector says, and a graph that does not is caught."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ringfence.model.calibration import Calibration
from ringfence.model.detector import Detector
from ringfence.model.errors import ReleaseError
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.onnx_export import export_onnx
from ringfence.model.onnx_scoring import OnnxHead, check_parity
from ringfence.model.release_examples import EXAMPLES


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def detector(features: FeatureSet, request: pytest.FixtureRequest) -> Detector:
    architecture: str = request.param
    start = ARCHITECTURES[architecture].initial(features)
    moved = start + 0.05 * np.random.default_rng(5).normal(size=start.size)
    return Detector(features, moved, architecture, calibration=Calibration(slope=0.7, intercept=0.3))


@pytest.fixture
def graph(detector: Detector, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    export_onnx(detector, path)
    return path


def test_the_graph_scores_as_the_detector_does(detector: Detector, graph: Path) -> None:
    check_parity(detector, graph, EXAMPLES)
    rows = detector.feature_set.rows_of(EXAMPLES)[:, 0]
    scores, probabilities = OnnxHead(graph).score(rows)
    expected = detector.logits(rows)
    assert scores == pytest.approx(expected, abs=1e-6)
    assert probabilities == pytest.approx(detector.calibration.probabilities(expected), abs=1e-7)
    assert scores.dtype == probabilities.dtype == np.float32


def test_large_weights_that_cancel_do_not_separate_the_two(features: FeatureSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    large = Detector(features, rng.normal(0, 1e4, 109))
    export_onnx(large, tmp_path / "model.onnx")
    check_parity(large, tmp_path / "model.onnx", EXAMPLES)


def test_the_same_detector_gives_the_same_bytes(detector: Detector, graph: Path, tmp_path: Path) -> None:
    export_onnx(detector, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == graph.read_bytes()


def edit(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)

    return apply


def add_to(name: str, index: int, amount: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for position, tensor in enumerate(model.graph.initializer):
            if tensor.name == name:
                values = numpy_helper.to_array(tensor).copy()
                values.flat[index] += amount
                model.graph.initializer[position].CopyFrom(numpy_helper.from_array(values, name))

    return change


def swap_outputs(model: onnx.ModelProto) -> None:
    first, second = model.graph.output[0].name, model.graph.output[1].name
    model.graph.output[0].name, model.graph.output[1].name = second, first


def flip_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Add").op_type = "Sub"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        *((edit(add_to("weights", index, 1e-3)), "does not score") for index in (0, 7, 15)),
        (edit(add_to("bias", 0, 1e-3)), "does not score"),
        (edit(add_to("bias", 0, float("nan"))), "does not score"),
        (edit(add_to("slope", 0, 1e-2)), "does not score"),
        (edit(add_to("intercept", 0, -1e-2)), "does not score"),
        (edit(flip_operator), "does not score"),
        (edit(swap_outputs), "other inputs or outputs"),
        (lambda path: path.write_bytes(b"not a graph"), "not a usable ONNX graph"),
        (lambda path: path.write_bytes(b""), "not a usable ONNX graph"),
        (lambda path: path.unlink(), "Cannot read"),
    ],
)
def test_a_changed_graph_is_caught(
    detector: Detector, graph: Path, change: Callable[[Path], None], expected: str
) -> None:
    change(graph)
    with pytest.raises(ReleaseError, match=expected):
        check_parity(detector, graph, EXAMPLES)


@pytest.mark.parametrize(
    ("architecture", "tensor", "index"),
    [
        ("linear-109", "weights", 107),
        ("hidden-1761", "hidden_weights", 900),
        ("hidden-1761", "hidden_bias", 3),
    ],
)
def test_a_changed_weight_anywhere_is_caught(
    features: FeatureSet, tmp_path: Path, architecture: str, tensor: str, index: int
) -> None:
    detector = Detector(features, ARCHITECTURES[architecture].initial(features), architecture)
    export_onnx(detector, tmp_path / "model.onnx")
    check_parity(detector, tmp_path / "model.onnx", EXAMPLES)
    edit(add_to(tensor, index, 1e-3))(tmp_path / "model.onnx")
    with pytest.raises(ReleaseError, match="does not score"):
        check_parity(detector, tmp_path / "model.onnx", EXAMPLES)


def test_a_weight_that_no_example_touches_is_still_compared(features: FeatureSet, tmp_path: Path) -> None:
    class Silent:
        name, fingerprint, dimension, files = "silent", "0" * 64, features.dimension, features.files

        def rows_of(self, conversations: object, prefixes: object = (1.0,)) -> np.ndarray:
            return np.zeros((len(EXAMPLES), 1, self.dimension), np.float32)

    detector = Detector(Silent(), features.warm_start)  # type: ignore[arg-type]
    export_onnx(detector, tmp_path / "model.onnx")
    check_parity(detector, tmp_path / "model.onnx", EXAMPLES)
    edit(add_to("weights", 5, 1e-3))(tmp_path / "model.onnx")
    with pytest.raises(ReleaseError, match="does not score"):
        check_parity(detector, tmp_path / "model.onnx", EXAMPLES)


def test_parity_needs_something_to_compare(detector: Detector, graph: Path) -> None:
    with pytest.raises(ReleaseError, match="at least one"):
        check_parity(detector, graph, [])


def test_rows_of_another_width_are_refused(graph: Path) -> None:
    with pytest.raises(ReleaseError, match="does not take"):
        OnnxHead(graph).score(np.zeros((1, 107), np.float32))
