"""How a contribution bound is kept: the names that plans, policies and commands use.

In a module of its own, so that command lines know them without loading plans.
"""

from __future__ import annotations

from typing import Literal

Bounds = Literal["greedy", "fractional", "grouped"]
"""See `ringfence.model.plan.PrivacyTerms`."""

RECOMMENDED_BOUNDS: Bounds = "grouped"
"""What new plans of the full batch say. Plans that do not say it mean greedy bounds."""
