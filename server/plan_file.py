"""A new plan as a file with a comment beside every key, for the people who agree on it."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import epsilon_of

_COMMENTS = {
    "name": "Short name of the run, for people. A plan is answered for one run's worth of privacy: a new run needs a new name.",
    "federation": "Whose coordinator launches it.",
    "purpose": "What the conversations are used for; members permit purposes by name.",
    "demonstration": "true only in a federation on invented or public data.",
    "aggregation": '"open": the coordinator sees each member\'s noised answer. "sealed": only the sum.',
    "training.architecture": "What is trained.",
    "training.feature_set": "From which frozen public features.",
    "training.feature_set_sha256": "Fingerprint of exactly those features; members refuse any other.",
    "training.rounds": "Aggregations. Each costs privacy.",
    "training.local_steps": "Private steps of a member in one round. Each costs privacy.",
    "training.learning_rate": "The rest of the recipe was fixed on public data, so that tuning costs no privacy.",
    "training.weight_decay": "Of every weight towards 0, in each step; costs no privacy.",
    "training.positive_weight": "Factor on the loss of positive examples.",
    "training.prefixes": "Shares of a conversation's messages, averaged inside its one gradient.",
    "training.averaging": '"last-half": publish the mean of the later half of the rounds\' models.',
    "privacy.contribution_bound": "k: most that one person's conversations count for at a member.",
    "privacy.bounds": 'How k is kept. "grouped": conversations of the same people are one example, nobody in more than k.',
    "privacy.delta": "One constant of the federation, at most 1 / (10 x everybody in all conversations).",
    "privacy.clip_norm": "C: bound on what one conversation can change in one step.",
    "privacy.noise_multiplier": "s: deviation of a member's noise, in units of C. Less noise costs privacy.",
    "privacy.noise": '"member": each member adds all of the noise. "shared": the cohort\'s noise adds up.',
    "privacy.sampling": '"full-batch": every kept conversation in every step. "poisson": each with sample_rate.',
    "privacy.evaluation_noise_multiplier": "Deviation of a member's noise on each count of its score histogram, given once.",
    "cohort.minimum": "Fewest members in a round.",
    "cohort.round_deadline_s": "Seconds from asking the first member to giving up on the last.",
    "cohort.attempts": "How often a round is tried. Every attempt that a member answers costs it privacy.",
}


def plan_text(plan: Plan) -> str:
    """Return a plan as TOML that reads back as the same plan, with comments and what it promises."""
    tables: list[str] = []
    lines = ["# The plan of a training run. Nothing computed from private data may set a value here.", "#"]
    lines += [f"# {line}" for line in wrap(epsilon_of(plan).sentence(), width=110)]
    lines += ["# After a change: ringfence-coordinator plan check FILE", ""]
    for key, value in plan.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]"]
            for name, item in value.items():
                tables += _entry(f"{key}.{name}", name, item)
        else:
            lines += _entry(key, key, value)
    return "\n".join([*lines, *tables]) + "\n"


def save_plan(path: Path, *, plan: Plan, replace: bool = False) -> None:
    """Write a plan.

    Args:
        path: TOML file.
        plan: what to write.
        replace: write over a file that is there.

    Raises:
        ConfigError: the file is there already, or cannot be written. The operator's to mend.
    """
    if path.exists() and not replace:
        raise ConfigError(f"There is a file {path} already.", hint="Choose another name, or say --force.")
    try:
        write_atomically(path, plan_text(plan).encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error


def _entry(place: str, key: str, value: object) -> list[str]:
    # A JSON string, boolean, number or array is also a TOML one, as long as it is not escaped to surrogates.
    written = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    return [f"# {_COMMENTS[place]}", written] if place in _COMMENTS else [written]
