"""The detector: frozen public features, a small trained head, a calibration; what scores a conversation.

On disk it is three files without code in them: ``model.safetensors`` (the head), ``config.json`` (what it belongs to)
and ``calibration.json``. Loading refuses whatever could score something else than what was trained.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.calibration import Calibration
from ringfence.model.conversation import Conversation, Message
from ringfence.model.errors import ReleaseError
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Name, Sha256, describe
from ringfence.model.stretches import STRETCH, highest_so_far

PARAMETERS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CALIBRATION_FILE = "calibration.json"
FEATURES_FOLDER = "features"

Float64Array = npt.NDArray[np.float64]

_Form = TypeVar("_Form", bound=BaseModel)

_TENSOR = "parameters"
_MAX_PARAMETERS_BYTES = 256 * 1024 * 1024
_MAX_TEXT_BYTES = 1024 * 1024
_PULL_AGAIN = "Pull the release again; if it stays so, tell the coordinator."


class RowState(Protocol):
    """A conversation that is still going on."""

    @property
    def messages(self) -> int:
        """How many messages were taken in."""

    def add(self, message: Message) -> npt.NDArray[np.float32]:
        """Take in one message and return the probability of each stage and of "other", (10,) float32."""

    def features(self) -> npt.NDArray[np.float32]:
        """Return the row of the present stretch, (dimension,) float32."""

    def to_bytes(self) -> bytes:
        """Return the state to keep."""


class FeatureSource(Protocol):
    """What a detector needs of a frozen public feature set (`ringfence.model.feature_set`)."""

    @property
    def name(self) -> str:
        """Name of the feature set."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its files, hexadecimal."""

    @property
    def dimension(self) -> int:
        """Length of one feature row."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name of each file -> its content; a release carries them."""

    @property
    def warm_start(self) -> Float64Array:
        """Parameters of the linear head that everybody starts from, (dimension + 1,) float64; public."""

    def rows_of(
        self, conversations: Sequence[Conversation], prefixes: Sequence[float] = (1.0,)
    ) -> npt.NDArray[np.float32]:
        """Return one row a conversation and prefix, (n, prefixes, dimension) float32."""

    def rows_of_beginnings(self, conversation: Conversation) -> npt.NDArray[np.float32]:
        """Return the row of the present stretch after each message of the conversation, (n, dimension) float32."""

    def tagged_beginnings(
        self, conversation: Conversation
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `rows_of_beginnings` and the `tags` of the messages; each message is encoded once for both."""

    def new_state(self, saved: bytes | None = None) -> RowState:
        """Return the state of a conversation that goes on."""

    def rows_without_each(self, conversation: Conversation) -> npt.NDArray[np.float32]:
        """Return the row of the conversation without its i-th message, for each i, (n, dimension) float32."""

    def tags(self, messages: Sequence[Message]) -> npt.NDArray[np.float32]:
        """Return the probability of each stage and of "other" for each message, (n, 10) float32."""


class DetectorConfig(BaseModel):
    """``config.json``: what the parameters belong to.

    Attributes:
        schema_version: of this form.
        kind: tells this file from other models' files.
        architecture: name in the registry of `ringfence.model.head`.
        feature_set: name of the public features.
        feature_set_sha256: their fingerprint.
        dimension: length of one feature row.
        parameter_count: length of the parameter vector.
        ringfence_version: version of Ringfence that wrote the files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Literal["ringfence-detector"] = "ringfence-detector"
    architecture: Name
    feature_set: Name
    feature_set_sha256: Sha256
    dimension: int = Field(ge=1, le=1_000_000)
    parameter_count: int = Field(ge=1, le=100_000_000)
    ringfence_version: str


@dataclass(frozen=True, slots=True)
class Score:
    """What a detector says of one conversation: a reason for a person to look, never a verdict.

    Attributes:
        id: of the conversation.
        logit: the head's score, any real number.
        probability: the calibrated score, in [0, 1].
    """

    id: str
    logit: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A feature set, a head and a calibration that belong together.

    Attributes:
        feature_set: turns a conversation into a row.
        parameters: of the head, (parameter_count,) float64, read-only.
        architecture: name in the registry of `ringfence.model.head`.
        calibration: from score to probability.

    Raises:
        ReleaseError: the parameters do not fit the architecture, or are not finite. Whoever made them.
    """

    feature_set: FeatureSource
    parameters: Float64Array
    architecture: str = "linear-109"
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        own = np.array(self.parameters, dtype=np.float64)
        own.setflags(write=False)
        object.__setattr__(self, "parameters", own)
        _check_parameters(own, self.architecture, self.feature_set.dimension)

    def logits(self, features: npt.NDArray[np.float32]) -> Float64Array:
        """Return the head's score of each row: (n, dimension) float32 to (n,) float64."""
        result: Float64Array = ARCHITECTURES[self.architecture].logits(self.parameters, features)
        return result

    def running_logits(self, conversation: Conversation) -> Float64Array:
        """Return the score of a conversation after each of its messages, (n,) float64; empty if it has none."""
        return highest_so_far(self.logits(self.feature_set.rows_of_beginnings(conversation)))

    def score(self, conversation: Conversation) -> Score:
        """Return the score of one conversation, of any length; a long one's is that of its highest stretch."""
        return self.score_together([conversation])[0]

    def score_together(self, conversations: Sequence[Conversation]) -> list[Score]:
        """Return the scores of several conversations, encoded together, which is faster."""
        long = [index for index, item in enumerate(conversations) if len(item.messages) > STRETCH]
        short = [item for item in conversations if len(item.messages) <= STRETCH]
        logits = np.empty(len(conversations))
        whole = np.ones(len(conversations), bool)
        whole[long] = False
        logits[whole] = self.logits(self.feature_set.rows_of(short)[:, 0])
        for index in long:
            logits[index] = self.running_logits(conversations[index])[-1]
        probabilities = self.calibration.probabilities(logits)
        return [
            Score(id=conversation.id, logit=float(logit), probability=float(probability))
            for conversation, logit, probability in zip(conversations, logits, probabilities, strict=True)
        ]

    def score_many(self, conversations: Iterable[Conversation]) -> Iterator[Score]:
        """Yield one score a conversation, in order, holding one conversation at a time."""
        return map(self.score, conversations)

    def public_start(self) -> Detector:
        """Return the detector that its training started from: the same features and architecture, nothing private."""
        start = ARCHITECTURES[self.architecture].initial(self.feature_set)
        return Detector(self.feature_set, start, self.architecture)

    def digest(self) -> str:
        """Return the SHA-256 of what decides a score, in hexadecimal; the calibration takes no part in it."""
        named = f"{self.architecture}|{self.feature_set.fingerprint}|".encode()
        return hashlib.sha256(named + self.parameters.tobytes()).hexdigest()

    def config(self) -> DetectorConfig:
        """Return what `save` writes beside the parameters."""
        return DetectorConfig(
            architecture=self.architecture,
            feature_set=self.feature_set.name,
            feature_set_sha256=self.feature_set.fingerprint,
            dimension=self.feature_set.dimension,
            parameter_count=int(self.parameters.size),
            ringfence_version=importlib.metadata.version("ringfence"),
        )

    def save(self, folder: Path) -> None:
        """Write the detector's three files into an existing folder; the same detector gives the same bytes."""
        (folder / PARAMETERS_FILE).write_bytes(
            safetensors.numpy.save({_TENSOR: np.ascontiguousarray(self.parameters)})
        )
        _write_json(folder / CONFIG_FILE, self.config())
        _write_json(folder / CALIBRATION_FILE, self.calibration)

    @classmethod
    def load(cls, folder: Path, *, feature_set: FeatureSource | None = None) -> Detector:
        """Read a detector from a release folder, or from any folder that `save` wrote.

        Args:
            folder: holds the three files, and the feature set under ``features/`` if it is a release.
            feature_set: use this one; else the folder's own, else the one that Ringfence carries.

        Raises:
            ReleaseError: a file is missing, damaged, of another schema, or belongs to other features.
        """
        config = _read_json(folder / CONFIG_FILE, DetectorConfig)
        calibration = _read_json(folder / CALIBRATION_FILE, Calibration)
        features = feature_set if feature_set is not None else _features_of(folder, config.feature_set)
        if features.fingerprint != config.feature_set_sha256 or features.name != config.feature_set:
            raise ReleaseError(
                f"{folder.name} was trained on other features than {features.name} as it is here.",
                hint="Use the features that come with the release, or the version of Ringfence that its card names.",
            )
        parameters = _read_parameters(folder / PARAMETERS_FILE)
        if parameters.size != config.parameter_count or features.dimension != config.dimension:
            raise ReleaseError(
                f"{PARAMETERS_FILE} and {CONFIG_FILE} do not belong together.", hint=_PULL_AGAIN
            )
        return cls(
            feature_set=features,
            parameters=parameters,
            architecture=config.architecture,
            calibration=calibration,
        )


def _check_parameters(parameters: Float64Array, architecture: str, dimension: int) -> None:
    if architecture not in ARCHITECTURES:
        raise ReleaseError(
            f"This version of Ringfence does not know the architecture {architecture}.",
            hint="Install the version of Ringfence that the release's card names.",
        )
    expected = (ARCHITECTURES[architecture].parameter_count(dimension),)
    if parameters.shape != expected:
        raise ReleaseError(
            f"The parameters have shape {parameters.shape}; {architecture} needs {expected}.",
            hint=_PULL_AGAIN,
        )
    if not np.isfinite(parameters).all():
        raise ReleaseError("The parameters are not all finite numbers.", hint=_PULL_AGAIN)


def _features_of(folder: Path, name: str) -> FeatureSource:
    from ringfence.model.feature_set import load_feature_set

    own = folder / FEATURES_FOLDER
    return load_feature_set(name, folder=own if own.is_dir() else None)


def _read_parameters(path: Path) -> Float64Array:
    content = _read(path, _MAX_PARAMETERS_BYTES)
    try:
        tensors = safetensors.numpy.load(content)
    # A header may name types that numpy lacks (KeyError) or shapes that do not fit (ValueError).
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{path.name} is not a safetensors file.", hint=_PULL_AGAIN) from error
    parameters = tensors.get(_TENSOR)
    if len(tensors) != 1 or parameters is None or parameters.dtype != np.float64 or parameters.ndim != 1:
        raise ReleaseError(
            f"{path.name} must hold one tensor, {_TENSOR}, of one dimension in float64.", hint=_PULL_AGAIN
        )
    return parameters


def _read_json(path: Path, form: type[_Form]) -> _Form:
    content = _read(path, _MAX_TEXT_BYTES)
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        raise ReleaseError(
            f"{path.name} is not in the agreed form: {describe(error)}", hint=_PULL_AGAIN
        ) from error


def _write_json(path: Path, value: BaseModel) -> None:
    path.write_text(
        json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as error:
        raise ReleaseError(f"Cannot read {path}: {error.strerror}.", hint="Name a release folder.") from error
    if len(content) > limit_bytes:
        raise ReleaseError(f"{path.name} is larger than {limit_bytes} bytes.", hint=_PULL_AGAIN)
    return content
