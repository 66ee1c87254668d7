"""``privacy.json`` as one page for a data-protection officer: what is promised to whom, by what, and what is not."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from ringfence.model.evidence import HEADLINE, PrivacyEvidence, round_up

_ADVERSARIES = {
    "coordinator": "the coordinator alone",
    "member": "one other member alone",
    "coordinator-and-members": "the coordinator together with {colluding}",
    "everybody-else": "everybody else together, {colluding} included",
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        heading: of the part.
        paragraphs: running text.
        rows: a table: of names and values, or, with more than two columns, under a first row of headings.
        items: a list.
    """

    heading: str
    paragraphs: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The page.

    Attributes:
        title: with the version, where it is known.
        warning: what a reader must see first, or empty.
        sections: in order.
    """

    title: str
    warning: str
    sections: tuple[Section, ...]


def page_of(evidence: PrivacyEvidence, *, version: str | None) -> Page:
    """Return the page of a release's evidence."""
    return Page(
        title="Privacy evidence" + (f" of release {version}" if version else ""),
        warning=(
            "A demonstration on public or invented data: the numbers show the arithmetic and protect nobody."
            if evidence.demonstration
            else ""
        ),
        sections=(
            Section("The promise", paragraphs=(evidence.promise(), _meaning(evidence))),
            Section("Against whom", rows=_adversary_rows(evidence)),
            Section("For whom", rows=_person_rows(evidence)),
            Section("By what", rows=_mechanism_rows(evidence)),
            Section("On whose word", rows=_word_rows(evidence)),
            Section(
                "Public inputs",
                rows=tuple(
                    (item.name, f"{item.origin}; licence: {item.licence}") for item in evidence.public_inputs
                ),
            ),
            Section("What the promise does not cover", items=evidence.not_hidden),
            Section("Known limits", items=evidence.known_limits),
        ),
    )


def render_text(page: Page, *, width: int = 100) -> str:
    """Return the page for a terminal, ``width`` columns wide."""
    lines = [page.title, "=" * len(page.title)]
    if page.warning:
        lines += ["", *textwrap.wrap(page.warning, width)]
    for section in page.sections:
        lines += ["", section.heading, "-" * len(section.heading)]
        for paragraph in section.paragraphs:
            lines += textwrap.wrap(paragraph, width)
        lines += _table_lines(section.rows, width)
        for item in section.items:
            lines += textwrap.wrap(f"- {item}", width, subsequent_indent="  ")
    return "\n".join(lines)


def _table_lines(rows: tuple[tuple[str, ...], ...], width: int) -> list[str]:
    """Return a table; what does not fit into its last column goes on below, in the same column."""
    if not rows:
        return []
    columns = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = sum(columns) + 2 * len(columns)
    lines = []
    for row in rows:
        start = "".join(cell.ljust(size + 2) for cell, size in zip(row[:-1], columns, strict=True))
        rest = textwrap.wrap(row[-1], max(20, width - indent)) or [""]
        lines += [start + rest[0], *(" " * indent + more for more in rest[1:])]
    return lines


def _meaning(evidence: PrivacyEvidence) -> str:
    """Return what the headline's epsilon means for somebody who had no idea before."""
    epsilon = evidence.guarantee(HEADLINE).epsilon
    # Of a thousand, rounded up; 1000 would claim a certainty that no epsilon gives.
    certainty = min(999, math.ceil(1000.0 / (1.0 + math.exp(-epsilon)))) / 10
    return (
        "In other words: whoever holds it equally likely that the content of a person's conversations was used or not, sees all "
        "that this run released and knows everything else about everybody, may become at most "
        f"{certainty:.1f} % sure (up to "
        f"the chance delta). The smaller epsilon, the nearer to 50 %. This is the worst case, not a forecast."
    )


def _adversary_rows(evidence: PrivacyEvidence) -> tuple[tuple[str, ...], ...]:
    rows = [("who looks", "epsilon", "delta", "noise that they cannot remove")]
    for guarantee in evidence.guarantees:
        who = _ADVERSARIES[guarantee.adversary].format(colluding=_other_members(guarantee.colluding))
        rows.append(
            (who, round_up(guarantee.epsilon), f"{evidence.delta:g}", f"{guarantee.noise_multiplier:.4g} x C")
        )
    return tuple(rows)


def _other_members(count: int) -> str:
    return "no other member" if count == 0 else f"{count} other member{'s' * (count != 1)}"


def _person_rows(evidence: PrivacyEvidence) -> tuple[tuple[str, ...], ...]:
    by_platforms = [
        (f"epsilon, person on {count} member{'s' * (count != 1)}", round_up(epsilon))
        for count, epsilon in sorted(evidence.epsilon_by_platforms.items())
    ]
    return (
        ("who is protected", evidence.unit),
        ("what two cases differ in", evidence.relation),
        ("a person counts at a member", _counting(evidence)),
        ("members that one person may be on", f"at most {evidence.platforms} in the promise"),
        *by_platforms,
        ("epsilon, one conversation alone", round_up(evidence.per_conversation_epsilon)),
    )


def _counting(evidence: PrivacyEvidence) -> str:
    k, bounds = evidence.contribution_bound, evidence.mechanism.bounds
    if bounds == "greedy":
        return f"with at most {k} conversation{'s' * (k != 1)}; the others are left out"
    if bounds == "fractional":
        return f"with all conversations, which weigh at most {k} together"
    return (
        f"with at most {k} example{'s' * (k != 1)}, each of one conversation or of several of the same people"
    )


def _mechanism_rows(evidence: PrivacyEvidence) -> tuple[tuple[str, ...], ...]:
    mechanism = evidence.mechanism
    sampling = (
        "every kept conversation in every step"
        if mechanism.sampling == "full-batch"
        else f"each conversation with probability {mechanism.sample_rate:g} a step, in secret"
    )
    seen = "each member's noised answer" if mechanism.aggregation == "open" else "only the sum of all answers"
    rows = [
        (
            "noise of a member (s)",
            f"{mechanism.noise_multiplier:g} times the clip norm, in each of its steps",
        ),
        ("noise of the cohort", "each member adds all of it" if mechanism.noise == "member" else "adds up"),
        ("steps (T)", str(mechanism.steps)),
        ("sampling", sampling),
        ("clip norm (C)", f"{mechanism.clip_norm:g}: most that one conversation moves the sum"),
        ("numbers in an answer (d)", str(mechanism.dimension)),
        ("integer grid (gamma)", f"{mechanism.grid_step:.4g}, against leaks through rounding"),
        ("the coordinator sees", seen),
        ("computed by", f"{evidence.accountant.name}, {evidence.accountant.version}"),
    ]
    if mechanism.evaluation_noise_multiplier is not None:
        noise = (
            f"{mechanism.evaluation_noise_multiplier:g} conversations in each count of one score histogram"
        )
        rows.insert(3, ("noise of the evaluation", noise))
    return tuple(rows)


def _word_rows(evidence: PrivacyEvidence) -> tuple[tuple[str, ...], ...]:
    members = ", ".join(receipt.member for receipt in evidence.receipts)
    return (
        ("members whose data was used", str(evidence.contributors)),
        ("ledger receipts", members or "none"),
        ("plan (SHA-256)", evidence.plan_sha256),
        ("report of the statistical audit (SHA-256)", evidence.audit_report_sha256 or "none"),
    )
