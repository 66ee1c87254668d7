"""The budget in words and rows: what ``ringfence budget`` prints, for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ringfence.client.budget_plot import SpentLine, SpentPoint

if TYPE_CHECKING:
    from ringfence.privacy.budget_summary import BudgetSummary, BudgetTotal, ChargedRun
    from ringfence.privacy.ledger_chain import LedgerEntry
    from ringfence.privacy.ledger_terms import LedgerTerms

_RUNS_SHOWN = 5
_LATEST_S = 253_402_300_799  # the end of the year 9999

EXPLANATION = """\
This is opened once for a data set, and never again: more conversations or a new copy of them have the same budget.
Each answer to the coordinator is charged here before it leaves. What is spent does not come back, not with time and
not by deleting data. When it is used up, nothing more leaves."""

_MORE_IS_SIGNED = (
    "More, or other limits, need the data-protection officer's signature: ringfence budget amend."
)
_MORE_IS_NEVER = """\
The policy names no data-protection key, so these terms stay for life. Nobody could allow more, nor vouch for this ledger
should the coordinator lose its head."""
_NO_KEY_NAMED = "No data-protection key was named when it was opened: these terms stay for life."

_WHICH_FIGURE = (
    "The filter decides: it holds even though later runs are chosen after earlier ones were seen. Its epsilon holds a\n"
    "fixed part for delta from the first charge on, so plan with the share that is left.\n"
    "PLD (privacy loss distribution) is the tighter figure for what has happened; it is shown and never decides."
)


def summary_text(summary: BudgetSummary) -> str:
    """Return the budget as a table for a person; the plot goes below it."""
    state = summary.state
    lines = [
        (
            f"Privacy budget of the data {state.terms.lineage!r}, open since {day(summary.opened_at)}, "
            f"ledger {state.head.ledger[:12]}"
        ),
        "",
        _row("", "coordinator with up to", "everybody else"),
        _row("", "a third of the members", "together"),
    ]
    lines += [
        _row(name, value(summary.headline), value(summary.fallback))
        for name, value in (
            (
                f"lifetime epsilon (delta {state.terms.delta:g})",
                lambda total: f"{total.lifetime_epsilon:.2f}",
            ),
            ("used, as the filter counts", lambda total: f"{100 * total.used_share:.1f} %"),
            ("  epsilon spent so far by the filter", lambda total: f"{total.filter_epsilon:.2f}"),
            ("  epsilon spent so far by PLD", lambda total: f"{total.pld_epsilon_by_platforms[0][1]:.2f}"),
            ("  by PLD, person on 2 / 3 members", _on_more_platforms),
            ("left, as the filter counts", lambda total: f"{100 * (1 - total.used_share):.1f} %"),
            ("runs left like the last one", lambda total: _count(total.runs_left)),
        )
    ]
    if summary.headline.reserved_share or summary.fallback.reserved_share:
        kept = [f"{100 * total.reserved_share:.1f} %" for total in (summary.headline, summary.fallback)]
        lines.append(_row("  beside what is kept for own heads", *kept))
    lines += ["", _WHICH_FIGURE, _MORE_IS_SIGNED if state.amendable else _NO_KEY_NAMED]
    if state.closed:
        lines += ["", "This ledger was closed for good: nothing more can be charged."]
    if not summary.runs:
        return "\n".join([*lines, "", "Nothing was charged yet."])
    lines += ["", f"Runs, the newest last ({len(summary.runs)} in all):"]
    lines += [_run_row(run, summary) for run in summary.runs[-_RUNS_SHOWN:]]
    return "\n".join(lines)


def summary_data(summary: BudgetSummary) -> dict[str, object]:
    """Return the same for programs; epsilons are numbers, shares in [0, 1], times seconds since the epoch."""
    state = summary.state
    return {
        "lineage": state.terms.lineage,
        "ledger": state.head.ledger,
        "head": {"seq": state.head.seq, "hash": state.head.hash},
        "opened_at": summary.opened_at,
        "closed": state.closed,
        "amendable": state.amendable,
        "delta": state.terms.delta,
        "renyi_order": state.terms.order,
        "headline": _total_data(summary.headline),
        "fallback": _total_data(summary.fallback),
        "runs_left": summary.runs_left,
        "runs": [
            {
                "name": run.name,
                "plan_sha256": run.plan_digest,
                "first_at": run.first_at,
                "last_at": run.last_at,
                "charges": run.charges,
            }
            for run in summary.runs
        ],
        "timeline": [
            {"time": point.time, "headline": point.headline_share, "fallback": point.fallback_share}
            for point in summary.timeline
        ],
    }


def spent_lines(summary: BudgetSummary) -> list[SpentLine]:
    """Return what to draw: the headline, and the fallback where the two differ."""
    headline = [SpentPoint(point.time, point.headline_share) for point in summary.timeline]
    fallback = [SpentPoint(point.time, point.fallback_share) for point in summary.timeline]
    lines = [SpentLine("coordinator with up to a third of the members", headline)]
    if fallback != headline:
        lines.append(SpentLine("everybody else together", fallback))
    return lines


def opened_text(
    terms: LedgerTerms, *, runs: int, run_epsilon: float, personalisation_share: float = 0.0
) -> str:
    """Return what a person should know when the budget is opened.

    Args:
        terms: for life.
        runs: how many runs at the policy's limit fit.
        run_epsilon: that limit.
        personalisation_share: of the budget, which the policy keeps for heads of the member's own.
    """
    kept = (
        f" beside the {personalisation_share:.0%} kept for heads of your own" if personalisation_share else ""
    )
    return "\n".join(
        [
            f"The privacy budget of the data {terms.lineage!r} is open, for as long as the data exists.",
            EXPLANATION,
            (
                f"Lifetime epsilon {terms.headline_epsilon:g} against the coordinator with up to a third of the members, "
                f"{terms.fallback_epsilon:g} if everybody else colludes (delta {terms.delta:g}):"
            ),
            f"room for {runs} run{'s' * (runs != 1)} of epsilon {run_epsilon:g}, the policy's limit for one run{kept}.",
            _MORE_IS_SIGNED if terms.data_protection_key else _MORE_IS_NEVER,
        ]
    )


def entry_rows(entries: Iterable[LedgerEntry]) -> list[dict[str, object]]:
    """Return each entry as an object: its place in the chain, and its body as it was written."""
    return [
        {
            "seq": entry.seq,
            "kind": entry.kind,
            "key": entry.key,
            "body": entry.values,
            "previous": entry.previous,
            "hash": entry.hash,
        }
        for entry in entries
    ]


def entry_text(row: dict[str, object]) -> str:
    """Return one entry as a line: place, time, kind, what it answers, and what it paid for."""
    body = row["body"]
    values = body if isinstance(body, dict) else {}
    line = f"{row['seq']:>6}  {moment(values.get('time'))}  {row['kind']:<8}  {row['key']}"
    if row["kind"] in ("charge", "evaluate", "personalise"):
        line += (
            f"  k {values.get('contribution_bound')}, {values.get('steps')} steps, "
            f"noise {_number(values.get('headline_noise'))}"
        )
        if values.get("sample_rate") != 1.0:
            line += f", sample rate {_number(values.get('sample_rate'))}"
    return line


def day(time: int) -> str:
    """Return a time as a date."""
    return moment(time)[:10]


def moment(time: object) -> str:
    """Return a time of an entry as date and minute, UTC; ``?`` if it is none."""
    if not isinstance(time, int):
        return "?"
    return datetime.fromtimestamp(min(time, _LATEST_S), tz=UTC).strftime("%Y-%m-%d %H:%M")


def _row(name: str, headline: str, fallback: str) -> str:
    return f"{name:<38}{headline:>24}{fallback:>18}".rstrip()


def _on_more_platforms(total: BudgetTotal) -> str:
    return " / ".join(f"{epsilon:.2f}" for _, epsilon in total.pld_epsilon_by_platforms[1:])


def _count(runs: int | None) -> str:
    return "no run yet" if runs is None else str(runs)


def _run_row(run: ChargedRun, summary: BudgetSummary) -> str:
    spent = summary.state.headline_units or 1
    share = summary.headline.used_share * run.headline_units / spent
    return (
        f"  {run.name:<32} {day(run.first_at)} to {day(run.last_at)}  "
        f"{run.charges} answer{'s' * (run.charges != 1)}, {100 * share:.1f} % of the budget"
    )


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "?"


def _total_data(total: BudgetTotal) -> dict[str, object]:
    return {
        "lifetime_epsilon": total.lifetime_epsilon,
        "filter_epsilon": total.filter_epsilon,
        "used_share": total.used_share,
        "pld_epsilon_by_platforms": {
            str(platforms): epsilon for platforms, epsilon in total.pld_epsilon_by_platforms
        },
        "runs_left": total.runs_left,
        "reserved_share": total.reserved_share,
    }
