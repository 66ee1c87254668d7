"""Why a conversation scores as it does: the stage of each message, and what the score would be without it.

For reviewers at the company that holds the conversation. An explanation holds positions, never text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ringfence.model.conversation import Conversation
from ringfence.model.detector import Detector
from ringfence.model.feature_set import STAGE_NAMES
from ringfence.model.stretches import deciding_stretch


@dataclass(frozen=True, slots=True)
class MessageShare:
    """What one message does to the score of its conversation.

    Attributes:
        index: position of the message, from 0.
        stage: the likeliest of the nine stages, or "other".
        stage_probability: of that stage, in [0, 1].
        share: score of the conversation less its score without this message; positive if the message raises it. In a
            conversation of several stretches (`ringfence.model.stretches`), of the stretch that gave it its score: 0 outside.
    """

    index: int
    stage: str
    stage_probability: float
    share: float


def explain(detector: Detector, conversation: Conversation) -> tuple[MessageShare, ...]:
    """Return one entry a message, in order; empty for a conversation without messages.

    The shares are leave-one-out differences: they do not sum to the score, because messages that say the same thing stand
    in for each other.
    """
    if not conversation.messages:
        return ()
    rows, tags = detector.feature_set.tagged_beginnings(conversation)
    scores = detector.logits(rows)
    here = deciding_stretch(scores)
    part = Conversation(conversation.id, conversation.messages[here])
    shares = np.zeros(len(scores))
    shares[here] = scores[here.stop - 1] - detector.logits(detector.feature_set.rows_without_each(part))
    likeliest = np.argmax(tags, axis=1)
    return tuple(
        MessageShare(
            index=index,
            stage=STAGE_NAMES[int(stage)],
            stage_probability=float(tags[index, stage]),
            share=float(shares[index]),
        )
        for index, stage in enumerate(likeliest)
    )
