"""Distil the teacher into a table of vectors: one a word piece, one a bucket of neighbouring word pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from public_text import retype
from tokenizers import Tokenizer

from ringfence.model.static_encoder import look_up_rows

DIMENSION = 128
BUCKETS = 16_384
EPOCHS = 8
BATCH = 1024
LEARNING_RATE = 6e-3
TAGGER_SHARE = 0.1
"""Weight of telling stages apart against pointing where the teacher does."""

SMOOTHING = 1e-3
"""a of the starting weight a / (a + frequency). Source: Arora et al. 2017, sec. 3."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """The encoder's table before and after rounding.

    Attributes:
        tensors: as in `ringfence.model.static_encoder`.
        agreement: mean cosine with the teacher's components on held-out messages, in [-1, 1].
    """

    tensors: dict[str, npt.NDArray[np.generic]]
    agreement: float


def bare_tokenizer(teacher_json: str) -> str:
    """Return the teacher's tokenizer without truncation, padding and special tokens."""
    form = json.loads(teacher_json)
    form.update(truncation=None, padding=None, post_processor=None)
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def principal_axes(embedded: Floats) -> Floats:
    """Return the axes that keep most of the teacher's vectors, (384, 128) float32, signs fixed."""
    second_moment = embedded.T.astype(np.float64) @ embedded / len(embedded)
    _, vectors = np.linalg.eigh(second_moment)
    axes = vectors[:, ::-1][:, :DIMENSION]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(DIMENSION)])
    return (axes * signs).astype(np.float32)


def distil(
    tokenizer_json: str,
    *,
    texts: Sequence[str],
    targets: Floats,
    piece_targets: Floats,
    opinions: Floats,
    emphasis: Floats,
    seed: int,
) -> Table:
    """Fit the table so that the sum of a text's rows points where the teacher's vector does, and tells stages apart.

    The second aim keeps the directions that the tagger needs; its own weights are fitted again afterwards.

    Args:
        tokenizer_json: of `bare_tokenizer`.
        texts: n public messages.
        targets: (n, 128), the teacher's vectors on the principal axes.
        piece_targets: (V, 128), the same for each word piece alone: where a piece starts that no message holds.
        opinions: (n, 10), what each message stands for: certain for lines of the bank, the teacher's tagger's for chat.
        emphasis: (n,), weight of each message in the loss.
        seed: decides order, typing habits and dropout.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    vocabulary = len(piece_targets)
    rng = np.random.default_rng(seed)
    held_out = rng.random(len(texts)) < 0.03
    train = np.nonzero(~held_out)[0]
    unit = torch.nn.functional.normalize(torch.from_numpy(targets), dim=1)
    weight = torch.from_numpy(emphasis)
    table = torch.nn.EmbeddingBag(vocabulary + BUCKETS, DIMENSION, mode="sum")
    with torch.no_grad():
        table.weight.zero_()
        table.weight[:vocabulary] = torch.from_numpy(
            piece_targets * _starting_weights(tokenizer, texts, vocabulary)[:, None]
        )
    classes = opinions.shape[1]
    tagger = torch.nn.Sequential(
        torch.nn.Linear(DIMENSION, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, classes)
    )
    wanted = torch.from_numpy(opinions)
    optimiser = torch.optim.Adam([*table.parameters(), *tagger.parameters()], lr=LEARNING_RATE)
    steps = EPOCHS * (len(train) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    clean = _Bags(tokenizer, texts, vocabulary)
    for epoch in range(EPOCHS):
        # Half of the passes see the messages as others would have typed them; the target stays.
        bags = clean if epoch % 2 == 0 else _Bags(tokenizer, retype(texts, rng), vocabulary)
        order = rng.permutation(train)
        total = 0.0
        for start in range(0, len(order), BATCH):
            picked = order[start : start + BATCH]
            rows, offsets = bags.take(picked, rng=rng, drop=0.1)
            out = torch.nn.functional.normalize(table(rows, offsets), dim=1, eps=1e-6)
            chosen = torch.from_numpy(picked)
            turned = 1 - (out * unit[chosen]).sum(1)
            surprised = torch.nn.functional.cross_entropy(tagger(out), wanted[chosen], reduction="none")
            loss = ((turned + TAGGER_SHARE * surprised) * weight[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(picked)
        print(f"epoch {epoch}: loss {total / len(order):.4f}", flush=True)
    tensors = _quantise(table.weight.detach().numpy(), vocabulary)
    return Table(tensors, _agreement(tensors, clean, np.nonzero(held_out)[0], unit.numpy()))


class _Bags:
    """The table rows of many texts, kept as one array."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], vocabulary: int) -> None:
        rows, starts, filled = look_up_rows(tokenizer, texts, vocabulary, BUCKETS)
        self._rows = rows
        self._begin = np.zeros(len(texts), np.int64)
        self._length = np.zeros(len(texts), np.int64)
        self._begin[filled] = starts
        self._length[filled] = np.diff(np.append(starts, len(rows)))

    def take(
        self, picked: npt.NDArray[np.int64], *, rng: np.random.Generator | None = None, drop: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts, offsets, total = [], [], 0
        for index in picked:
            part = self._rows[self._begin[index] : self._begin[index] + self._length[index]]
            if rng is not None and len(part) > 3:
                kept = part[rng.random(len(part)) >= drop]
                part = kept if len(kept) else part
            parts.append(part)
            offsets.append(total)
            total += len(part)
        return torch.from_numpy(np.concatenate(parts)), torch.tensor(offsets)


def _starting_weights(tokenizer: Tokenizer, texts: Sequence[str], vocabulary: int) -> Floats:
    counts = np.zeros(vocabulary)
    for item in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        np.add.at(counts, item.ids, 1)
    frequency = counts / counts.sum()
    return (SMOOTHING / (SMOOTHING + frequency)).astype(np.float32)


def _quantise(weights: Floats, vocabulary: int) -> dict[str, npt.NDArray[np.generic]]:
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-8) / 127.0
    rounded = np.rint(weights / scales[:, None]).astype(np.int8)
    return {
        "pieces": rounded[:vocabulary],
        "piece_scales": scales[:vocabulary].astype(np.float32),
        "pairs": rounded[vocabulary:],
        "pair_scales": scales[vocabulary:].astype(np.float32),
    }


def _agreement(
    tensors: dict[str, npt.NDArray[np.generic]], bags: _Bags, picked: npt.NDArray[np.int64], unit: Floats
) -> float:
    rows = np.concatenate([tensors["pieces"], tensors["pairs"]]).astype(np.float32)
    rows *= np.concatenate([tensors["piece_scales"], tensors["pair_scales"]]).astype(np.float32)[:, None]
    table = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(rows), mode="sum")
    out = torch.nn.functional.normalize(table(*bags.take(picked)), dim=1, eps=1e-6).numpy()
    return float((out * unit[picked]).sum(axis=1).mean())
