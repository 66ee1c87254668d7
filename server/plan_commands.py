"""``ringfence-coordinator plan``: work out a plan, write it, and see what it promises before anybody is asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.bounds import Bounds
from ringfence.model.console import JsonOption, emit, new_application

if TYPE_CHECKING:
    from ringfence.privacy.plan_solving import FixedTerms, PlannedRun

application = new_application("plan", "Work out a plan, and see what it promises.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The coordinator's folder.", envvar="RINGFENCE_COORDINATOR_HOME")
]
EpsilonOption = Annotated[
    float | None, typer.Option("--epsilon", help="Of one run, for a person at one member.")
]
NoiseOption = Annotated[float | None, typer.Option("--noise", help="Noise multiplier of each member.")]
SampleRateOption = Annotated[
    float | None, typer.Option("--sample-rate", help="Share of the conversations in a step; 1 is all.")
]
LocalStepsOption = Annotated[
    int, typer.Option("--local-steps", min=1, max=1000, help="Steps of a member in a round.")
]
BoundOption = Annotated[
    int,
    typer.Option(
        "--contribution-bound", "-k", min=1, max=64, help="Conversations that one person counts for."
    ),
]
DeltaOption = Annotated[float, typer.Option("--delta", help="One constant of the federation.")]

_LIFETIME_EPSILON = 8.0


@application.command(epilog="Example: ringfence-coordinator plan check plan.toml --epsilon 2")
def check(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    epsilon: Annotated[
        list[float] | None, typer.Option("--epsilon", help="Also work out the noise for this; may repeat.")
    ] = None,
    lifetime_epsilon: Annotated[
        float, typer.Option("--lifetime-epsilon", help="Budget of a member to hold it against.")
    ] = _LIFETIME_EPSILON,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan promises: four adversaries, several platforms, one conversation, runs in a lifetime."""
    from ringfence.model.plan import load_plan
    from ringfence.privacy.ledger_terms import LedgerTerms
    from ringfence.privacy.plan_report import report_on

    found = load_plan(plan)
    terms = LedgerTerms("plan", lifetime_epsilon, lifetime_epsilon, found.privacy.delta)
    report = report_on(found, terms=terms, wanted_epsilons=tuple(epsilon or ()))
    emit(
        "\n".join([*report.lines(), f"Next: ringfence-coordinator run start {plan}"]),
        data=report.as_data(),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator plan solve --epsilon 2 --rounds 30")
def solve(
    epsilon: EpsilonOption = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, max=1000, help="Aggregations of the run.")
    ] = None,
    sample_rate: SampleRateOption = None,
    noise: NoiseOption = None,
    local_steps: LocalStepsOption = 10,
    contribution_bound: BoundOption = 2,
    delta: DeltaOption = 1e-6,
    as_json: JsonOption = False,
) -> None:
    """Give two of epsilon, rounds and noise, and get the third; give all three, and get the sample rate.

    Without a sample rate every conversation is in every step.
    """
    from dataclasses import asdict

    from ringfence.privacy.plan_solving import FixedTerms
    from ringfence.privacy.plan_solving import solve as solve_for

    terms = FixedTerms(contribution_bound, local_steps, delta)
    found = solve_for(terms, epsilon=epsilon, rounds=rounds, sample_rate=sample_rate, noise_multiplier=noise)
    fixed = f"k = {contribution_bound}, {local_steps} steps a round, delta {delta:g}"
    emit(
        "\n".join(
            [
                f"For a person at one member, {fixed}:",
                *_solved_lines(found),
                f"Next: ringfence-coordinator plan new FILE {_options(found, terms)}",
            ]
        ),
        data={**asdict(found), **asdict(terms)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator plan new plan.toml --epsilon 2 --rounds 30")
def new(
    file: Annotated[Path, typer.Argument(help="Where to write the plan, a TOML file.")],
    name: Annotated[str, typer.Option("--name", help="Short name of the run, for people.")] = "grooming-risk",
    epsilon: EpsilonOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Aggregations.")] = 30,
    noise: NoiseOption = None,
    sample_rate: SampleRateOption = None,
    local_steps: LocalStepsOption = 10,
    contribution_bound: BoundOption = 2,
    delta: DeltaOption = 1e-6,
    minimum: Annotated[int, typer.Option("--minimum", min=1, help="Fewest members in a round.")] = 3,
    feature_set: Annotated[
        str, typer.Option("--feature-set", help="An installed feature set.")
    ] = "static-128",
    bounds: Annotated[
        Bounds | None,
        typer.Option("--bounds", help="How k is kept; grouped on the full batch, greedy with sampling."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a plan for this federation, with a comment beside every key and the installed features' fingerprint.

    The noise is the one that epsilon asks for (2 by default), unless it is given.
    """
    from ringfence.privacy.accounting import epsilon_of
    from ringfence.privacy.plan_solving import FixedTerms
    from ringfence.server.coordinator_home import CoordinatorHome
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.plan_draft import DraftTerms, draft_plan
    from ringfence.server.plan_file import save_plan

    terms = DraftTerms(
        name=name,
        rounds=rounds,
        sample_rate=1.0 if sample_rate is None else sample_rate,
        fixed=FixedTerms(contribution_bound, local_steps, delta),
        epsilon=epsilon,
        noise_multiplier=noise,
        minimum=minimum,
        feature_set=feature_set,
        bounds=bounds,
    )
    plan = draft_plan(terms, settings=load_coordinator_settings(CoordinatorHome.locate(home)))
    save_plan(file, plan=plan, replace=force)
    found = epsilon_of(plan)
    emit(
        f"{file}: {rounds} rounds with noise {plan.privacy.noise_multiplier:g}, epsilon {found.epsilon:.2f} for a person at one member.\n"
        f"Next: send it to the members, who can try it (ringfence policy check {file}), and: "
        f"ringfence-coordinator plan check {file}",
        data={"file": str(file), "plan": plan.model_dump(mode="json"), "epsilon": found.epsilon},
        as_json=as_json,
    )


def _solved_lines(found: PlannedRun) -> list[str]:
    rows = (
        ("epsilon", "epsilon", f"{found.epsilon:.4g}"),
        ("rounds", "rounds", f"{found.rounds}"),
        ("sample_rate", "sample rate", f"{found.sample_rate:.4g}"),
        ("noise_multiplier", "noise", f"{found.noise_multiplier:g}"),
    )
    return [f"  {label:<12} {text}{'   <- worked out' * (key == found.solved)}" for key, label, text in rows]


def _options(found: PlannedRun, terms: FixedTerms) -> str:
    """Return the options with which `plan new` writes what was worked out."""
    options = (
        f"--rounds {found.rounds} --noise {found.noise_multiplier:.10g} --local-steps {terms.local_steps}"
    )
    if found.sample_rate < 1.0:
        # Downwards, so that epsilon does not grow by the rounding.
        options += f" --sample-rate {math.floor(found.sample_rate * 1e6) / 1e6:g}"
    return f"{options} -k {terms.contribution_bound} --delta {terms.delta:g}"
