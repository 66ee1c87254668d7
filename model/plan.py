"""The plan of a training run: everything that decides quality and privacy, fixed before the run starts.

A plan is written by the coordinator, hashed and signed, and checked by every member against its own policy. Nothing that
is computed from private data may set a value here.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.model.bounds import Bounds
from ringfence.model.errors import ConfigError
from ringfence.model.toml_lines import line_of_key

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_ADDED_LATER = (("training", "weight_decay", 0.0), ("privacy", "bounds", "greedy"))

RECOMMENDED_WEIGHT_DECAY = 0.003
"""What new plans say. Chosen as the learning rate was; plans that do not say it mean no decay."""

DEFAULT_PREFIXES = (0.35, 0.6, 0.8, 1.0)
"""Beginnings of a conversation whose losses are averaged inside its one gradient: half a conversation is to be found too."""


class _Terms(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainingTerms(_Terms):
    """What is trained, from what, and how.

    Attributes:
        architecture: name in the registry of `ringfence.model.head`.
        feature_set: name of the frozen public features.
        feature_set_sha256: fingerprint of those features' files; a member refuses any other.
        rounds: aggregations in the run, 1 to 1,000.
        local_steps: private steps that a member takes in one round, 1 to 1,000.
        learning_rate: of the private gradient descent. The default was chosen for member noise, rounds and local steps as below,
            epsilon 2 and size classes near the number of conversations, on simulated companies that no table reports.
        momentum: of the same; lives within one round of one member.
        weight_decay: of every weight towards 0, biases left alone, added to the private gradient in each step; 0 is none.
        positive_weight: factor on the loss of positive examples.
        prefixes: shares of a conversation's messages, in (0, 1], averaged inside its one gradient.
        averaging: which rounds' models are averaged for publication.
    """

    architecture: Name = "linear-109"
    feature_set: Name = "static-128"
    feature_set_sha256: Sha256
    rounds: int = Field(default=30, ge=1, le=1000)
    local_steps: int = Field(default=10, ge=1, le=1000)
    learning_rate: float = Field(default=0.2, gt=0, le=100)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    positive_weight: float = Field(default=2.0, gt=0, le=1000)
    prefixes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=DEFAULT_PREFIXES, min_length=1, max_length=16
    )
    averaging: Literal["last", "last-half"] = "last-half"

    @model_validator(mode="after")
    def _decay_shrinks(self) -> TrainingTerms:
        if self.learning_rate * self.weight_decay > 1.0:
            raise ValueError(
                "weight_decay times learning_rate must be at most 1, or weights grow without end"
            )
        return self


class PrivacyTerms(_Terms):
    """What a person is promised.

    Attributes:
        contribution_bound: k, the most that one person's conversations count for at one member.
        bounds: how that is kept. "greedy": whole conversations, no person in more than k; "fractional": all of them, those of busy
            people weighed down; "grouped": those of the same people are one example, no person in more than k. The last two hold
            for the full batch alone.
        delta: of (epsilon, delta); one constant of the federation.
        clip_norm: C, bound on the L2 norm of one conversation's gradient.
        noise_multiplier: s, standard deviation of a member's noise on its clipped sum, in units of C.
        noise: "member": each member adds all of the noise; "shared": the cohort's noise adds up (needs sealed aggregation).
        sampling: "full-batch": every kept conversation in every step; "poisson": each with probability ``sample_rate``.
        sample_rate: q; 1 for full batch.
        evaluation_noise_multiplier: standard deviation of a member's noise on each count of its score histogram, which it
            gives once after the last round; None: the run is not evaluated.
    """

    contribution_bound: int = Field(default=2, ge=1, le=64)
    bounds: Bounds = "greedy"
    delta: float = Field(default=1e-6, gt=0, lt=1e-3)
    clip_norm: float = Field(default=1.0, ge=1e-6, le=1e3)
    noise_multiplier: float = Field(gt=0, le=1e4)
    noise: Literal["member", "shared"] = "member"
    sampling: Literal["full-batch", "poisson"] = "full-batch"
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    evaluation_noise_multiplier: float | None = Field(default=None, gt=0, le=1e4)

    @model_validator(mode="after")
    def _sampling_agrees(self) -> PrivacyTerms:
        if self.sampling == "full-batch" and self.sample_rate != 1.0:
            raise ValueError('sample_rate must be 1 when sampling = "full-batch"')
        if self.sampling == "poisson" and self.sample_rate == 1.0:
            raise ValueError('sample_rate must be below 1 when sampling = "poisson"')
        if self.sampling == "poisson" and self.bounds != "greedy":
            raise ValueError('bounds must be "greedy" when sampling = "poisson"')
        return self


class CohortTerms(_Terms):
    """Who must take part, and how long a round may last.

    Attributes:
        minimum: members that a round needs; a round with fewer fails.
        round_deadline_s: seconds from asking the first member to giving up on the last.
        attempts: how often a round is tried before the run stops (it can be resumed).
    """

    minimum: int = Field(default=2, ge=1, le=10_000)
    round_deadline_s: float = Field(default=600.0, gt=0, le=7 * 86_400)
    attempts: int = Field(default=3, ge=1, le=20)


class Plan(_Terms):
    """A training run, as agreed.

    Attributes:
        schema_version: of this form.
        name: short name of the run, for people.
        federation: identifier of the federation.
        purpose: what the data is used for; members permit purposes by name.
        demonstration: True only in a federation on invented or public data; agents without a ledger refuse anything else.
        aggregation: "open": the coordinator sees each member's noised update; "sealed": only their sum.
    """

    schema_version: Literal[1] = 1
    name: Name
    federation: Name
    purpose: Name = "grooming-risk-detection"
    demonstration: bool = False
    aggregation: Literal["open", "sealed"] = "open"
    training: TrainingTerms
    privacy: PrivacyTerms
    cohort: CohortTerms = CohortTerms()

    @model_validator(mode="after")
    def _axes_agree(self) -> Plan:
        if self.aggregation == "sealed":
            raise ValueError('aggregation = "sealed" is not built yet: use aggregation = "open"')
        if self.privacy.noise == "shared":
            raise ValueError('noise = "shared" needs aggregation = "sealed": use noise = "member"')
        return self

    @property
    def steps(self) -> int:
        """Private steps that a member takes over the whole run (T of the accounting)."""
        return self.training.rounds * self.training.local_steps

    def canonical_json(self) -> bytes:
        """Return the one byte string that is hashed and signed.

        Terms that were added later are left out where they say what plans without them meant: those keep their digest.
        """
        values = self.model_dump(mode="json")
        for section, name, meant in _ADDED_LATER:
            if values[section][name] == meant:
                del values[section][name]
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> str:
        """Return the SHA-256 of `canonical_json`, in hexadecimal."""
        return hashlib.sha256(self.canonical_json()).hexdigest()


def parse_plan(content: bytes | str) -> Plan:
    """Read a plan from its JSON form.

    Raises:
        ConfigError: the plan is not in the agreed form; the message names each field. The writer's fault.
    """
    try:
        return Plan.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(
            f"The plan is not valid: {describe(error)}", hint="Correct the named fields."
        ) from error


def load_plan(path: Path) -> Plan:
    """Read a plan from a TOML file.

    Raises:
        ConfigError: the file is missing, is not TOML, or is not a plan. The operator's fault.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return Plan.model_validate(tomllib.loads(text))
    except OSError as error:
        raise ConfigError(f"Cannot read the plan {path}: {error.strerror}", hint="Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="Correct the line that is named.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a plan: {describe(error, toml=text)}", hint="Correct the named fields."
        ) from error


def describe(error: ValidationError, *, toml: str = "") -> str:
    """Return each field of a validation error with its reason, without the rejected values.

    Args:
        error: of a pydantic model.
        toml: the file that the values come from; with it, the line of each field that stands there is named.
    """
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(step) for step in item["loc"]) or "the whole"
        line = line_of_key(toml, item["loc"])
        parts.append(f"{f'line {line}, ' if line else ''}{where}: {item['msg']}")
    return "; ".join(parts)
