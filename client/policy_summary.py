"""A policy in a dozen lines, for a person who wants to know what holds now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ringfence.client.policy import Policy
from ringfence.client.training_hours import inside

_RELEASES = {
    "use": "pulled, verified and used; a new major version waits for a person",
    "hold": "pulled and verified; a person takes them into use",
    "off": "not pulled",
}


def policy_lines(policy: Policy, *, now: datetime) -> list[str]:
    """Return the policy as a table.

    Args:
        policy: the member's own.
        now: the present, with a time zone.
    """
    return [f"  {name:<12} {text}" for name, text in _rows(policy, now)]


def _rows(policy: Policy, now: datetime) -> Iterator[tuple[str, str]]:
    launch, budget, limits, methods = policy.launch, policy.budget, policy.limits, policy.methods
    yield "launched by", f"{', '.join(launch.launched_by) or 'nobody'}; approval {launch.approval}"
    yield "purposes", ", ".join(launch.purposes) or "none"
    yield "data", "invented or public: a demonstration" if launch.demonstration else "real"
    lifetime = f"epsilon {budget.lifetime_epsilon:g}, {budget.lifetime_epsilon_fallback:g} if everybody else colludes"
    yield "for life", f"{lifetime}; delta {budget.delta:g}"
    run = f"epsilon {budget.run_epsilon:g}, {budget.run_epsilon_fallback:g} if everybody else colludes"
    yield (
        "in a run",
        f"{run}; {budget.run_epsilon_on_platforms:g} for a person on {budget.platforms} platforms",
    )
    people = (
        f"a person counts for {limits.contribution_bound} at most, {limits.minimum_cohort} members or more"
    )
    yield "limits", f"{people}, noise {limits.noise_floor:g} or more"
    yield "", f"at most {limits.rounds} rounds of {limits.local_steps} steps"
    features = [rule.name + (" (pinned)" if rule.sha256 else "") for rule in methods.feature_sets]
    yield "models", f"{', '.join(methods.architectures) or 'none'} on {', '.join(features) or 'no features'}"
    chosen = f"aggregation {_either(methods.aggregation)}, noise {_either(methods.noise)}"
    yield "methods", f"{chosen}, {_either(methods.sampling)}, bounds {_either(methods.bounds)}"
    windows = "; ".join(window.text for window in policy.hours.windows) or "never"
    yield "hours (UTC)", f"{windows} ({'open' if inside(policy.hours.windows, now) else 'closed'} now)"
    kept = policy.retention
    yield (
        "kept for",
        f"caches {kept.cache_days} days, answers {kept.outbox_days}, audit log for good",
    )
    yield (
        "timing",
        "answers leave at the end of slots of half the deadline"
        if policy.answers.pad_timing
        else "answers leave when ready",
    )
    yield "releases", _RELEASES[policy.releases.updates]


def _either(values: tuple[str, ...]) -> str:
    return " or ".join(values) or "none"
