"""``ringfence demo`` and ``ringfence simulate``: the commands that need both sides, found by name as entry points."""

from __future__ import annotations

from ringfence.demo.demo_command import demo
from ringfence.demo.simulate_command import simulate

__all__ = ["demo", "simulate"]
