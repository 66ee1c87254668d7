"""A member's conversations as training rows: read, bounded, turned into features once.

Rows are cached under a key of everything that they depend on (`ringfence.client.row_cache`). People whom the member forgot
are passed over wherever conversations are read or turned into rows (`ringfence.client.exclusions`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.client.exclusions import load_exclusions
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.client.row_cache import RowCache
from ringfence.model.conversation import Conversation
from ringfence.model.errors import ConfigError, DataError
from ringfence.model.feature_set import FeatureSet
from ringfence.model.jsonl_reader import load_conversations
from ringfence.privacy.bounding import ContributionManifest, bound_contributions

_SECRET_BYTES = 32


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


def load_labelled(home: MemberHome, settings: MemberSettings) -> list[Conversation]:
    """Return the member's labelled conversations, without those of people whom it forgot.

    Raises:
        ConfigError: no files are named, or one cannot be read; or it is not known whom to leave out. The member's to mend.
        DataError: a line is not in the agreed form, or nothing is labelled. The member's to mend.
    """
    if not settings.data.files:
        raise ConfigError(
            f"{home.settings_file} names no conversations.",
            hint='Add: [data] files = ["/path/to/conversations.jsonl"]',
        )
    paths = [home.root / file for file in settings.data.files]
    found = load_exclusions(home).keep(load_conversations(paths, require_labels=True))
    return [item for item in found if item.label is not None]
    # Whether both labels occur is not looked at: a refusal would tell the coordinator, without noise and without a charge,
    # something about what was said. A step on one kind alone is a step like any other.


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
    who was just forgotten are never written.

    Raises:
        ConfigError: it is not known whom to leave out. The member's to mend.
        DataError: no conversation is left. The member's to mend.
    """
    cache = RowCache(home)
    with cache.lock():
        conversations = load_exclusions(home).keep(conversations)
        bounded = bound_contributions(
            conversations, contribution_bound=contribution_bound, secret=contribution_secret(home)
        )
        kept = [conversations[position] for position in bounded.positions]
        if not kept:
            raise DataError("No conversation is left to train on.", hint="Run: ringfence data check")
        key = _cache_key(kept, feature_set, prefixes)
        cache.note(key, bounded.manifest)
        features = cache.read(key)
        if features is None:
            features = np.stack([feature_set.rows(item, prefixes=prefixes) for item in kept]).astype(
                np.float32
            )
            cache.write(key, features)
    labels = np.array([item.label for item in kept], dtype=np.int64)
    return TrainingRows(features=features, labels=labels, manifest=bounded.manifest)


def contribution_secret(home: MemberHome) -> bytes:
    """Return the secret that orders conversations for the bound, made on first use with mode 0600.

    It never changes: a new order would be a new choice of conversations under the same promise.
    """
    path = home.contribution_key_file
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) != _SECRET_BYTES:
            raise ConfigError(
                f"{path} is damaged.", hint="Restore it from a backup; never make a new one."
            ) from None
        return secret
    secret = secrets.token_bytes(_SECRET_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return secret


def _cache_key(
    conversations: Sequence[Conversation], feature_set: FeatureSet, prefixes: tuple[float, ...]
) -> str:
    digest = hashlib.sha256(f"rows 1|{feature_set.fingerprint}|{prefixes!r}".encode())
    for conversation in conversations:
        digest.update(repr((conversation.id, conversation.label, len(conversation.messages))).encode())
        for message in conversation.messages:
            digest.update(repr((message.author, message.text, message.time)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40]
