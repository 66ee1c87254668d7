"""A head of the member's own, trained on from a release under its own budget: kept at home, used where it scores better.

It never leaves the member. It is trained in private all the same and charged to the ledger, because whoever may look at its
scores would otherwise learn from them what the ledger promises to hide.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ringfence.client.member_home import MemberHome
from ringfence.client.own_file import read_own
from ringfence.model.atomic_file import write_atomically
from ringfence.model.detector import Detector
from ringfence.model.errors import ConfigError
from ringfence.model.plan import Sha256


class Comparison(BaseModel):
    """How two detectors rank the same conversations of people whom neither was trained on here.

    Attributes:
        conversations: how many.
        positives: how many of them are positive.
        release: average precision of the release.
        personal: average precision of the member's own head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversations: int = Field(ge=1)
    positives: int = Field(ge=1)
    release: float = Field(ge=0, le=1)
    personal: float = Field(ge=0, le=1)


class PersonalHead(BaseModel):
    """``personal-head.json`` in a member's folder.

    Attributes:
        release_sha256: the detector that it was trained on from.
        parameters: of the head.
        made_at: when, UTC.
        contribution_bound: k.
        noise_multiplier: s.
        steps: T, all of the full batch.
        epsilon: of its training alone, at ``delta``.
        delta: of that epsilon.
        compared: what decided whether it is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    release_sha256: Sha256
    parameters: tuple[float, ...]
    made_at: AwareDatetime
    contribution_bound: int = Field(ge=1)
    noise_multiplier: float = Field(gt=0)
    steps: int = Field(ge=1)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    compared: Comparison

    @property
    def is_better(self) -> bool:
        """Whether it ranks better than the release; a tie is the release's, which others vouch for as well."""
        return self.compared.personal > self.compared.release

    def content(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    def digest(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal: the ledger's name for it."""
        return hashlib.sha256(self.content()).hexdigest()


def personalised(detector: Detector, home: MemberHome) -> Detector:
    """Return the detector with the member's own head, if it has one for this very release that ranks better; else as it is.

    The release's calibration stays with it until the member fits its own (`ringfence.client.local_calibration`).

    Raises:
        ConfigError: the file is damaged. The member's to mend.
    """
    own = load_personal_head(home)
    if own is None or not own.is_better or own.release_sha256 != detector.digest():
        return detector
    return replace(detector, parameters=np.array(own.parameters))


def load_personal_head(home: MemberHome) -> PersonalHead | None:
    """Return the member's own head, or None if it has none.

    Raises:
        ConfigError: the file cannot be read or is damaged. The member's to mend.
    """
    return _read(home.personal_head_file)


def put_aside(home: MemberHome, head: PersonalHead) -> None:
    """Write a head where nothing uses it, until it is charged."""
    write_atomically(_uncharged(home), head.content())


def put_aside_before(home: MemberHome) -> PersonalHead | None:
    """Return a head that was put aside and not kept since; None if there is none, or none that can be read."""
    try:
        return _read(_uncharged(home))
    except ConfigError:
        return None


def keep(home: MemberHome) -> None:
    """Put the head that was put aside into place, with mode 0600; it replaces any other."""
    _uncharged(home).replace(home.personal_head_file)


def forget_put_aside(home: MemberHome) -> None:
    """Remove a head that was put aside and never charged."""
    _uncharged(home).unlink(missing_ok=True)


def remove(home: MemberHome) -> None:
    """Go back to the release. What the head cost stays spent."""
    home.personal_head_file.unlink(missing_ok=True)
    forget_put_aside(home)


def _uncharged(home: MemberHome) -> Path:
    return home.personal_head_file.with_suffix(".uncharged")


def _read(path: Path) -> PersonalHead | None:
    return read_own(path, PersonalHead, again="Go back to the release: ringfence model personalise --reset")
