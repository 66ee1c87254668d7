"""A member's conversations as training rows: read once, bounded, turned into features.

Rows are cached under a key of everything that they depend on (`ringfence.client.row_cache`). People whom the member forgot
are passed over wherever conversations are read or turned into rows (`ringfence.client.exclusions`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.exclusions import load_exclusions
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.client.row_cache import RowCache
from ringfence.client.snapshot import Selection, Snapshot
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError
from ringfence.model.feature_set import FeatureSet
from ringfence.privacy.bounding import ContributionManifest, bound_contributions


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What the private step trains on.

    Attributes:
        features: (n, prefixes, dimension) float32.
        labels: (n,) int64, 0 or 1.
        manifest: which conversations, under pseudonyms, and how often each person counts.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    manifest: ContributionManifest


def open_labelled(home: MemberHome, settings: MemberSettings) -> Snapshot:
    """Return a snapshot of the member's labelled conversations, without those of people whom it forgot.

    Raises:
        ConfigError: no source is named, or it cannot be used; or it is not known whom to leave out. The member's to mend.
        DataError: what the source holds is not in the agreed form. The member's to mend.
    """
    return take_snapshot(home, data=settings.data, labelled_only=True)


def load_labelled(home: MemberHome, settings: MemberSettings) -> list[Conversation]:
    """Return all of `open_labelled` at once, under pseudonyms: for data that fits into memory."""
    with open_labelled(home, settings) as snapshot:
        return list(snapshot)


def training_rows(
    home: MemberHome,
    *,
    conversations: Sequence[Conversation],
    feature_set: FeatureSet,
    prefixes: tuple[float, ...],
    contribution_bound: int,
) -> TrainingRows:
    """Return the rows of the conversations that the contribution bound keeps, from the cache where it has them.

    People whom the member forgot are left out here once more, while nobody can forget or remove anything: rows of somebody
    who was just forgotten are never written. Conversations are gone through one by one, never held all at once.

    Raises:
        ConfigError: it is not known whom to leave out. The member's to mend.
        DataError: no conversation is left. The member's to mend.
    """
    cache = RowCache(home)
    with cache.lock():
        allowed = Selection(conversations, load_exclusions(home).allowed(conversations))
        bounded = bound_contributions(
            allowed, contribution_bound=contribution_bound, secret=contribution_secret(home)
        )
        kept = Selection(allowed, bounded.positions)
        if not kept:
            raise DataError("No conversation is left to train on.", hint="Run: ringfence data check")
        key, labels = _key_and_labels(kept, feature_set, prefixes)
        cache.note(key, bounded.manifest)
        features = cache.read(key)
        # Rows of another shape were made by another version, or were tampered with: they are made anew.
        if features is None or features.shape != (len(kept), len(prefixes), feature_set.dimension):
            features = _rows(kept, feature_set, prefixes)
            cache.write(key, features)
    return TrainingRows(features=features, labels=labels, manifest=bounded.manifest)


def _rows(
    conversations: Sequence[Conversation], feature_set: FeatureSet, prefixes: tuple[float, ...]
) -> NDArray[np.float32]:
    features: NDArray[np.float32] | None = None
    for index, conversation in enumerate(conversations):
        rows = feature_set.rows(conversation, prefixes=prefixes)
        if features is None:
            features = np.empty((len(conversations), *rows.shape), dtype=np.float32)
        features[index] = rows
    if features is None:
        raise DataError("No conversation is left to train on.", hint="Run: ringfence data check")
    return features


def _key_and_labels(
    conversations: Sequence[Conversation], feature_set: FeatureSet, prefixes: tuple[float, ...]
) -> tuple[str, NDArray[np.int64]]:
    digest = hashlib.sha256(f"rows 1|{feature_set.fingerprint}|{prefixes!r}".encode())
    labels = np.empty(len(conversations), dtype=np.int64)
    for index, conversation in enumerate(conversations):
        labels[index] = 1 if conversation.label else 0
        digest.update(repr((conversation.id, conversation.label, len(conversation.messages))).encode())
        for message in conversation.messages:
            digest.update(repr((message.author, message.text, message.time)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40], labels
