"""The detector's head as an ONNX graph, for services that score without numpy or Python.

The graph takes standardised feature rows and gives score and probability. It is built by hand: five to ten nodes, no
tracing, no framework, the same bytes for the same detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ringfence.model.detector import Detector
from ringfence.model.errors import ReleaseError
from ringfence.model.head import HiddenLayerHead, LinearHead

if TYPE_CHECKING:
    from onnx import NodeProto

INPUT_NAME = "features"
SCORE_NAME = "score"
PROBABILITY_NAME = "probability"

# The oldest that has what the graph needs, so that old runtimes can read it.
_OPERATOR_SET = 13
_FORMAT_VERSION = 7

_Constants: TypeAlias = dict[str, npt.NDArray[np.float64]]
_Part: TypeAlias = tuple[_Constants, "list[NodeProto]"]


def export_onnx(detector: Detector, path: Path) -> None:
    """Write the head and the calibration as an ONNX file.

    Input ``features`` (n, dimension) float32; outputs ``score`` (n,) and ``probability`` (n,), float32. The arithmetic in
    between is float64, as in `Detector`, so that cancellation cannot separate the two.

    Raises:
        ReleaseError: the detector's architecture has no ONNX form. The plan's writer.
    """
    if detector.architecture not in _HEADS:
        raise ReleaseError(
            f"There is no ONNX form of the architecture {detector.architecture}.",
            hint=f"Train one of {', '.join(sorted(_HEADS))}, or score with Ringfence itself.",
        )
    path.write_bytes(_model_bytes(detector))


def _linear(parameters: npt.NDArray[np.float64]) -> _Part:
    """Return constants and nodes from ``exact`` to ``exact_score``."""
    from onnx import helper

    return {"weights": parameters[:-1], "bias": parameters[-1:]}, [
        helper.make_node("MatMul", ["exact", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["exact_score"]),
    ]


def _hidden_layer(parameters: npt.NDArray[np.float64]) -> _Part:
    from onnx import helper

    hidden_weights, hidden_bias, output, bias = HiddenLayerHead().layers(parameters)
    constants = {
        "hidden_weights": np.ascontiguousarray(hidden_weights),
        "hidden_bias": hidden_bias,
        "weights": output,
        "bias": bias,
    }
    return constants, [
        helper.make_node("MatMul", ["exact", "hidden_weights"], ["hidden_product"]),
        helper.make_node("Add", ["hidden_product", "hidden_bias"], ["hidden_sum"]),
        helper.make_node("Relu", ["hidden_sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["exact_score"]),
    ]


_HEADS: Mapping[str, Callable[[npt.NDArray[np.float64]], _Part]] = {
    LinearHead.name: _linear,
    HiddenLayerHead.name: _hidden_layer,
}


def _model_bytes(detector: Detector) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    head_constants, head = _HEADS[detector.architecture](detector.parameters)
    constants = {
        **head_constants,
        "slope": np.array([detector.calibration.slope]),
        "intercept": np.array([detector.calibration.intercept]),
    }
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["exact"], to=TensorProto.DOUBLE),
        *head,
        helper.make_node("Mul", ["exact_score", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "intercept"], ["shifted"]),
        helper.make_node("Sigmoid", ["shifted"], ["exact_probability"]),
        helper.make_node("Cast", ["exact_score"], [SCORE_NAME], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["exact_probability"], [PROBABILITY_NAME], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "ringfence-detector",
        inputs=[
            helper.make_tensor_value_info(
                INPUT_NAME, TensorProto.FLOAT, ["n", detector.feature_set.dimension]
            )
        ],
        outputs=[
            helper.make_tensor_value_info(SCORE_NAME, TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info(PROBABILITY_NAME, TensorProto.FLOAT, ["n"]),
        ],
        initializer=[
            numpy_helper.from_array(value.astype(np.float64), name) for name, value in constants.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="ringfence",
        ir_version=_FORMAT_VERSION,
        opset_imports=[helper.make_opsetid("", _OPERATOR_SET)],
    )
    helper.set_model_props(
        model,
        {
            "architecture": detector.architecture,
            "feature_set": detector.feature_set.name,
            "feature_set_sha256": detector.feature_set.fingerprint,
        },
    )
    checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
