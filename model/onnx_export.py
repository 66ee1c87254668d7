"""The detector's head as an ONNX graph, for services that score without numpy or Python.

The graph takes standardised feature rows and gives score and probability. It is built by hand: five nodes, no tracing,
no framework, the same bytes for the same detector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ringfence.model.detector import Detector
from ringfence.model.errors import ReleaseError

INPUT_NAME = "features"
SCORE_NAME = "score"
PROBABILITY_NAME = "probability"

# The oldest that has what the graph needs, so that old runtimes can read it.
_OPERATOR_SET = 13
_FORMAT_VERSION = 7
_LINEAR = "linear-109"


def export_onnx(detector: Detector, path: Path) -> None:
    """Write the head and the calibration as an ONNX file.

    Input ``features`` (n, dimension) float32; outputs ``score`` (n,) and ``probability`` (n,), float32. The arithmetic in
    between is float64, as in `Detector`, so that cancellation cannot separate the two.

    Raises:
        ReleaseError: the detector's architecture has no ONNX form. The plan's writer.
    """
    if detector.architecture != _LINEAR:
        raise ReleaseError(
            f"There is no ONNX form of the architecture {detector.architecture}.",
            hint=f"Train {_LINEAR}, or score with Ringfence itself.",
        )
    path.write_bytes(_model_bytes(detector))


def _model_bytes(detector: Detector) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    weights, bias = detector.parameters[:-1], detector.parameters[-1:]
    constants = {
        "weights": weights,
        "bias": bias,
        "slope": np.array([detector.calibration.slope]),
        "intercept": np.array([detector.calibration.intercept]),
    }
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["exact"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["exact", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["exact_score"]),
        helper.make_node("Mul", ["exact_score", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "intercept"], ["shifted"]),
        helper.make_node("Sigmoid", ["shifted"], ["exact_probability"]),
        helper.make_node("Cast", ["exact_score"], [SCORE_NAME], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["exact_probability"], [PROBABILITY_NAME], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "ringfence-detector",
        inputs=[helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["n", weights.size])],
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
