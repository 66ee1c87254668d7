"""A member's conversations as training rows: read once, bounded, turned into features.

Rows are kept for each conversation under a key of what it holds (`ringfence.client.row_cache`). People whom the member
forgot are passed over wherever conversations are read or turned into rows (`ringfence.client.exclusions`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.exclusions import exclusions_stamp, load_exclusions
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.client.row_cache import RowCache
from ringfence.client.row_file import ConversationKeys, FeatureRow
from ringfence.client.snapshot import Selection, Snapshot
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.bounds import Bounds
from ringfence.model.conversation import Conversation
from ringfence.model.errors import ConfigError, DataError
from ringfence.model.feature_set import FeatureSet
from ringfence.privacy.bounding import ContributionManifest
from ringfence.privacy.grouping import BOUNDS

Progress = Callable[[int, int], None]
_BATCH = 128
"""Conversations whose rows are written together: what is lost if the making is stopped."""


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
    bounds: Bounds,
    progress: Progress | None = None,
) -> TrainingRows:
    """Return the rows of the conversations that the contribution bound keeps, from the cache where it has them.

    People whom the member forgot are left out here once more. Rows are written while nobody can forget or remove anything,
    and only if nobody was forgotten since the conversations were chosen: rows of somebody who was just forgotten are never
    written. Conversations are gone through one by one, never held all at once.

    Args:
        home: the member's folder.
        conversations: labelled ones, under pseudonyms.
        feature_set: makes the rows.
        prefixes: beginnings of conversations to have rows of.
        contribution_bound: k.
        bounds: how it is kept; see `ringfence.model.plan.PrivacyTerms`.
        progress: is told, after each batch of rows that were not there, how many of them were made, and of how many.

    Raises:
        ConfigError: it is not known whom to leave out, or the member's secret was replaced meanwhile. The member's to mend.
        DataError: no conversation is left. The member's to mend.
    """
    making = _Making(home, feature_set=feature_set, prefixes=prefixes, progress=progress)
    while True:
        try:
            return making.rows(conversations, contribution_bound=contribution_bound, bounds=bounds)
        except _ForgottenMeanwhileError:
            continue  # what was made of others is there


class _ForgottenMeanwhileError(Exception):
    """Somebody was forgotten after the conversations were chosen."""


class _Making:
    """Makes rows of one feature set and of the same beginnings."""

    def __init__(
        self,
        home: MemberHome,
        *,
        feature_set: FeatureSet,
        prefixes: tuple[float, ...],
        progress: Progress | None,
    ) -> None:
        self._home = home
        self._feature_set = feature_set
        self._prefixes = prefixes
        self._progress = progress
        self._secret = contribution_secret(home)
        self._cache = RowCache(home)

    def rows(
        self, conversations: Sequence[Conversation], *, contribution_bound: int, bounds: Bounds
    ) -> TrainingRows:
        with self._cache.lock():
            if contribution_secret(self._home) != self._secret:
                # Whoever was forgotten meanwhile is excluded under another pseudonym than the one that they have here.
                raise ConfigError(
                    f"{self._home.contribution_key_file} was replaced while feature rows were made.",
                    hint="Restore it from a backup, and start again.",
                )
            chosen_at = exclusions_stamp(self._home)
            allowed = Selection(conversations, load_exclusions(self._home).allowed(conversations))
            keys, labels = self._keys_and_labels(allowed)
            bounded = BOUNDS[bounds](allowed, contribution_bound=contribution_bound, secret=self._secret)
            if not bounded.positions:
                raise DataError("No conversation is left to train on.", hint="Run: ringfence data check")
            self._cache.note(bounded.manifest, secret=self._secret)
            self._cache.keep_only(frozenset(keys))
            shape = (len(bounded.positions), len(self._prefixes), self._feature_set.dimension)
            features = np.empty(shape, dtype=np.float32)
            missing = self._read(features, [keys[position] for position in bounded.positions])
        # Without the lock, since it may take an hour: a person may be forgotten meanwhile.
        for start in range(0, len(missing), _BATCH):
            batch = []
            for index in missing[start : start + _BATCH]:
                position = bounded.positions[index]
                features[index] = self._feature_set.rows(allowed[position], prefixes=self._prefixes)
                people = bounded.manifest.kept[index].participants
                batch.append(FeatureRow(keys[position], people, features[index]))
            self._write(batch, chosen_at)
            if self._progress is not None:
                self._progress(start + len(batch), len(missing))
        return TrainingRows(
            features=features, labels=labels[list(bounded.positions)], manifest=bounded.manifest
        )

    def _keys_and_labels(
        self, conversations: Sequence[Conversation]
    ) -> tuple[list[bytes], NDArray[np.int64]]:
        named = ConversationKeys(self._secret)
        keys, labels = [], np.empty(len(conversations), dtype=np.int64)
        for index, conversation in enumerate(conversations):
            keys.append(named.of(conversation))
            labels[index] = 1 if conversation.label else 0
        return keys, labels

    def _read(self, features: NDArray[np.float32], keys: Sequence[bytes]) -> list[int]:
        """Fill in the rows that are there, and return the places of the others."""
        missing = []
        with self._cache.rows(self._feature_set.fingerprint, check=True) as file:
            for index, key in enumerate(keys):
                found = file.read(key, prefixes=self._prefixes, dimension=self._feature_set.dimension)
                if found is None:
                    missing.append(index)
                else:
                    features[index] = found
        return missing

    def _write(self, batch: Sequence[FeatureRow], chosen_at: tuple[int, int] | None) -> None:
        with self._cache.lock():
            if exclusions_stamp(self._home) != chosen_at:
                raise _ForgottenMeanwhileError
            with self._cache.rows(self._feature_set.fingerprint) as file:
                file.write(batch, prefixes=self._prefixes, now=time.time())
