"""A long conversation is read in stretches: what a few messages show is not buried under thousands of others.

What each author did is summed over a conversation. In hundreds of messages of plain chat the small doubts about each add up to
more than any pattern leaves, and the features were fitted on conversations of some twenty messages. So one of more than
`STRETCH` messages is read in stretches of that many, each beginning `STEP` messages after the one before; whatever lies
within `STEP` messages lies whole in one of them. Its score is the highest that a stretch has come to at its end, or the
score of the present one if that is higher. A shorter conversation is one stretch, and its score that of the whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STRETCH = 60
"""Most messages that are read together."""

STEP = 30
"""Messages from the beginning of one stretch to that of the next; half a stretch."""


def present_stretch(messages: int) -> int:
    """Return where the present stretch of a conversation begins, in messages from 0, after ``messages`` of them.

    Of the stretches that hold the last message it is the one that began first: it has more than `STEP` messages, or is the
    whole conversation.
    """
    return STEP * max(0, -(-messages // STEP) - STRETCH // STEP)


def ends_a_stretch(messages: int) -> bool:
    """Return whether the present stretch is full after ``messages`` messages, so that its score stays."""
    return messages >= STRETCH and messages % STEP == 0


def highest_so_far(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the score of a conversation after each of its messages.

    Args:
        scores: (n,), of the present stretch after each message.

    Returns:
        (n,) float64; the same for up to `STRETCH` messages.
    """
    ends = np.arange(STRETCH, len(scores), STEP)
    kept = np.full(len(scores), -np.inf)
    kept[ends] = scores[ends - 1]
    result: npt.NDArray[np.float64] = np.maximum(scores, np.maximum.accumulate(kept))
    return result


def deciding_stretch(scores: npt.NDArray[np.float64]) -> slice:
    """Return the messages whose stretch gave a conversation its score; all of them for up to `STRETCH`.

    Args:
        scores: (n,), of the present stretch after each message, n at least 1.
    """
    ends = [*range(STRETCH, len(scores), STEP), len(scores)]
    end = max(ends, key=lambda messages: float(scores[messages - 1]))
    return slice(present_stretch(end), end)
