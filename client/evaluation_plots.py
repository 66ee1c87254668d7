"""The pictures of an evaluation: precision over recall, calibration, scores over time, early detection. Drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ringfence.model.member_evaluation import MemberEvaluation, ScoredConversations

PICTURES = ("precision-recall", "calibration", "score-timeline", "early-detection")

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#b3541e", "#888888"
_STEPS = 41


def draw_evaluation(
    folder: Path,
    evaluation: MemberEvaluation,
    scored: ScoredConversations,
    *,
    probabilities: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> tuple[Path, ...]:
    """Write one SVG a picture into an existing folder and return their paths.

    Raises:
        ConfigError: matplotlib is not installed. The operator's to mend.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "The pictures need matplotlib.", hint="pip install 'ringfence[evaluate]', or pass --no-plots"
        ) from error
    painters: dict[str, Callable[[Axes], None]] = {
        "precision-recall": lambda axes: _precision_recall(axes, evaluation, scored),
        "calibration": lambda axes: _calibration(axes, evaluation),
        "score-timeline": lambda axes: _timelines(axes, scored, probabilities),
        "early-detection": lambda axes: _early_detection(axes, evaluation),
    }
    paths = []
    # No date and no random ids: the same figures give the same file. Text stays text.
    with rc_context({"svg.hashsalt": "ringfence", "svg.fonttype": "none"}):
        for name in PICTURES:
            # A figure of its own, not pyplot's: nothing global, no window, nothing to close.
            figure = Figure(figsize=(6.4, 4.2), layout="constrained")
            axes = figure.add_subplot()
            painters[name](axes)
            axes.spines[["top", "right"]].set_visible(False)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            path.chmod(0o600)
            paths.append(path)
    return tuple(paths)


def _precision_recall(axes: Axes, evaluation: MemberEvaluation, scored: ScoredConversations) -> None:
    for name, scores, colour, ranking in (
        ("public head", scored.public_scores, _GREY, evaluation.public_head),
        ("this release", scored.scores, _BLUE, evaluation.release),
    ):
        order = np.argsort(-scores, kind="stable")
        found = np.cumsum(scored.labels[order])
        # Equal scores are flagged together.
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        recall, precision = found[ends] / found[-1], found[ends] / (ends + 1)
        axes.step(
            np.append(0.0, recall),
            np.append(precision[0], precision),
            where="pre",
            color=colour,
            label=f"{name}, average precision {ranking.average_precision.value:.3f}",
        )
    axes.axhline(
        evaluation.positives / evaluation.conversations, color=_GREY, linestyle=":", label="by chance"
    )
    axes.plot(
        evaluation.release.recall_at_capacity,
        evaluation.release.precision_at_capacity,
        "o",
        color=_ORANGE,
        label=f"review capacity {evaluation.capacity:.1%}",
    )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision over recall")
    axes.legend(loc="lower left", fontsize="small")


def _calibration(axes: Axes, evaluation: MemberEvaluation) -> None:
    held = [item for item in evaluation.calibration if item.count]
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="what is said is so")
    axes.plot(
        [item.mean_probability or 0.0 for item in held],
        [item.positives or 0.0 for item in held],
        "o-",
        color=_BLUE,
        label=f"this release, mean distance {evaluation.calibration_error:.3f}",
    )
    for item in held:
        axes.annotate(
            f"{item.count:,}",
            (item.mean_probability or 0.0, item.positives or 0.0),
            textcoords="offset points",
            xytext=(6, -10),
            fontsize="x-small",
        )
    axes.set(
        xlabel="probability that was said",
        ylabel="share of positives",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title="Calibration (numbers: conversations)",
    )
    axes.legend(loc="upper left", fontsize="small")


def _timelines(
    axes: Axes,
    scored: ScoredConversations,
    probabilities: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    shares = np.linspace(0, 1, _STEPS)
    for label, name, colour in ((0, "negative", _GREY), (1, "positive", _ORANGE)):
        chosen = [line for line, mark in zip(scored.timelines, scored.labels, strict=True) if mark == label]
        values = np.array(
            [
                probabilities(line)[np.minimum((shares * len(line)).astype(int), len(line) - 1)]
                for line in chosen
            ]
        )
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
        axes.plot(shares, middle, color=colour, label=f"{name}: median of {len(chosen):,}")
        axes.fill_between(
            shares, low, high, color=colour, alpha=0.2, linewidth=0, label=f"{name}: middle half"
        )
    axes.set(
        xlabel="share of the conversation seen",
        ylabel="probability",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title="Scores over time",
    )
    axes.legend(loc="upper left", fontsize="small")


def _early_detection(axes: Axes, evaluation: MemberEvaluation) -> None:
    warned = [item.warned for item in evaluation.early_curve]
    for name, values, colour in (
        ("F1 of warnings that stay", [item.f1 for item in evaluation.early_curve], _GREY),
        ("speed", [item.speed or 0.0 for item in evaluation.early_curve], _ORANGE),
        ("latency-weighted F1", [item.f_latency for item in evaluation.early_curve], _BLUE),
    ):
        axes.plot(warned, values, "o-", color=colour, markersize=3, label=name)
    axes.axvline(
        evaluation.early.warned,
        color=_BLUE,
        linestyle=":",
        label=f"review capacity {evaluation.capacity:.1%}",
    )
    axes.set(
        xlabel="share of conversations warned about",
        ylabel="value",
        ylim=(0, 1.02),
        title="Early detection",
    )
    axes.legend(loc="lower right", fontsize="small")
