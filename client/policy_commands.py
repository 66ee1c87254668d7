"""``ringfence policy``: what this member agrees to, whether a plan lies within it, and a person's word where it asks for one."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.client.plan_approvals import PlanRecord
    from ringfence.client.policy import Policy
    from ringfence.client.policy_check import Spending

application = new_application("policy", "Say what this member agrees to, and decide about plans.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
DigestArgument = Annotated[str, typer.Argument(help="Digest of the plan, or its first 8 characters or more.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Decide without asking.")]


@application.command(epilog="Example: ringfence policy init --federation my-federation")
def init(
    federation: Annotated[
        str | None, typer.Option("--federation", help="Who may launch; the one that was joined by default.")
    ] = None,
    demonstration: Annotated[
        bool, typer.Option("--demonstration", help="For invented or public data only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over the policy that is there.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a policy that is safe to start from, with a comment beside every key."""
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.policy import default_policy
    from ringfence.client.policy_text import save_policy

    located = MemberHome.locate(home)
    if located.settings_file.exists():
        joined = load_member_settings(located)
        federation = federation or joined.federation
        demonstration = demonstration or joined.demonstration
    policy = default_policy(federation=federation, demonstration=demonstration)
    save_policy(located, policy=policy, replace=force)
    emit(
        f"The policy is in {located.policy_file}. Read it and change what you like; it is this member's alone.\n"
        "Next: ringfence policy show",
        data={"file": str(located.policy_file), "policy": policy.model_dump(mode="json")},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence policy show --json")
def show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the policy that holds now, in short."""
    from ringfence.client.policy import load_policy
    from ringfence.client.policy_summary import policy_lines

    located = MemberHome.locate(home)
    policy = load_policy(located)
    lines = policy_lines(policy, now=datetime.now(UTC))
    emit(
        "\n".join([f"policy {located.policy_file}", *lines, "Next: ringfence policy check PLAN"]),
        data={"file": str(located.policy_file), "policy": policy.model_dump(mode="json")},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence policy check plan.toml --epsilon 2")
def check(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    epsilon: Annotated[
        list[float] | None, typer.Option("--epsilon", help="Also work out the noise for this; may repeat.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan would promise the people in this member's data, and whether the policy allows it.

    Ends with exit code 1 and the lines of the policy that refuse it, if any do. The hours are left aside.
    """
    from ringfence.client.policy import load_policy
    from ringfence.client.policy_check import check_plan, still_reserved
    from ringfence.model.plan import load_plan
    from ringfence.privacy.plan_report import report_on
    from ringfence.privacy.run_cost import RunCost, runs_within

    located = MemberHome.locate(home)
    policy, found = load_policy(located), load_plan(plan)
    terms, share = policy.ledger_terms("policy"), policy.budget.personalisation_share
    report = report_on(found, terms=terms, wanted_epsilons=tuple(epsilon or ()), reserved_share=share)
    if not as_json:
        emit("\n".join(report.lines()), data={}, as_json=False)
    spent = _spending(located, policy, digest=found.digest())
    check_plan(found, policy=policy, now=None, spent=spent)
    left = report.runs_in_lifetime
    if spent is not None:
        held = replace(terms, order=spent.order)
        kept = still_reserved(policy, spent, headline=held.headline, fallback=held.fallback)
        left = runs_within(
            held,
            found,
            spent=RunCost(spent.other_headline_units + kept[0], spent.other_fallback_units + kept[1]),
        )
    decides = "this policy decides" if policy.launch.approval == "automatic" else "a person decides"
    fit = "1 such run fits" if left == 1 else f"{left} such runs fit"
    emit(
        f"The plan is within the policy; when it comes, {decides}.\n"
        f"After what other plans were charged, {fit} into the lifetime budget.\nNext: ringfence agent run",
        data={**report.as_data(), "runs_left": left, "permitted": True, "approval": policy.launch.approval},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence policy pending --all")
def pending(
    everything: Annotated[bool, typer.Option("--all", help="Also the plans that were decided.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the plans that wait for a person."""
    from ringfence.client.plan_approvals import PlanApprovals

    records = [
        record
        for record in PlanApprovals(MemberHome.locate(home)).records()
        if everything or record.decision == "pending"
    ]
    lines = [_record_line(record) for record in records] or ["No plan waits for a decision."]
    waiting = next((record for record in records if record.decision == "pending"), None)
    if waiting is not None:
        lines.append(f"Next: ringfence policy approve {waiting.digest[:12]}")
    emit("\n".join(lines), data={"plans": [_record_data(record) for record in records]}, as_json=as_json)


@application.command(epilog="Example: ringfence policy approve 3f9c1a2b")
def approve(
    digest: DigestArgument, yes: YesOption = False, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show what a plan promises, and approve it: for this plan alone, and for one run's worth of privacy."""
    _decide(digest, decision="approved", yes=yes, home=home, as_json=as_json)


@application.command(epilog="Example: ringfence policy decline 3f9c1a2b --yes")
def decline(
    digest: DigestArgument, yes: YesOption = False, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show what a plan promises, and decline it, also if it was approved before."""
    _decide(digest, decision="declined", yes=yes, home=home, as_json=as_json)


def _decide(
    digest: str,
    *,
    decision: Literal["approved", "declined"],
    yes: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    from ringfence.client.plan_approvals import PlanApprovals
    from ringfence.client.policy import load_policy
    from ringfence.client.policy_check import check_plan
    from ringfence.privacy.plan_report import report_on

    located = MemberHome.locate(home)
    approvals = PlanApprovals(located)
    record = approvals.find(digest)
    policy = load_policy(located)
    report = report_on(
        record.plan,
        terms=policy.ledger_terms("policy"),
        reserved_share=policy.budget.personalisation_share,
    )
    for line in [*report.lines(), report.statement.sentence()]:
        note(line)
    spent = _spending(located, policy, digest=record.digest)
    if decision == "approved":  # the policy may have become narrower since the plan came
        check_plan(record.plan, policy=policy, now=None, spent=spent)
        note(
            f"An approval is for {record.plan.training.rounds} answers, one run's; whoever asks for more waits for you again."
        )
    if not yes:
        _confirm("Approve this plan?" if decision == "approved" else "Decline this plan?")
    decided = approvals.decide(record.digest, decision=decision, now=datetime.now(UTC), spent=spent)
    following = "ringfence agent run" if decision == "approved" else "ringfence policy pending"
    emit(
        f"The plan {record.plan.name} ({record.digest[:12]}) is {decision}.\nNext: {following}",
        data=_record_data(decided),
        as_json=as_json,
    )


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("Nobody is there to decide.", hint="Say --yes to decide without asking.")
    if not typer.confirm(question, err=True):
        raise typer.Abort


def _spending(home: MemberHome, policy: Policy, *, digest: str) -> Spending | None:
    """Return what the ledger holds already, read beside a running agent; None before there is a ledger."""
    from ringfence.client.policy_check import spending_of
    from ringfence.privacy.ledger_reader import LedgerReader

    if not home.ledger_file.exists():
        return None
    with LedgerReader.open(home.ledger_file, anchor_path=policy.anchor_file(home)) as ledger:
        return spending_of(ledger.entries(), order=ledger.verified_state().terms.order, plan_digest=digest)


def _record_line(record: PlanRecord) -> str:
    plan = record.plan
    return (
        f"{record.digest[:12]}  {record.decision:<8}  {record.asked_at:%Y-%m-%d %H:%M}  {plan.name}: "
        f"{plan.training.rounds} rounds, noise {plan.privacy.noise_multiplier:g}"
    )


def _record_data(record: PlanRecord) -> dict[str, object]:
    return record.model_dump(mode="json")
