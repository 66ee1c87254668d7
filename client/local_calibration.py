"""A member's own calibration of a release: fitted on its own labels, kept at home, used wherever it scores."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from ringfence.client.member_home import MemberHome
from ringfence.client.own_file import read_own
from ringfence.model.atomic_file import write_atomically
from ringfence.model.calibration import Calibration
from ringfence.model.detector import Detector
from ringfence.model.plan import Sha256


class LocalCalibration(BaseModel):
    """``calibration.json`` in a member's folder.

    Attributes:
        detector_sha256: which detector's scores it is for.
        calibration: from score to probability.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector_sha256: Sha256
    calibration: Calibration


def calibrated(detector: Detector, home: MemberHome) -> Detector:
    """Return the detector with the member's own calibration, if it has one for these very scores; else as it is.

    Raises:
        ConfigError: the file is damaged. The member's to mend.
    """
    own = load_calibration(home)
    if own is None or own.detector_sha256 != detector.digest():
        return detector
    return replace(detector, calibration=own.calibration)


def load_calibration(home: MemberHome) -> LocalCalibration | None:
    """Return the member's own calibration, or None if it has none.

    Raises:
        ConfigError: the file cannot be read or is damaged. The member's to mend.
    """
    return read_own(
        home.calibration_file,
        LocalCalibration,
        again="Go back to the release's own with ringfence model calibrate --reset, then fit a new one.",
    )


def keep_calibration(home: MemberHome, detector: Detector, calibration: Calibration) -> None:
    """Write the member's own calibration of a detector, with mode 0600; it replaces any other."""
    own = LocalCalibration(detector_sha256=detector.digest(), calibration=calibration)
    write_atomically(home.calibration_file, own.model_dump_json(indent=2).encode() + b"\n")
