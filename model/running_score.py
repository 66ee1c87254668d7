"""A conversation scored while it goes on: each message costs the same, however many came before.

    live = LiveConversation(detector, "c1")
    for message in messages:
        found = live.add(message)
        if found.probability > threshold:
            ...

The score after a message equals that of the conversation up to it, scored whole, to 1e-6.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector, Float64Array
from ringfence.model.errors import DataError
from ringfence.model.feature_set import STAGE_NAMES
from ringfence.model.stretches import STRETCH, ends_a_stretch, highest_so_far

_HIGHEST = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class RunningScore:
    """What a detector says after one message of a conversation: a reason for a person to look, never a verdict.

    Attributes:
        message: how many messages there were, this one included.
        logit: the score of the conversation so far.
        probability: the calibrated score, in [0, 1].
        stage: the likeliest stage of this message, or "other".
        stage_probability: of that stage, in [0, 1].
    """

    message: int
    logit: float
    probability: float
    stage: str
    stage_probability: float


class LiveConversation:
    """A conversation and its score, message by message.

    Args:
        detector: scores it.
        identifier: of the conversation.
        saved: what `to_bytes` gave, to go on from there; None for a conversation that begins.

    Raises:
        DataError: the bytes are no state of this version. Whoever kept them.
    """

    __slots__ = ("_detector", "_highest", "_state", "identifier")

    def __init__(self, detector: Detector, identifier: str, *, saved: bytes | None = None) -> None:
        self.identifier = identifier
        self._detector = detector
        self._highest = -math.inf
        """Highest score of the stretches that have ended."""
        if saved is None:
            self._state = detector.feature_set.new_state()
            return
        if len(saved) < _HIGHEST.size:
            raise DataError(
                "These bytes are not the state of a conversation of this version.",
                hint="Begin the conversation's state anew from its messages.",
            )
        (self._highest,) = _HIGHEST.unpack_from(saved)
        self._state = detector.feature_set.new_state(saved[_HIGHEST.size :])
        if math.isnan(self._highest) or (self._highest > -math.inf) != (self._state.messages >= STRETCH):
            raise DataError(
                "These bytes are not the state of a conversation of this version.",
                hint="Begin the conversation's state anew from its messages.",
            )

    def add(self, message: Message) -> RunningScore:
        """Take in a message and return the score after it."""
        tags = self._state.add(message)
        logit = self._detector.logits(self._state.features()[None])
        np.maximum(logit, self._highest, out=logit)
        if ends_a_stretch(self._state.messages):
            self._highest = float(logit[0])
        stage = int(tags.argmax())
        return RunningScore(
            message=self._state.messages,
            logit=float(logit[0]),
            probability=float(self._detector.calibration.probabilities(logit)[0]),
            stage=STAGE_NAMES[stage],
            stage_probability=float(tags[stage]),
        )

    def to_bytes(self) -> bytes:
        """Return the state to keep, about 400 bytes for two authors, later 800: personal data, readable by its owner alone.

        What ended stretches scored is kept as this detector scored it, so go on with the same one.
        Numbers are kept to float32, so the scores that follow agree with those of the whole conversation to about 1e-5.

        Raises:
            DataError: a name is longer than the form has room for, or there are more people. Whoever names them.
        """
        try:
            return _HIGHEST.pack(self._highest) + self._state.to_bytes()
        except struct.error as error:
            raise DataError(
                "A conversation of more than 65,535 people, or with a name of more than 65,535 bytes, cannot be kept.",
                hint="Name people by identifiers, as the platform does.",
            ) from error


def timeline(detector: Detector, conversation: Conversation) -> tuple[RunningScore, ...]:
    """Return the score after each message, in order; as `LiveConversation`, but encoded together, which is faster."""
    if not conversation.messages:
        return ()
    rows, tags = detector.feature_set.tagged_beginnings(conversation)
    logits = highest_so_far(detector.logits(rows))
    probabilities = detector.calibration.probabilities(logits)
    return tuple(
        RunningScore(
            message=index + 1,
            logit=float(logits[index]),
            probability=float(probabilities[index]),
            stage=STAGE_NAMES[int(stage)],
            stage_probability=float(tags[index, stage]),
        )
        for index, stage in enumerate(np.argmax(tags, axis=1))
    )


def running_logits(detectors: tuple[Detector, ...], conversation: Conversation) -> tuple[Float64Array, ...]:
    """Return the score after each message by each of several detectors on the same features, (messages,) float64 each.

    A conversation without messages has one score: that of nothing said.
    """
    features = detectors[0].feature_set
    rows = (
        features.rows_of_beginnings(conversation)
        if conversation.messages
        else features.rows_of([conversation])[:, 0]
    )
    return tuple(highest_so_far(detector.logits(rows)) for detector in detectors)
