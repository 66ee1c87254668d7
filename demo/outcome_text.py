"""What a demonstration tells a person: at most 40 lines of 80 columns, however many companies take part."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.demo.reference_rows import DRAWS, QualityRow
from ringfence.model.simulation import CompanyData

if TYPE_CHECKING:
    from ringfence.demo.demonstration import Outcome

_WIDTH = 79
_NAME = 39
_COMPANIES_INTRODUCED = 3
_COMPANIES_IN_TABLE = 5
_COMPANIES_NAMED = 2


def shown_epsilon(epsilon: float) -> str:
    """Return an epsilon to three digits: 8.00, 12.1, 0.143."""
    return f"{epsilon:#.3g}"


def introduction(companies: Sequence[CompanyData], *, source: str, folder: Path) -> list[str]:
    """Return lines that say who takes part and with what; of many companies, only from least to most.

    Args:
        companies: all of them.
        source: what the conversations are, in a few words.
        folder: where everything is written to.
    """
    train = [len(company.train) for company in companies]
    positive = [sum(item.label == 1 for item in company.train) for company in companies]
    held_out = [len(company.test) for company in companies]
    lines = _wrapped(f"{len(companies)} companies with {source}, in {os.path.relpath(folder)}:")
    if len(companies) > _COMPANIES_INTRODUCED:
        return [
            *lines,
            f"  each {_span(train)} conversations, {_span(positive)} positive, {_span(held_out)} held out",
        ]
    for company, counts in zip(companies, zip(train, positive, held_out, strict=True), strict=True):
        lines.append(
            f"  {company.name:<12} {counts[0]:>6} conversations, {counts[1]} positive, {counts[2]} held out"
        )
    return lines


def outcome_text(outcome: Outcome) -> str:
    """Return the table of quality, what epsilon means and where the release lies."""
    return "\n".join(
        [
            "",
            *_table(outcome),
            f"  Rows with privacy are means over {DRAWS} draws of noise; a release is one draw.",
            *_wrapped(shortfall(outcome), indent="  "),
            "",
            *_wrapped(f"Epsilon {shown_epsilon(outcome.epsilon)}: {outcome.meaning}"),
            "",
            f"Release {outcome.version}: {os.path.relpath(outcome.release)}",
            *_wrapped(
                f"countersigned by {outcome.signed_by}, pulled and verified by every member; it scores as the run's own "
                f"model does. {outcome.total_s:.0f} seconds in all, {outcome.round_s:.1f} a round.",
                indent="  ",
            ),
        ]
    )


def shortfall(outcome: Outcome) -> str:
    """Return, in a sentence, what the one released draw does not beat in both figures; empty if there is nothing."""
    own = _own(outcome)
    released = outcome.federated
    companies, public = (
        [
            row.name
            for row in rows
            if released.auroc <= row.auroc or released.average_precision <= row.average_precision
        ]
        for rows in (own, [row for row in outcome.rows if row.privacy is None])
    )
    if len(companies) > _COMPANIES_NAMED:
        companies = [f"{len(companies)} of {len(own)} companies alone"]
    unbeaten = [*(["the public head"] if public else []), *companies]
    return f"This release does not beat in both figures: {', '.join(unbeaten)}." if unbeaten else ""


def _own(outcome: Outcome) -> list[QualityRow]:
    """Return the rows of single companies."""
    names = {f"{member} alone" for member in outcome.members}
    return [row for row in outcome.rows if row.name in names]


def _table(outcome: Outcome) -> list[str]:
    own = _own(outcome)
    folded = own if len(own) > _COMPANIES_IN_TABLE else []
    lines = [_line("  held-out conversations of all companies", "privacy", "AUROC", "av. precision")]
    for row in outcome.rows:
        privacy = {True: f"epsilon {shown_epsilon(outcome.epsilon)}", False: "none", None: "nothing read"}[
            row.privacy
        ]
        if row not in folded:
            marker = ">" if row.name == outcome.federated.name else " "
            lines.append(
                _line(f"{marker} {row.name}", privacy, f"{row.auroc:.3f}", f"{row.average_precision:.3f}")
            )
        elif row is folded[0]:
            auroc = _least_to_most([each.auroc for each in folded])
            precision = _least_to_most([each.average_precision for each in folded])
            lines.append(_line(f"  each of {len(folded)} companies alone", privacy, auroc, precision))
    return lines


def _line(name: str, privacy: str, auroc: str, precision: str) -> str:
    whole = name if len(name) <= _NAME + 2 else f"{name[: _NAME + 1]}…"
    return f"{whole:<{_NAME + 2}} {privacy:<13} {auroc:>9} {precision:>13}"


def _least_to_most(figures: Sequence[float]) -> str:
    return f"{min(figures):.2f}-{max(figures):.2f}"


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
