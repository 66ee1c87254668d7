"""Fit the stage tagger: first on the teacher's vectors, then on an encoder's own with the teacher's opinion as a guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from public_text import OTHER, TaggedText, retype
from sklearn.linear_model import LogisticRegression

COPIES = 6
"""How often each line of the bank is seen, each time typed by somebody else."""

STEPS = 6000
BATCH = 512
BANK_SHARE = 0.5
"""Share of a batch that comes from the bank; the rest is chat."""

CERTAIN = 0.95
"""What a line of the bank is said to be, the rest spread evenly: no line stands for its stage alone."""

DOUBT = 0.5
"""Share of the first opinion in what chat is said to be; the rest says "other", which nearly all of it is."""

Floats = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Floats]


def certain_opinions(bank: Sequence[TaggedText]) -> Floats:
    """Return what each line of the bank stands for, (n, 10) float32."""
    one_hot = np.eye(OTHER + 1, dtype=np.float32)[[line.stage for line in bank]]
    return (CERTAIN * one_hot + (1 - CERTAIN) / (OTHER + 1)).astype(np.float32)


def first_opinion(bank: Sequence[TaggedText], bank_vectors: Floats, chat_vectors: Floats) -> Floats:
    """Return the probability of each class for each chat message, (n, 10), as a linear model on the teacher's vectors sees it.

    Chat counts as "other" in its training, so an opinion against that is strong evidence: a few messages of any chat do
    ask for an age or offer a gift, and a tagger should not learn that these are nothing.
    """
    vectors = np.concatenate([bank_vectors, chat_vectors])
    classes = np.concatenate([[line.stage for line in bank], np.full(len(chat_vectors), OTHER)])
    weights = np.concatenate([np.full(len(bank_vectors), 8.0), np.ones(len(chat_vectors))])
    tagger = LogisticRegression(C=1.0, max_iter=300).fit(vectors, classes, sample_weight=weights)
    nothing = np.eye(OTHER + 1)[np.full(len(chat_vectors), OTHER)]
    return (DOUBT * tagger.predict_proba(chat_vectors) + (1 - DOUBT) * nothing).astype(np.float32)


def fit_tagger(
    encode: Encode,
    *,
    bank: Sequence[TaggedText],
    chat_vectors: Floats,
    opinions: Floats,
    hidden: int,
    input_dropout: float,
    seed: int,
) -> dict[str, Floats]:
    """Return the tagger's tensors, as `ringfence.model.feature_set` reads them.

    Args:
        encode: returns the vectors of texts, (n, d).
        bank: its lines.
        chat_vectors: (m, d), of public messages.
        opinions: (m, 10), what these stand for.
        hidden: units of the layer between.
        input_dropout: share of a vector's numbers that a step does not see: what is known of a stage may not hang on a few.
        seed: decides order, typing habits and dropout.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    texts = [line.text for line in bank]
    bank_vectors = np.concatenate([encode(texts)] + [encode(retype(texts, rng)) for _ in range(COPIES - 1)])
    inputs = [torch.from_numpy(bank_vectors), torch.from_numpy(chat_vectors)]
    targets = [torch.from_numpy(np.tile(certain_opinions(bank), (COPIES, 1))), torch.from_numpy(opinions)]
    network = torch.nn.Sequential(
        torch.nn.Dropout(input_dropout),
        torch.nn.Linear(bank_vectors.shape[1], hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(hidden, OTHER + 1),
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
    first, last = network[1], network[4]
    return {
        "tagger_hidden_weight": first.weight.detach().numpy().copy(),
        "tagger_hidden_bias": first.bias.detach().numpy().copy(),
        "tagger_output_weight": last.weight.detach().numpy().copy(),
        "tagger_output_bias": last.bias.detach().numpy().copy(),
    }


def opinion_of(tagger: dict[str, Floats], vectors: Floats) -> Floats:
    """Return the probability of each class for each vector, (n, 10) float32, as `fit_tagger`'s tensors give it."""
    hidden = np.maximum(vectors @ tagger["tagger_hidden_weight"].T + tagger["tagger_hidden_bias"], 0)
    logits = hidden @ tagger["tagger_output_weight"].T + tagger["tagger_output_bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
