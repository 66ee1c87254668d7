"""The member's policy: what it takes part in, and at most at which price. A file of its own, ``policy.toml``.

It belongs to the member alone. Whatever the coordinator sends may narrow what the policy allows, never widen it, and no
variable of the environment changes it.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import PrivateAttr, ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.client.policy_lines import line_numbers
from ringfence.client.policy_rules import (
    AnswerRules,
    BudgetRules,
    HourRules,
    LaunchRules,
    LedgerRules,
    LimitRules,
    MethodRules,
    ReleaseRules,
    RetentionRules,
    Section,
)
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.privacy.ledger_terms import LedgerTerms


@dataclass(frozen=True, slots=True)
class PolicySource:
    """Where a policy was read.

    Attributes:
        file: its name, without folders.
        lines: line of each key that stands in it, 1-based, by ``section.key``.
    """

    file: str = "policy.toml"
    lines: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class Policy(Section):
    """What this member agrees to.

    Attributes:
        schema_version: of this form.
        launch: who may ask, for what, and whether a person decides.
        budget: how much may be learned about a person.
        limits: bounds on single numbers of a plan.
        methods: what may be trained, and how answers are protected.
        hours: when training may run.
        retention: how long what training leaves behind is kept.
        answers: how answers leave.
        releases: what the agent does about new releases.
        ledger: the ledger's second place, and who may change its terms.
    """

    schema_version: Literal[1] = 1
    launch: LaunchRules = LaunchRules()
    budget: BudgetRules = BudgetRules()
    limits: LimitRules = LimitRules()
    methods: MethodRules = MethodRules()
    hours: HourRules = HourRules()
    retention: RetentionRules = RetentionRules()
    answers: AnswerRules = AnswerRules()
    releases: ReleaseRules = ReleaseRules()
    ledger: LedgerRules = LedgerRules()
    _source: PolicySource = PrivateAttr(default_factory=PolicySource)

    def place(self, key: str) -> str:
        """Return where a rule stands, for people: file, line, section and key.

        Args:
            key: such as ``budget.run_epsilon``.
        """
        section, _, name = key.partition(".")
        line = self._source.lines.get(key)
        where = f"line {line}" if line is not None else "not written there, so the default holds"
        return f"{self._source.file}, {where}, [{section}] {name}"

    def anchor_file(self, home: MemberHome) -> Path:
        """Return the ledger's second place; a relative path counts from the member's folder."""
        return home.root / self.ledger.anchor_path if self.ledger.anchor_path else home.ledger_anchor_file

    def ledger_terms(self, lineage: str) -> LedgerTerms:
        """Return the terms that a new ledger of a data set is opened with.

        Args:
            lineage: name of the data set, through all of its growth.

        Raises:
            ConfigError: the lifetime epsilon leaves no budget at this delta.
        """
        from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms

        return LedgerTerms(
            lineage=lineage,
            headline_epsilon=self.budget.lifetime_epsilon,
            fallback_epsilon=self.budget.lifetime_epsilon_fallback,
            delta=self.budget.delta,
            limits=LedgerLimits(
                noise_floor=self.limits.noise_floor,
                contribution_bound=self.limits.contribution_bound,
                steps=self.limits.local_steps,
                minimum_cohort=self.limits.minimum_cohort,
            ),
            data_protection_key=self.ledger.data_protection_key,
        )


def load_policy(home: MemberHome) -> Policy:
    """Read a member's ``policy.toml``.

    Raises:
        ConfigError: it is missing, can be changed by others, is not TOML, or has a wrong or unknown key; the message names
            file, line and key. The operator's to mend.
    """
    return read_policy(home.policy_file)


def read_policy(path: Path) -> Policy:
    """Read a policy from any file. Raises as `load_policy`."""
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"Others may write to {path}, so it is not this member's own policy.",
                hint=f"Look through it, then: chmod 600 {path}",
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"There is no policy {path}.", hint="Write one: ringfence policy init") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.", hint="Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"Cannot read the policy {path}: {error.strerror}", hint="Check --home.") from error
    return parse_policy(text, file=str(path))


def parse_policy(text: str, *, file: str = "policy.toml") -> Policy:
    """Read a policy from its text.

    Args:
        text: TOML.
        file: what messages call it.

    Raises:
        ConfigError: it is not TOML, or has a wrong or unknown key; the message names file, line and key.
    """
    try:
        values = tomllib.loads(text)
        policy = Policy.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="Correct the line that is named.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{file} is not valid: {_describe(error, line_numbers(text))}",
            hint="Correct or remove the named keys; `ringfence policy init --force` writes them all anew.",
        ) from error
    policy._source = PolicySource(Path(file).name, MappingProxyType(line_numbers(text)))
    return policy


def default_policy(*, federation: str | None = None, demonstration: bool = False) -> Policy:
    """Return a policy that is safe to start from.

    Args:
        federation: whose coordinator may launch; None: nobody's, until a person writes one in.
        demonstration: a policy for invented or public data, which shows every number and limits few.
    """
    launched_by = () if federation is None else (federation,)
    if not demonstration:
        return Policy(launch=LaunchRules(launched_by=launched_by))
    return Policy(
        launch=LaunchRules(launched_by=launched_by, demonstration=True, approval="automatic"),
        budget=BudgetRules(
            lifetime_epsilon=1000.0,
            lifetime_epsilon_fallback=1000.0,
            run_epsilon=100.0,
            run_epsilon_fallback=100.0,
            run_epsilon_on_platforms=200.0,
        ),
        limits=LimitRules(
            contribution_bound=64, minimum_cohort=1, noise_floor=0.1, rounds=1000, local_steps=1000
        ),
        methods=MethodRules(noise=("member", "shared")),
    )


def _describe(error: ValidationError, lines: Mapping[str, int]) -> str:
    """Return each wrong key with its line and the reason, without the rejected values."""
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        steps = [str(step) for step in item["loc"]]
        line = lines.get(".".join(steps[:2]), lines.get(steps[0]) if steps else None)
        where = ".".join(steps) or "the whole"
        reason = (
            "there is no such key"
            if item["type"] == "extra_forbidden"
            else item["msg"].removeprefix("Value error, ")
        )
        parts.append(f"line {line}, {where}: {reason}" if line is not None else f"{where}: {reason}")
    return "; ".join(parts)
