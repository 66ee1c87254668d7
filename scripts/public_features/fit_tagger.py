"""Fit the stage tagger: first on the teacher's vectors, then on the static ones with the teacher's opinion as a guide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from public_text import OTHER, TaggedText, retype
from sklearn.linear_model import LogisticRegression

from ringfence.model.encoders import Encoder

HIDDEN = 64
COPIES = 8
"""How often each line of the bank is seen, each time typed by somebody else."""

STEPS = 1500
BATCH = 512
BANK_SHARE = 0.5
"""Share of a batch that comes from the bank; the rest is chat."""

OTHER_DISCOUNT = 2.5
"""Taken off the log-odds of "other": a head can discount a stage that was seen too often, and cannot see a missed one."""

Floats = npt.NDArray[np.float32]


def teacher_opinion(bank_vectors: Floats, bank_stages: npt.NDArray[np.int64], chat_vectors: Floats) -> Floats:
    """Return the probability of each class for each chat message, (n, 10), as the teacher's own tagger sees it.

    Chat counts as "other" in its training, so an opinion against that is strong evidence.
    """
    vectors = np.concatenate([bank_vectors, chat_vectors])
    classes = np.concatenate([bank_stages, np.full(len(chat_vectors), OTHER)])
    weights = np.concatenate([np.full(len(bank_vectors), 8.0), np.ones(len(chat_vectors))])
    tagger = LogisticRegression(C=1.0, max_iter=300).fit(vectors, classes, sample_weight=weights)
    return tagger.predict_proba(chat_vectors).astype(np.float32)


def fit_tagger(
    encoder: Encoder,
    *,
    bank: Sequence[TaggedText],
    chat: Sequence[str],
    opinions: Floats,
    seed: int,
) -> dict[str, Floats]:
    """Return the tagger's tensors, as `ringfence.model.feature_set` reads them."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    texts = [line.text for line in bank]
    bank_vectors = np.concatenate(
        [encoder.encode(texts)] + [encoder.encode(retype(texts, rng)) for _ in range(COPIES - 1)]
    )
    one_hot = np.eye(OTHER + 1, dtype=np.float32)[np.tile([line.stage for line in bank], COPIES)]
    inputs = [torch.from_numpy(bank_vectors), torch.from_numpy(encoder.encode(chat))]
    targets = [torch.from_numpy(0.95 * one_hot + 0.005), torch.from_numpy(opinions)]
    network = torch.nn.Sequential(
        torch.nn.Linear(encoder.dimension, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(HIDDEN, OTHER + 1),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    network.train()
    counts = (int(BATCH * BANK_SHARE), BATCH - int(BATCH * BANK_SHARE))
    for _ in range(STEPS):
        picked = [rng.integers(0, len(part), count) for part, count in zip(inputs, counts, strict=True)]
        batch = torch.cat([part[index] for part, index in zip(inputs, picked, strict=True)])
        wanted = torch.cat([part[index] for part, index in zip(targets, picked, strict=True)])
        loss = torch.nn.functional.cross_entropy(network(batch), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    first, last = network[0], network[3]
    return {
        "tagger_hidden_weight": first.weight.detach().numpy().copy(),
        "tagger_hidden_bias": first.bias.detach().numpy().copy(),
        "tagger_output_weight": last.weight.detach().numpy().copy(),
        "tagger_output_bias": last.bias.detach().numpy()
        - OTHER_DISCOUNT * np.eye(OTHER + 1, dtype=np.float32)[OTHER],
    }
