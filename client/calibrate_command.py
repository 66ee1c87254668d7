"""``ringfence model calibrate``: probabilities that hold at this company, from its own labels. Nothing of it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ringfence.model.calibration import Calibration

_FOLDS = 5


def calibrate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Labelled conversations; those of member.toml by default.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A release folder; the member's release in use by default.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Go back to the calibration that the release came with.")
    ] = False,
    even_if_worse: Annotated[
        bool,
        typer.Option(
            "--even-if-worse",
            help="Replace the calibration in use although the new one does worse on held-out data.",
        ),
    ] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the probability of a score to one's own labels (Platt); `ringfence score` uses it for this release from then on.

    It replaces the calibration in use only if it does better on conversations that were left out of its fit. At least ten
    positives and ten negatives are needed.
    """
    import numpy as np

    from ringfence.client.local_calibration import calibrated, keep_calibration
    from ringfence.client.own_labelled import own_labelled
    from ringfence.client.personal_head import personalised
    from ringfence.model.calibration import fit_calibration
    from ringfence.model.detector import Detector
    from ringfence.model.errors import DataError
    from ringfence.model.metrics import FEWEST_OF_A_LABEL, has_enough

    located = MemberHome.locate(home)
    if reset:
        located.calibration_file.unlink(missing_ok=True)
        emit(
            "The release's own calibration is in use.\nNext: ringfence score FILE",
            data={"reset": True},
            as_json=as_json,
        )
        return
    detector = personalised(Detector.load(model if model is not None else _release_in_use(located)), located)
    scores: list[float] = []
    decided: list[int] = []
    with own_labelled(located, files) as conversations:
        for item in conversations:
            scores.append(detector.score(item).logit)
            decided.append(1 if item.label == 1 else 0)
    logits, labels = np.array(scores), np.array(decided, dtype=np.int64)
    if not has_enough(labels):
        raise DataError(
            "Too few labelled conversations to fit a probability on; the calibration in use stays.",
            hint=f"Label more: at least {FEWEST_OF_A_LABEL} positives and {FEWEST_OF_A_LABEL} negatives.",
        )
    fitted = fit_calibration(
        logits, labels=labels, fitted_on=f"this company's own labels, {len(labels):,} conversations"
    )
    in_use = calibrated(detector, located).calibration
    before = _squared_error(in_use.probabilities(logits), labels)
    after = _held_out_error(logits, labels)
    is_better = after is not None and after < before
    is_kept = is_better or even_if_worse
    if is_kept:
        keep_calibration(located, detector, fitted)
    emit(
        f"Fitted on {len(labels):,} conversations. Brier score {before:.4f} as it was ({in_use.origin}), "
        f"{'-' if after is None else f'{after:.4f}'} with the new fit on conversations left out of it; lower is better.\n"
        + (_use(fitted, located.calibration_file, is_better=is_better) if is_kept else _refusal(after)),
        data={
            "calibration": fitted.model_dump(mode="json"),
            "brier_before": before,
            "brier_held_out": after,
            "in_use": is_kept,
            "file": str(located.calibration_file) if is_kept else None,
        },
        as_json=as_json,
    )


def _use(fitted: Calibration, file: Path, *, is_better: bool) -> str:
    worse = "" if is_better else " although it does no better, as --even-if-worse asks"
    return (
        f"The new calibration is in use{worse}; it stays in {file}.\n"
        f"Nine in ten of these positives are found from probability {_shown(fitted.high_recall)}, nine in ten flagged are "
        f"positive from {_shown(fitted.high_precision)}.\nNext: ringfence score --capacity 50/day FILE"
    )


def _refusal(after: float | None) -> str:
    reason = (
        "The new one does no better"
        if after is not None
        else "The new one could not be tried: on a part of the conversations higher scores do not mean more positives"
    )
    return (
        f"Nothing was replaced. {reason}, so the calibration in use stays; --even-if-worse replaces it all the same.\n"
        "Next: ringfence model evaluate"
    )


def _held_out_error(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Return the Brier score of fits on four fifths on the fifth that was left out; None if a part cannot be fitted."""
    import numpy as np

    from ringfence.model.calibration import fit_calibration
    from ringfence.model.errors import DataError

    # Each label is dealt out in turn, so that every fold has its share of both.
    folds = np.empty(len(labels), dtype=np.int64)
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        folds[places] = np.arange(len(places)) % _FOLDS
    probabilities = np.empty(len(labels))
    try:
        for fold in range(_FOLDS):
            kept = folds != fold
            fit = fit_calibration(logits[kept], labels=labels[kept], fitted_on="four fifths")
            probabilities[~kept] = fit.probabilities(logits[~kept])
    except DataError:
        return None
    return _squared_error(probabilities, labels)


def _squared_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(((probabilities - labels) ** 2).mean())


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _release_in_use(home: MemberHome) -> Path:
    from ringfence.client.releases import ReleaseStore

    return ReleaseStore(home).verified_current()
