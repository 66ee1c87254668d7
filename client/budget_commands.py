"""``ringfence budget``: what the member's data may still reveal, what it has, and whether the record is whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client import ledger_amendment_commands, receipt_command
from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note

if TYPE_CHECKING:
    from ringfence.client.budget_plot import SpentLine
    from ringfence.client.policy import Policy
    from ringfence.privacy.ledger_terms import LedgerTerms

application = new_application("budget", "The privacy budget of the member's data, for life.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
_STEPS_OF_A_RUN = 300  # the default plan's; the full batch's cost depends on noise and steps only together


application.command("officer-key", epilog="Example: ringfence budget officer-key officer.key")(
    ledger_amendment_commands.officer_key
)


@application.callback()
def _budget() -> None:
    """The privacy budget of the member's data, for life."""


@application.command("open", epilog="Example: ringfence budget open --json")
def open_budget(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Open the budget of this data, once for its life, on the terms of the member's policy."""
    from ringfence.client.budget_report import opened_text
    from ringfence.client.member_ledger import make_ledger_folders
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.policy import load_policy
    from ringfence.privacy.ledger import Ledger

    located = MemberHome.locate(home)
    policy = load_policy(located)
    terms = policy.ledger_terms(load_member_settings(located).data.lineage)
    anchor = policy.anchor_file(located)
    make_ledger_folders(located, anchor_file=anchor)
    with Ledger.create(located.ledger_file, anchor_path=anchor, terms=terms, now=time.time()) as ledger:
        opened = ledger.head
    runs = _runs_at_the_limit(policy, terms)
    emit(
        opened_text(
            terms,
            runs=runs,
            run_epsilon=policy.budget.run_epsilon,
            personalisation_share=policy.budget.personalisation_share,
        )
        + f"\nLedger: {located.ledger_file}\nIts newest head a second time: {anchor}"
        + "\nNext: ringfence budget show",
        data={
            "ledger": opened.ledger,
            "lineage": terms.lineage,
            "file": str(located.ledger_file),
            "anchor_file": str(anchor),
            "headline_epsilon": terms.headline_epsilon,
            "fallback_epsilon": terms.fallback_epsilon,
            "delta": terms.delta,
            "runs_at_the_limit": runs,
        },
        as_json=as_json,
    )
    if anchor.parent.stat().st_dev == located.ledger_file.parent.stat().st_dev:
        note(
            "note: both lie on one disk. A copy of the whole disk would bring an old budget back unnoticed; name another "
            "disk as anchor_path in policy.toml before the first run."
        )


@application.command(epilog="Example: ringfence budget show --image budget.svg")
def show(
    image: Annotated[Path | None, typer.Option("--image", help="Also draw it into this SVG file.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is spent, what is left, and how it went over time. Works while the agent runs."""
    from ringfence.client.budget_plot import terminal_plot
    from ringfence.client.budget_report import spent_lines, summary_data, summary_text
    from ringfence.client.ledger_reading import open_ledger_reader, personalisation_share
    from ringfence.privacy.budget_summary import summarise_budget

    located = MemberHome.locate(home)
    with open_ledger_reader(located) as reader:
        reader.verified_state()  # a ledger that the agent would refuse must not look like money in the bank
        summary = summarise_budget(reader.entries(), personalisation_share=personalisation_share(located))
    now = time.time()
    lines = spent_lines(summary)
    if image is not None:
        _draw(image, lines, now=now, title=f"Privacy budget of {summary.state.terms.lineage}: share used up")
    plot = terminal_plot(lines[0], until=now, ascii_only=not _shows_blocks())
    emit(
        f"{summary_text(summary)}\n\nUsed up over time, {lines[0].name}:\n{plot}\nNext: ringfence budget verify",
        data={**summary_data(summary), "image": None if image is None else str(image)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence budget ledger --last 20")
def ledger(
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Only this many of the newest entries.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the ledger's entries as they lie on disk. They hold nothing of any person."""
    from ringfence.client.budget_report import entry_rows, entry_text
    from ringfence.client.ledger_reading import open_ledger_reader
    from ringfence.model.errors import BudgetError

    with open_ledger_reader(MemberHome.locate(home)) as reader:
        rows = entry_rows(reader.entries())
        try:
            reader.verified_state()
            doubt = None
        except BudgetError as error:
            doubt = error  # listed all the same: whoever looks into the damage needs to see it
    shown = rows if last is None else rows[-last:]
    emit(
        "\n".join([*(entry_text(row) for row in shown), "Next: ringfence budget verify"]),
        data={"entries": shown, "entries_in_all": len(rows), "sound": doubt is None},
        as_json=as_json,
    )
    if doubt is not None:
        note(f"warning: {doubt.message}")
        note(f"  fix: {doubt.hint}")


@application.command(epilog="Example: ringfence budget verify --json")
def verify(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check the chain, its second place and every kept payload. Exit code 1 if anything is wrong."""
    from ringfence.client.ledger_reading import open_ledger_reader
    from ringfence.privacy.ledger_examination import examine

    with open_ledger_reader(MemberHome.locate(home)) as reader:
        findings = examine(reader)
    wrong = [finding for finding in findings if finding.error is not None]
    rows = [
        f"{'WRONG' if finding.error else 'ok':<6} {finding.name}: {finding.detail}" for finding in findings
    ]
    if not wrong:
        emit(
            "\n".join([*rows, "Next: ringfence budget show"]),
            data={"checks": {finding.name: finding.detail for finding in findings}},
            as_json=as_json,
        )
        return
    for row in rows:
        note(row)
    error = wrong[0].error
    if error is not None:
        raise error


application.command(epilog="Example: ringfence budget amend --out amendment.json")(
    ledger_amendment_commands.amend
)
application.command(epilog="Example: ringfence budget sign amendment.json --key officer.key")(
    ledger_amendment_commands.sign
)
application.command(epilog="Example: ringfence budget receipt --out receipts")(receipt_command.receipt)
application.command(epilog="Example: ringfence budget close --yes")(ledger_amendment_commands.close)


def _runs_at_the_limit(policy: Policy, terms: LedgerTerms) -> int:
    from ringfence.privacy.ledger_terms import budget_in_units, cost_in_units, reserved_units
    from ringfence.privacy.planning import noise_multiplier_for
    from ringfence.privacy.renyi_filter import SampledGaussian

    k = policy.limits.contribution_bound
    noise = noise_multiplier_for(
        policy.budget.run_epsilon,
        contribution_bound=k,
        sample_rate=1.0,
        steps=_STEPS_OF_A_RUN,
        delta=terms.delta,
    )
    run = SampledGaussian(k, 1.0, noise, _STEPS_OF_A_RUN)
    return min(
        (budget_in_units(gate) - reserved_units(gate, share=policy.budget.personalisation_share))
        // cost_in_units(gate, run)
        for gate in (terms.headline, terms.fallback)
    )


def _draw(path: Path, lines: list[SpentLine], *, now: float, title: str) -> None:
    from ringfence.client.budget_plot import svg_plot
    from ringfence.model.atomic_file import write_atomically
    from ringfence.model.errors import ConfigError

    if path.suffix.lower() != ".svg":
        raise ConfigError(f"{path} is not the name of an SVG file.", hint="Give a name that ends in .svg.")
    try:
        write_atomically(path, svg_plot(lines, until=now, title=title).encode())
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Choose another file.") from error


def _shows_blocks() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
