"""Why a conversation scores as it does: the stage of each message, and what the score would be without it.

For reviewers at the company that holds the conversation. An explanation holds positions and authors, never text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ringfence.model.conversation import Conversation
from ringfence.model.detector import Detector
from ringfence.model.feature_set import STAGE_NAMES
from ringfence.model.stretches import deciding_stretch

OTHER = STAGE_NAMES[-1]
SURE_STAGE = 0.5
"""Probability from which a stage is named: likelier than all the others together."""

_MOST_SHOWN = 20
_SHOWN_EACH_WAY = 3


@dataclass(frozen=True, slots=True)
class MessageShare:
    """What one message does to the score of its conversation.

    Attributes:
        index: position of the message, from 0.
        author: who wrote it.
        stage: the likeliest of the nine stages, or "other".
        stage_probability: of that stage, in [0, 1].
        share: score of the conversation less its score without this message; positive if the message raises it. In a
            conversation of several stretches (`ringfence.model.stretches`), of the stretch that gave it its score: 0 outside.
    """

    index: int
    author: str
    stage: str
    stage_probability: float
    share: float

    @property
    def message(self) -> int:
        """Number of the message, from 1, as a running score counts."""
        return self.index + 1


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
            author=conversation.messages[index].author,
            stage=STAGE_NAMES[int(stage)],
            stage_probability=float(tags[index, stage]),
            share=float(shares[index]),
        )
        for index, stage in enumerate(likeliest)
    )


def telling(messages: Sequence[MessageShare], *, most: int = _MOST_SHOWN) -> tuple[MessageShare, ...]:
    """Return the messages that a reviewer needs to see, in order.

    These are the three that raise the score most, the three that lower it most, and every message whose stage is one of the nine
    with at least `SURE_STAGE`. If that is too many, those of the last kind with the least shares are left out.

    Args:
        messages: of one conversation.
        most: how many at most, at least 6.
    """
    by_share = sorted(messages, key=lambda item: item.share)
    lowering = [item for item in by_share if item.share < 0][:_SHOWN_EACH_WAY]
    raising = [item for item in reversed(by_share) if item.share > 0][:_SHOWN_EACH_WAY]
    sure = [item for item in messages if item.stage != OTHER and item.stage_probability >= SURE_STAGE]
    ranked = [*raising, *lowering, *sorted(sure, key=lambda item: -abs(item.share))]
    chosen: dict[int, MessageShare] = {}
    for item in ranked:
        if len(chosen) < most:
            chosen[item.index] = item
    return tuple(chosen[index] for index in sorted(chosen))
