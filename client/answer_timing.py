"""When an answer leaves: at once, or only at the end of a fixed slot, so that its moment says less.

How long training took depends on how many conversations there are. With padding, all that can be seen from outside is in
which slot after the question the answer came, and slots are made so long that it is nearly always the first.
"""

from __future__ import annotations

import math

from ringfence.model.errors import ConfigError

SHARE_OF_DEADLINE = 0.5
"""Slots last this share of a round's deadline: late enough to hide the work, early enough to count."""


def padded_until(done_at: float, *, asked_at: float, slot_s: float) -> float:
    """Return the moment at which an answer leaves: the end of the slot in which it was done.

    Args:
        done_at: when the answer was ready, seconds of a clock that never goes back.
        asked_at: when the question came, of the same clock, at most ``done_at``.
        slot_s: length of a slot in seconds; 0 for no padding.

    Raises:
        ConfigError: the length is negative or not finite. The operator's to mend.
    """
    if not (math.isfinite(slot_s) and slot_s >= 0.0):
        raise ConfigError(
            "A padding of timing is a number of seconds, 0 or more.", hint="Correct the policy."
        )
    if slot_s == 0.0:
        return done_at
    slots = max(1, math.ceil((done_at - asked_at) / slot_s))
    return asked_at + slots * slot_s
