"""The rules of a member's policy, section by section.

Each key is described once, here; the description is also the comment beside the key in the file that
``ringfence policy init`` writes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ringfence.client.training_hours import Window, parse_window
from ringfence.model.bounds import Bounds
from ringfence.model.plan import Name, Sha256

Epsilon = Annotated[float, Field(gt=0, le=1e6)]
Days = Annotated[int, Field(ge=0, le=36_500)]


class Section(BaseModel):
    """One table of the file: unknown keys and numbers that are none are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LaunchRules(Section):
    """Who may ask for training, for what, and whether a person decides. The fields' descriptions say each."""

    launched_by: tuple[Name, ...] = Field(
        default=(),
        description="Federations whose coordinator may launch training here; it is known by the plan key in member.toml.",
    )
    purposes: tuple[Name, ...] = Field(
        default=("grooming-risk-detection",), description="What the conversations may be used for."
    )
    demonstration: bool = Field(
        default=False, description="true only where all data is invented or public; such plans and no others."
    )
    approval: Literal["automatic", "manual"] = Field(
        default="manual",
        description='"manual": a person approves each plan with `ringfence policy approve`. "automatic": this file decides.',
    )


class BudgetRules(Section):
    """How much may be learned about a person. The fields' descriptions say each."""

    lifetime_epsilon: Epsilon = Field(
        default=8.0,
        description="Epsilon for life of the data, against the coordinator with up to a third of the members.",
    )
    lifetime_epsilon_fallback: Epsilon = Field(
        default=10.0, description="The same if everybody else colludes; at least as large."
    )
    run_epsilon: Epsilon = Field(
        default=2.5, description="Epsilon of one run, for a person at this member alone. Asking again counts."
    )
    run_epsilon_fallback: Epsilon = Field(default=5.0, description="The same if everybody else colludes.")
    platforms: int = Field(
        default=2, ge=1, le=3, description="Member platforms that one person may be on, 1 to 3."
    )
    run_epsilon_on_platforms: Epsilon = Field(
        default=4.0, description="Epsilon of one run for a person on that many platforms."
    )
    delta: float = Field(
        default=1e-6,
        ge=1e-8,
        lt=1e-3,
        description="Largest delta, and the one at which every epsilon here is computed.",
    )
    personalisation_share: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Part of the lifetime budget that is kept for `ringfence model personalise`; runs leave it alone.",
    )

    @model_validator(mode="after")
    def _fallback_is_the_wider(self) -> BudgetRules:
        if self.lifetime_epsilon_fallback < self.lifetime_epsilon:
            raise ValueError("lifetime_epsilon_fallback must be at least lifetime_epsilon")
        if self.run_epsilon_fallback < self.run_epsilon:
            raise ValueError("run_epsilon_fallback must be at least run_epsilon")
        if self.run_epsilon_on_platforms < self.run_epsilon:
            raise ValueError("run_epsilon_on_platforms must be at least run_epsilon")
        return self


class LimitRules(Section):
    """Bounds on single numbers of a plan. The fields' descriptions say each."""

    contribution_bound: int = Field(
        default=2,
        ge=1,
        le=64,
        description="k: most that one person's conversations count for; with greedy bounds, most that are used.",
    )
    minimum_cohort: int = Field(
        default=3, ge=1, le=10_000, description="Fewest members in a round, this one included."
    )
    noise_floor: float = Field(
        default=1.0, gt=0, le=1e4, description="Smallest noise multiplier of this member's own noise."
    )
    rounds: int = Field(default=200, ge=1, le=1000, description="Most rounds of a run.")
    local_steps: int = Field(default=50, ge=1, le=1000, description="Most private steps of one round.")


class FeatureSetRule(Section):
    """A set of frozen public features that may be used.

    Attributes:
        name: of the set.
        sha256: its fingerprint; None leaves it to the installed software, which refuses any other than its own.
    """

    name: Name
    sha256: Sha256 | None = None


class MethodRules(Section):
    """What may be trained, and how answers are protected. The fields' descriptions say each."""

    architectures: tuple[Name, ...] = Field(
        default=("linear-109",),
        description="Model architectures that may be trained: linear-109, hidden-1761.",
    )
    feature_sets: tuple[FeatureSetRule, ...] = Field(
        default=(FeatureSetRule(name="static-128"),),
        description='Frozen public features that may be used; with sha256 = "..." only exactly those.',
    )
    aggregation: tuple[Literal["open", "sealed"], ...] = Field(
        default=("open", "sealed"),
        description='"open": the coordinator sees each noised answer. "sealed": only the sum.',
    )
    noise: tuple[Literal["member", "shared"], ...] = Field(
        default=("member",),
        description='"member": all of the noise is our own. "shared": the members\' noise adds up.',
    )
    bounds: tuple[Bounds, ...] = Field(
        default=("greedy", "fractional", "grouped"),
        description="How contribution_bound is kept: whole conversations, all of them weighed down, or those of the same people "
        "as one example. A person counts for no more with any.",
    )
    sampling: tuple[Literal["full-batch", "poisson"], ...] = Field(
        default=("full-batch", "poisson"),
        description="Which conversations a step uses: all, or a random part.",
    )


class HourRules(Section):
    """When training may run. The field's description says it."""

    windows: tuple[Window, ...] = Field(
        default=(parse_window("daily 00:00-24:00"),),
        description='In UTC; [] is never. For nights: ["mon-fri 22:00-06:00", "sat,sun 00:00-24:00"].',
    )


class RetentionRules(Section):
    """How long the member keeps what training leaves behind. The fields' descriptions say each."""

    cache_days: Days = Field(default=30, description="Days that feature caches are kept: personal data.")
    outbox_days: Days = Field(
        default=90,
        description="Days that sent answers are kept, to be sent again: noised, not personal data.",
    )


class AnswerRules(Section):
    """How answers leave. The field's description says it."""

    pad_timing: bool = Field(
        default=False,
        description="true: answers leave at the end of slots of half a round's deadline, of 30 s to 1 h each, so that their time "
        "tells hardly anything. Rounds get slow.",
    )


class ReleaseRules(Section):
    """What the agent does about new releases of the detector. The fields' descriptions say each."""

    updates: Literal["use", "hold", "off"] = Field(
        default="hold",
        description='"use": a new release that members countersigned is scored with, unless its scores mean something new. '
        '"hold": it is pulled and verified, and a person takes it into use. "off": nothing is pulled.',
    )
    check_hours: float = Field(
        default=4.0, ge=0.001, le=168, description="Hours between two looks for a new release."
    )


class LedgerRules(Section):
    """Where the ledger's newest head is kept a second time, and who may change its terms."""

    anchor_path: str = Field(
        default="",
        max_length=4096,
        description='Second place of the ledger\'s newest head, best on another disk; "" is a folder of this home.',
    )
    data_protection_key: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description='Ed25519 public key (hexadecimal) of the data-protection officer, who alone signs amendments; "" is none.',
    )
