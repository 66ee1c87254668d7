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
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the probability of a score to one's own labels (Platt); `ringfence score` uses it for this release from then on."""
    import numpy as np

    from ringfence.client.local_calibration import keep_calibration
    from ringfence.client.own_labelled import own_labelled
    from ringfence.client.personal_head import personalised
    from ringfence.model.calibration import fit_calibration
    from ringfence.model.detector import Detector

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
    fitted = fit_calibration(
        logits, labels=labels, fitted_on=f"this company's own labels, {len(labels):,} conversations"
    )
    before = _squared_error(detector.calibration.probabilities(logits), labels)
    after = _held_out_error(logits, labels)
    keep_calibration(located, detector, fitted)
    emit(
        f"Fitted on {len(labels):,} conversations; it stays in {located.calibration_file}.\n"
        f"Brier score before {before:.4f}, after {'-' if after is None else f'{after:.4f}'} "
        "(on conversations left out of the fit).\n"
        f"Nine in ten positives are found from probability {_shown(fitted.high_recall)}, nine in ten flagged are positive "
        f"from {_shown(fitted.high_precision)}.\nNext: ringfence score --capacity 50/day FILE",
        data={
            "calibration": fitted.model_dump(mode="json"),
            "brier_before": before,
            "brier_held_out": after,
            "file": str(located.calibration_file),
        },
        as_json=as_json,
    )


def _held_out_error(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Return the Brier score of fits on four fifths on the fifth that was left out; None if there are too few labels."""
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
