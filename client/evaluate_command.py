"""``ringfence model evaluate``: a release on the member's own labelled conversations. Nothing of it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, note
from ringfence.model.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.member_evaluation import Estimate, MemberEvaluation, Ranking

FIGURES_FILE = "evaluation.json"
TABLE_FILE = "evaluation.md"


def evaluate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Labelled conversations; those of member.toml by default.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A release folder; the member's release in use by default.")
    ] = None,
    capacity: Annotated[
        str,
        typer.Option(
            "--capacity", help="What reviewers have time for: a share as 0.05, or conversations as 50/day."
        ),
    ] = "0.05",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A new folder for figures and pictures; one in --home by default."),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Draw pictures (needs matplotlib).")
    ] = True,
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a release on one's own labelled conversations: ranking, calibration, how early, on which parts.

    Table and pictures go to a folder that only its owner can read. They hold no text and no names; they have no noise either,
    so they stay here.
    """
    import numpy as np

    from ringfence.client.local_calibration import calibrated
    from ringfence.client.own_labelled import own_labelled
    from ringfence.client.personal_head import personalised
    from ringfence.client.snapshot import Selection
    from ringfence.model.detector import Detector
    from ringfence.model.member_evaluation import evaluate_scores, figures, score_conversations
    from ringfence.model.metrics import FEWEST_OF_A_LABEL, has_enough
    from ringfence.model.review_capacity import parse_share_or_rate, share_of_rate

    asked = parse_share_or_rate(capacity)
    located = MemberHome.locate(home)
    folder = model if model is not None else _release_in_use(located)
    detector = calibrated(personalised(Detector.load(folder), located), located)
    with own_labelled(located, files, labelled_only=False) as conversations:
        decided = [place for place, item in enumerate(conversations) if item.label is not None]
        if not decided:
            raise DataError(
                "No conversation has a label.", hint="Evaluate on conversations that people have decided."
            )
        labelled = Selection(conversations, decided)
        share = asked if isinstance(asked, float) else share_of_rate(asked, _days_of(labelled))
        scored = score_conversations(detector, detector.public_start(), labelled)
        undecided = len(conversations) - len(decided)
    found = evaluate_scores(
        scored,
        probabilities=detector.calibration.probabilities,
        capacity=share,
        rng=np.random.default_rng(0),
    )
    target = _new_folder(out, located, release=folder.resolve().name)
    table = evaluation_table(found, release=folder.resolve().name, calibration=detector.calibration.origin)
    _write(target / FIGURES_FILE, json.dumps(figures(found), indent=2) + "\n")
    _write(target / TABLE_FILE, table)
    pictures: Sequence[Path] = ()
    if plots:
        from ringfence.client.evaluation_plots import draw_evaluation

        pictures = draw_evaluation(target, found, scored, probabilities=detector.calibration.probabilities)
    enough = has_enough(scored.labels)
    emit(
        f"{table}\nWritten to {target}\n"
        f"Next: {'ringfence model calibrate, or: ' if enough else ''}ringfence score --capacity 50/day FILE",
        data={
            "release": folder.resolve().name,
            "folder": str(target),
            "conversations_without_label": undecided,
            "pictures": [path.name for path in pictures],
            "figures": figures(found),
        },
        as_json=as_json,
    )
    if not enough:
        note(
            f"warning: fewer than {FEWEST_OF_A_LABEL} positives or {FEWEST_OF_A_LABEL} negatives: these figures may be chance, "
            "and have no intervals. Label more conversations."
        )
    if undecided:
        note(f"{undecided:,} conversations have no label and were left out.")
    if not isinstance(asked, float):
        note(f"{capacity} is {share:.1%} of these conversations, by the days of their last messages.")
    note("These figures have no noise: they stay here. If this data took part in training, they flatter.")


def _days_of(conversations: Iterable[Conversation]) -> list[date]:
    """Return the day of the last message of each conversation that has times."""
    days = []
    for item in conversations:
        times = [message.time for message in item.messages if message.time is not None]
        if times:
            with suppress(OverflowError, ValueError, OSError):  # beyond the years that have dates
                days.append(datetime.fromtimestamp(max(times), tz=UTC).date())
    return days


def evaluation_table(found: MemberEvaluation, *, release: str, calibration: str) -> str:
    """Return the figures as Markdown tables, for people."""
    early = found.early
    lines = [
        f"# {release} on {found.conversations:,} conversations, {found.positives:,} of them positive",
        "",
        f"| | AUROC (95 %) | average precision (95 %) | precision at {found.capacity:.1%} | recall at {found.capacity:.1%} |",
        "|---|---|---|---|---|",
        _row("this release", found.release),
        _row("public head, before any training", found.public_head),
        "",
        f"Calibration ({calibration}): mean distance {found.calibration_error:.3f}, Brier score {found.brier:.4f}.",
        "",
        "| probability | conversations | said | so |",
        "|---|---|---|---|",
        *(
            f"| {item.low:.1f} to {item.high:.1f} | {item.count:,} | {_number(item.mean_probability)} "
            f"| {_number(item.positives)} |"
            for item in found.calibration
        ),
        "",
        (
            f"Early detection, a warning at probability {found.early_threshold:.3f} stays: {early.warned:.1%} warned about, "
            f"precision {_number(early.precision)}, recall {early.recall:.3f}, F1 {early.f1:.3f}, speed {_number(early.speed)}, "
            f"latency-weighted F1 {early.f_latency:.3f}, ERDE5 {early.erde_5:.3f}, ERDE50 {early.erde_50:.3f}, "
            f"median delay {_number(early.median_delay, digits=0)} messages."
        ),
        "",
        "| share of each conversation seen | AUROC | average precision |",
        "|---|---|---|",
        *(f"| {share:.0%} | {auroc:.3f} | {precision:.3f} |" for share, auroc, precision in found.seen),
        "",
        "| part | conversations | positives | AUROC | average precision |",
        "|---|---|---|---|---|",
        *(
            f"| {part.name} | {part.count:,} | {part.positives:,} | {_number(part.auroc)} "
            f"| {_number(part.average_precision)} |"
            for part in found.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, ranking: Ranking) -> str:
    return (
        f"| {name} | {_estimate(ranking.auroc)} | {_estimate(ranking.average_precision)} "
        f"| {ranking.precision_at_capacity:.3f} | {ranking.recall_at_capacity:.3f} |"
    )


def _estimate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.3f} (-)"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _number(value: float | None, *, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _release_in_use(home: MemberHome) -> Path:
    from ringfence.client.releases import ReleaseStore

    return ReleaseStore(home).verified_current()


def _new_folder(given: Path | None, home: MemberHome, *, release: str) -> Path:
    stamp = datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = given if given is not None else home.evaluations / f"{release}-{stamp}"
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is there already.", hint="Name a new folder with --out.") from error
    except OSError as error:
        raise ConfigError(f"Cannot make {folder}: {error.strerror}.", hint="Choose another --out.") from error
    # Whatever the umask or an inherited default says.
    folder.chmod(0o700)
    return folder


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
