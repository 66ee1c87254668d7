"""What a ledger is opened with: the lifetime budget of one data set, and the limits of each single charge."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from ringfence.model.errors import ConfigError
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian

UNITS_PER_DIVERGENCE = 2**40
"""Divergences are kept as whole numbers of this fraction, always rounded up, so that ten thousand sums add exactly."""

_STEP_SLACK = 1e-14
"""Added to each step's divergence: what floating-point quadrature may be off by."""

_MOST_UNITS = 2**62


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """The member's own limits on one charge. Whatever the coordinator sends may narrow them, never widen them.

    Attributes:
        noise_floor: smallest noise multiplier of the member's own noise, above 0.
        contribution_bound: largest k.
        sample_rate: largest q, in (0, 1].
        steps: most private steps in one charge.
        minimum_cohort: fewest members of a round.
        returned_head_required: refuse to charge, after a restart, until the coordinator has returned the newest head.
    """

    noise_floor: float = 1.0
    contribution_bound: int = 2
    sample_rate: float = 1.0
    steps: int = 1000
    minimum_cohort: int = 2
    returned_head_required: bool = True

    def __post_init__(self) -> None:
        fits = (
            math.isfinite(self.noise_floor)
            and self.noise_floor > 0.0
            and self.contribution_bound >= 1
            and 0.0 < self.sample_rate <= 1.0
            and self.steps >= 1
            and self.minimum_cohort >= 1
        )
        if not fits:
            raise ConfigError(
                "The ledger's limits are out of range.", hint="Correct them in the member's policy."
            )

    def check(
        self,
        mechanism: SampledGaussian,
        *,
        own_noise_multiplier: float,
        cohort: int,
        amendable: bool | None = None,
    ) -> None:
        """Refuse a charge outside the limits.

        Args:
            mechanism: what was done.
            own_noise_multiplier: of the member's own noise.
            cohort: members that take part.
            amendable: whether the limits can be amended, for the hint.

        Raises:
            BudgetError: the noise is below the floor, k, q or T above the limit, or the cohort too small.
        """
        if not (math.isfinite(own_noise_multiplier) and own_noise_multiplier >= self.noise_floor):
            raise refused(LedgerRefusal.NOISE_FLOOR)
        if mechanism.noise_multiplier < own_noise_multiplier:
            raise refused(LedgerRefusal.BAD_CHARGE)  # others' noise can only add to one's own
        over = (
            mechanism.contribution_bound > self.contribution_bound
            or mechanism.sample_rate > self.sample_rate
            or mechanism.steps > self.steps
        )
        if over:
            raise refused(LedgerRefusal.OVER_LIMIT)
        if cohort < self.minimum_cohort:
            raise refused(LedgerRefusal.SMALL_COHORT, amendable=amendable)


@dataclass(frozen=True, slots=True)
class LedgerTerms:
    """The terms of one data set's ledger, for life.

    Mechanism: a Renyi filter at one order, over two running totals.
    Unit: one participant of the data set's lineage, at most k conversations in each charge.
    Assumes: every release from the lineage is charged here, in this ledger alone.
    Sensitivity: contained in each charge.
    Source: Feldman and Zrnic 2021, arXiv 2008.11193.

    Attributes:
        lineage: name of the data set, through all of its growth; a new snapshot is the same lineage.
        headline_epsilon: lifetime epsilon against the coordinator with c_max members.
        fallback_epsilon: lifetime epsilon if everybody else colludes, at least the headline's.
        delta: of both.
        limits: of one charge.
        data_protection_key: Ed25519 public key (hexadecimal) that may sign amendments; empty: no amendments.
        order: Renyi order, fixed for life when the ledger opens; 0 takes the one that suits the headline.
    """

    lineage: str
    headline_epsilon: float = 8.0
    fallback_epsilon: float = 8.0
    delta: float = 1e-6
    limits: LedgerLimits = field(default_factory=LedgerLimits)
    data_protection_key: str = ""
    order: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.lineage) <= 128:
            raise ConfigError("A lineage needs a name of 1 to 128 characters.", hint="Name the data set.")
        if not self.fallback_epsilon >= self.headline_epsilon:
            raise ConfigError(
                "The fallback's lifetime epsilon must be at least the headline's.", hint="Correct the policy."
            )
        if self.order == 0:
            suited = RenyiFilter.for_budget(self.headline_epsilon, delta=self.delta).order
            object.__setattr__(self, "order", suited)
        _ = self.headline.budget + self.fallback.budget  # both are checked when they are built

    @property
    def headline(self) -> RenyiFilter:
        """The filter of the headline total."""
        return RenyiFilter(self.headline_epsilon, self.delta, self.order)

    @property
    def fallback(self) -> RenyiFilter:
        """The filter of the fallback total."""
        return RenyiFilter(self.fallback_epsilon, self.delta, self.order)

    def as_body(self) -> dict[str, object]:
        """Return the terms as they stand in the chain."""
        return asdict(self)

    @classmethod
    def from_body(cls, body: dict[str, object]) -> Self:
        """Read terms from the chain.

        Raises:
            BudgetError: the entry does not hold terms in this form: the chain was forged or is of another version.
        """
        try:
            values = {name.name: body[name.name] for name in fields(cls)}
            limits = values["limits"]
            if set(body) != set(values) or not isinstance(limits, dict):
                raise refused(LedgerRefusal.DAMAGED)
            values["limits"] = LedgerLimits(**limits)
            return cls(**values)  # type: ignore[arg-type]
        except (KeyError, TypeError, ConfigError) as error:
            raise refused(LedgerRefusal.DAMAGED) from error


def cost_in_units(gate: RenyiFilter, mechanism: SampledGaussian) -> int:
    """Return a mechanism's divergence at the gate's order, in whole units, rounded up.

    Raises:
        BudgetError: the cost is beyond any budget.
    """
    cost = (gate.cost_of(mechanism) + mechanism.steps * _STEP_SLACK) * UNITS_PER_DIVERGENCE
    if not cost < _MOST_UNITS:  # also catches infinity and NaN
        raise refused(LedgerRefusal.EXHAUSTED)
    return math.ceil(cost)


def budget_in_units(gate: RenyiFilter) -> int:
    """Return a lifetime budget in whole units, rounded down."""
    return math.floor(gate.budget * UNITS_PER_DIVERGENCE)


def reserved_units(gate: RenyiFilter, *, share: float) -> int:
    """Return a share of a lifetime budget in whole units, rounded down: what is kept for one purpose."""
    return math.floor(share * budget_in_units(gate))


def epsilon_of_units(gate: RenyiFilter, units: int) -> float:
    """Return the epsilon that a running total guarantees, by the gate's own accounting."""
    return gate.epsilon_of(units / UNITS_PER_DIVERGENCE)
