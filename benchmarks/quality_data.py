"""The companies of the quality benchmark: what each trains on, under the contribution bound, and what it is judged on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ringfence.demo.company_data import CompanyData
from ringfence.model.bounds import Bounds
from ringfence.model.conversation import Conversation
from ringfence.model.early_detection import early_detection, first_warnings
from ringfence.model.feature_set import FeatureSet
from ringfence.model.head import ARCHITECTURES
from ringfence.model.member_evaluation import threshold_for
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.stretches import highest_so_far
from ringfence.privacy.bounding import BoundedContributions, ContributionManifest
from ringfence.privacy.grouping import BOUNDS
from ringfence.privacy.training import nearest_size_class

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

WARNED_SHARE = 0.1
"""Share of a company's held-out conversations that are warned about where lateness is measured; the same for every row."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a detector does on the companies' held-out conversations, the mean of their figures.

    Attributes:
        auroc: area under the receiver operating characteristic of whole conversations.
        average_precision: of the same.
        f_latency: latency-weighted F1 of warnings that stay, at the threshold that `WARNED_SHARE` of the conversations
            reach at some message.
    """

    auroc: float
    average_precision: float
    f_latency: float


@dataclass(frozen=True)
class Company:
    """One company's conversations as rows.

    Attributes:
        data: the conversations themselves.
        rows: (n, prefixes, d) float32, of all training conversations.
        labels: (n,) of them.
        kept: which of them the contribution bound keeps.
        manifest: of those.
        beginnings: (messages, d) float32, the row after each message of each held-out conversation, one after the other.
        lengths: (m,) how many of these each held-out conversation has, at least 1.
        test_labels: (m,) of them.
    """

    data: CompanyData
    rows: npt.NDArray[np.float32]
    labels: Integers
    kept: Integers
    manifest: ContributionManifest
    beginnings: npt.NDArray[np.float32]
    lengths: Integers
    test_labels: Integers

    @property
    def size_class(self) -> int:
        """What the company declares in public: by its conversations, whatever a plan's bound keeps of them."""
        return nearest_size_class(len(self.labels))

    def timelines(self, model: Floats, *, architecture: str) -> list[Floats]:
        """Return the score after each message of each held-out conversation."""
        scores = ARCHITECTURES[architecture].logits(model, self.beginnings)
        return [highest_so_far(part) for part in np.split(scores, np.cumsum(self.lengths)[:-1])]


def prepare(
    data: CompanyData,
    features: FeatureSet,
    *,
    prefixes: Sequence[float],
    bounded: BoundedContributions,
    cache: Path | None,
) -> Company:
    """Return a company's rows; computed once for the same conversations and features, if there is a cache."""
    path = None if cache is None else cache / f"{_digest(data, features, prefixes)}.npz"
    if path is not None and path.exists():
        with np.load(path) as held:
            rows, beginnings = held["rows"], held["beginnings"]
    else:
        rows = features.rows_of(data.train, prefixes)
        beginnings = np.concatenate([_beginnings(item, features) for item in data.test])
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            half_written = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(half_written, rows=rows, beginnings=beginnings)
            half_written.replace(path)
    return Company(
        data=data,
        rows=rows,
        labels=labels_of(data.train),
        kept=np.array(bounded.positions, np.int64),
        manifest=bounded.manifest,
        beginnings=beginnings,
        lengths=np.array([max(1, len(item.messages)) for item in data.test], np.int64),
        test_labels=labels_of(data.test),
    )


def bounded_contributions(
    data: CompanyData, *, bounds: Bounds, contribution_bound: int, secret: bytes
) -> BoundedContributions:
    """Return what of a company's training conversations the bound keeps."""
    return BOUNDS[bounds](data.train, contribution_bound=contribution_bound, secret=secret)


def labels_of(conversations: Sequence[Conversation]) -> Integers:
    """Return the labels, (n,)."""
    return np.array([item.label for item in conversations], np.int64)


def judge(companies: Sequence[Company], timelines: Sequence[Sequence[Floats]]) -> Quality:
    """Return the mean of the companies' figures.

    Args:
        companies: each judged by itself, never pooled.
        timelines: for each company, the score after each message of each held-out conversation.
    """
    found = [
        _judge_one(company.test_labels, scores) for company, scores in zip(companies, timelines, strict=True)
    ]
    return Quality(*(float(np.mean(figures)) for figures in zip(*found, strict=True)))


def _judge_one(labels: Integers, timelines: Sequence[Floats]) -> tuple[float, float, float]:
    scores = np.array([timeline[-1] for timeline in timelines])
    highest = np.array([timeline.max() for timeline in timelines])
    warned = first_warnings(timelines, threshold=threshold_for(highest, share=WARNED_SHARE))
    lengths = np.array([len(timeline) for timeline in timelines], np.int64)
    early = early_detection(labels, warned, lengths=lengths)
    return area_under_roc(labels, scores), average_precision(labels, scores), early.f_latency


def _beginnings(conversation: Conversation, features: FeatureSet) -> npt.NDArray[np.float32]:
    if conversation.messages:
        return features.rows_of_beginnings(conversation)
    nothing_said: npt.NDArray[np.float32] = features.rows_of([conversation])[:, 0]
    return nothing_said


def _digest(data: CompanyData, features: FeatureSet, prefixes: Sequence[float]) -> str:
    state = hashlib.sha256(repr((features.fingerprint, tuple(prefixes))).encode())
    for part in (data.train, data.test):
        for item in part:
            state.update(repr([(message.author, message.text) for message in item.messages]).encode())
        state.update(b"|")
    return state.hexdigest()
