"""Scoring by the release's ONNX graph, and the check that it says what the detector says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.model.detector import Detector
from ringfence.model.errors import ReleaseError
from ringfence.model.onnx_export import INPUT_NAME, PROBABILITY_NAME, SCORE_NAME

Float32Array = npt.NDArray[np.float32]

_PROBE_ROWS = 64
_PROBE_NORM = (
    32.0  # ten times a feature row, so that every hidden unit is on for some of them, whatever its bias
)


class OnnxHead:
    """An ONNX session of a release's head, on one thread.

    Args:
        path: a ``model.onnx``.

    Raises:
        ReleaseError: the file cannot be read, or is not a graph that `export_onnx` could have written.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # One thread: the head is a product of 109 numbers, and a service scores many conversations side by side.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise ReleaseError(
                f"Cannot read {path}: {error.strerror}.", hint="Name a release folder."
            ) from error
        except Exception as error:  # onnxruntime's own exceptions share no root but this one
            raise ReleaseError(
                f"{path.name} is not a usable ONNX graph.", hint="Pull the release again."
            ) from error
        inputs = [item.name for item in self._session.get_inputs()]
        outputs = [item.name for item in self._session.get_outputs()]
        if inputs != [INPUT_NAME] or outputs != [SCORE_NAME, PROBABILITY_NAME]:
            raise ReleaseError(
                f"{path.name} has other inputs or outputs than a detector's.", hint="Pull the release again."
            )

    def score(self, features: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores and probabilities, each (n,) float32, of feature rows (n, dimension) float32.

        Raises:
            ReleaseError: the graph does not take such rows.
        """
        try:
            score, probability = self._session.run([SCORE_NAME, PROBABILITY_NAME], {INPUT_NAME: features})
        except Exception as error:  # onnxruntime's own exceptions share no root but this one
            raise ReleaseError(
                "The ONNX graph does not take these feature rows.", hint="Pull the release again."
            ) from error
        return score, probability


def check_parity(
    detector: Detector,
    onnx_path: Path,
    conversations: Sequence[Conversation],
    *,
    tolerance: float = 1e-5,
) -> None:
    """Refuse an ONNX graph that does not score as its detector does.

    Both score the conversations and, because those may leave a weight untouched, 64 fixed random feature rows.

    Args:
        detector: the reference.
        onnx_path: the graph.
        conversations: at least one.
        tolerance: largest difference of a score, relative to max(1, |score|), and of a probability, absolute.

    Raises:
        ReleaseError: a score or a probability differs by more, or there is nothing to compare.
    """
    if not conversations:
        raise ReleaseError("Parity needs at least one conversation.", hint="Give the release's examples.")
    head = OnnxHead(onnx_path)
    probes = np.random.default_rng(0).standard_normal((_PROBE_ROWS, detector.feature_set.dimension))
    probes *= _PROBE_NORM / np.linalg.norm(probes, axis=1, keepdims=True)
    rows = detector.feature_set.rows_of(conversations)[:, 0]
    features = np.concatenate([rows, probes.astype(np.float32)])
    scores, probabilities = head.score(features)
    expected = detector.logits(features)
    error_of_score = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    error_of_probability = np.abs(probabilities - detector.calibration.probabilities(expected))
    # Written so that a NaN counts as a difference.
    if not (np.all(error_of_score <= tolerance) and np.all(error_of_probability <= tolerance)):
        raise ReleaseError(
            f"{onnx_path.name} does not score as the detector does.",
            hint="Export it again from the same parameters and calibration.",
        )
