"""Build the feature set static-128 from public text; the same teacher's vectors and seed give the same files.

    python scripts/public_features/build.py --chat CHITCHAT.jsonl.gz --more-text COVA.jsonl.gz --out model/public/static-128

Takes about ten minutes on one core, most of it the teacher, whose int8 arithmetic depends a little on which texts share a
batch: vectors encoded in another grouping give a slightly different table. Conversations that ship as examples are left out, so
that nothing public was fitted on the chat that the demonstration plays in. Needs the extra ``distill`` and torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from distil_encoder import bare_tokenizer, distil, principal_axes
from fit_public_parts import fit_projection, fit_statistics, fit_warm_start, neutral_statistics
from fit_tagger import certain_opinions, first_opinion, fit_tagger, opinion_of
from public_text import bank_lines, chat_messages, read_chat, short_spans
from safetensors.numpy import save
from select_chat_part import is_shipped
from teacher import TEACHER_ONNX_SHA256, Teacher
from tokenizers import Tokenizer

from ringfence.model import stage_features
from ringfence.model.conversation import Conversation
from ringfence.model.encoders import TABLE_FILE, TOKENIZER_FILE
from ringfence.model.feature_set import (
    MANIFEST_FILE,
    PUBLIC_FILE,
    FeatureManifest,
    FeatureSet,
    FileEntry,
)
from ringfence.model.simulation import simulate_public
from ringfence.model.static_encoder import StaticEncoder

NAME = "static-128"
SEED = 20
MESSAGES = 90_000
SPANS = 40_000
BANK_COPIES = 6
TAGGER_UNITS, TEACHERS_TAGGER_UNITS = 256, 512
PUBLIC_CONVERSATIONS = 1600
NOTICE_FILE = "NOTICE.md"

Floats = npt.NDArray[np.float32]


def main() -> None:
    """Build, write and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--more-text", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--teacher-cache", type=Path, help="folder for the teacher's vectors, to build again faster"
    )
    given = parser.parse_args()

    chat = [item for item in read_chat([given.chat]) if not is_shipped(item.id)]
    messages = chat_messages([*chat, *read_chat(given.more_text)], count=MESSAGES, seed=SEED)
    spans = short_spans(messages, count=SPANS, seed=SEED)
    texts = [*messages, *spans]
    bank = bank_lines(SEED)
    teacher = _CachedTeacher(Teacher(), given.teacher_cache)
    tokenizer_json = bare_tokenizer(teacher.tokenizer_json)
    chat_vectors = np.concatenate([teacher.encode(messages), teacher.encode(spans)])
    bank_vectors = teacher.encode([line.text for line in bank])
    teachers_tagger = fit_tagger(
        teacher.encode,
        bank=bank,
        chat_vectors=chat_vectors,
        opinions=first_opinion(bank, bank_vectors, chat_vectors),
        hidden=TEACHERS_TAGGER_UNITS,
        input_dropout=0.5,
        seed=SEED,
    )
    opinions = opinion_of(teachers_tagger, chat_vectors)
    axes = principal_axes(chat_vectors)
    table = distil(
        tokenizer_json,
        texts=[*texts, *(line.text for line in bank for _ in range(BANK_COPIES))],
        targets=np.concatenate([chat_vectors, np.repeat(bank_vectors, BANK_COPIES, axis=0)]) @ axes,
        piece_targets=teacher.encode(_pieces(tokenizer_json)) @ axes,
        opinions=np.concatenate([opinions, np.repeat(certain_opinions(bank), BANK_COPIES, axis=0)]),
        emphasis=np.ones(len(texts) + len(bank) * BANK_COPIES, np.float32),
        seed=SEED,
    )
    print(f"mean cosine with the teacher on held-out messages: {table.agreement:.3f}")
    files = {TOKENIZER_FILE: tokenizer_json.encode(), TABLE_FILE: save(table.tensors)}
    encoder = StaticEncoder(tokenizer_json, table.tensors)
    own_vectors = encoder.encode(texts)
    public: dict[str, npt.NDArray[np.generic]] = dict(
        fit_tagger(
            encoder.encode,
            bank=bank,
            chat_vectors=own_vectors,
            opinions=opinions,
            hidden=TAGGER_UNITS,
            input_dropout=0.4,
            seed=SEED,
        )
    )
    public |= fit_projection(own_vectors[:30_000]) | neutral_statistics()
    plain = simulate_public(chat, conversations=PUBLIC_CONVERSATIONS, seed=SEED)
    demanding = simulate_public(chat, conversations=PUBLIC_CONVERSATIONS, seed=SEED, demanding=True)
    public |= fit_statistics(_raw_rows(_assembled(files, public), plain))
    public["warm_start"] = fit_warm_start(_assembled(files, public), [*plain, *demanding])
    files[PUBLIC_FILE] = save(public)
    notice = given.out / NOTICE_FILE
    if notice.exists():
        files[NOTICE_FILE] = notice.read_bytes()
    _write(given.out, files, table.agreement)


def _assembled(files: dict[str, bytes], public: dict[str, npt.NDArray[np.generic]]) -> FeatureSet:
    return FeatureSet(NAME, "0" * 64, {**files, PUBLIC_FILE: save(public)})


def _raw_rows(feature_set: FeatureSet, conversations: Sequence[Conversation]) -> npt.NDArray[np.float64]:
    prefixes = (0.35, 0.6, 0.8, 1.0)
    return feature_set.raw_rows_of(conversations, prefixes).reshape(-1, stage_features.DIMENSION)


def _pieces(tokenizer_json: str) -> list[str]:
    vocabulary = Tokenizer.from_str(tokenizer_json).get_vocab()
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [piece.removeprefix("##") for piece in ordered]


def _write(out: Path, files: dict[str, bytes], agreement: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    manifest = FeatureManifest(
        name=NAME,
        feature_version=stage_features.FEATURE_VERSION,
        files={
            name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            for name, content in sorted(files.items())
        },
        provenance={
            "teacher": f"all-MiniLM-L6-v2, int8 ONNX, SHA-256 {TEACHER_ONNX_SHA256}, Apache-2.0",
            "text": "chitchat-dataset 0.9.0 (MIT) without the part under examples/data; synthetic-se-dialogues (MIT); "
            "the phrase bank of this repository",
            "agreement": f"mean cosine {agreement:.3f} with the teacher's components on held-out messages",
            "seed": str(SEED),
        },
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    (out / MANIFEST_FILE).write_text(text, encoding="utf-8")
    print(f"{NAME}: {sum(map(len, files.values())) / 1e6:.2f} MB, fingerprint {manifest.fingerprint()}")


class _CachedTeacher:
    """The teacher, remembering its vectors on disk between builds."""

    def __init__(self, teacher: Teacher, folder: Path | None) -> None:
        self._teacher = teacher
        self._folder = folder
        self.tokenizer_json = teacher.tokenizer_json

    def encode(self, texts: Sequence[str]) -> Floats:
        if self._folder is None:
            return self._teacher.encode(texts)
        key = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
        path = self._folder / f"{key}.npy"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            np.save(path, self._teacher.encode(texts))
        found: Floats = np.load(path, allow_pickle=False)
        return found


if __name__ == "__main__":
    main()
