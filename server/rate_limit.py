"""How often one caller may ask: a token bucket each, so that no caller's haste is another's wait."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

_MOST_CALLERS = 10_000


@dataclass(slots=True)
class RateLimit:
    """A token bucket for each caller.

    Attributes:
        per_second: calls that one may make in the long run.
        burst: calls that one may make at once.
    """

    per_second: float = 100.0
    burst: float = 400.0
    _levels: dict[Hashable, tuple[float, float]] = field(default_factory=dict)

    def allows(self, caller: Hashable, *, now: float) -> bool:
        """Take one token of a caller's bucket; return False if there is none. ``now`` is monotonic seconds."""
        return self.wait_s(caller, now=now) == 0.0

    def wait_s(self, caller: Hashable, *, now: float) -> float:
        """Take one token and return 0; or take none and return the seconds until there is one, up to infinity."""
        level, since = self._levels.get(caller, (self.burst, now))
        level = min(self.burst, level + (now - since) * self.per_second)
        if level >= 1.0:
            self._remember(caller, level - 1.0, now)
            return 0.0
        self._remember(caller, level, now)
        return (1.0 - level) / self.per_second if self.per_second > 0 else float("inf")

    def _remember(self, caller: Hashable, level: float, now: float) -> None:
        self._levels.pop(caller, None)
        if len(self._levels) >= _MOST_CALLERS:
            del self._levels[next(iter(self._levels))]  # whoever was silent longest starts anew
        self._levels[caller] = (level, now)
