"""What a doctor command finds: one line a check, with what to do about it. Pure; the probes stand on each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from ringfence.model.errors import RingfenceError

Level = Literal["PASS", "WARN", "FAIL"]

CLOCK_WARNS_AT = timedelta(seconds=30)
CLOCK_FAILS_AT = timedelta(minutes=5)
SPACE_WARNS_BELOW_BYTES = 1 << 30
SPACE_FAILS_BELOW_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        level: PASS, WARN or FAIL.
        detail: what was seen, in one sentence without private data.
        fix: what to do about it, in one line; "" for PASS.
    """

    check: str
    level: Level
    detail: str
    fix: str = ""


class DiagnosisError(RingfenceError):
    """At least one check failed.

    Attributes:
        data: every finding, for programs.
    """

    code = "not_healthy"

    def __init__(self, findings: Sequence[Finding]) -> None:
        failed = [finding for finding in findings if finding.level == "FAIL"]
        names = ", ".join(finding.check for finding in failed)
        plural = "s" if len(failed) > 1 else ""
        super().__init__(
            f"{len(failed)} check{plural} failed: {names}.", hint=failed[0].fix if failed else ""
        )
        self.data = diagnosis_data(findings)


def diagnosis_text(findings: Sequence[Finding]) -> str:
    """Return the findings as a table for a person: each fix stands below its finding."""
    widest = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level}  {finding.check:<{widest}}  {finding.detail}")
        if finding.fix:
            lines.append(f"      {'':<{widest}}  fix: {finding.fix}")
    return "\n".join(lines)


def diagnosis_data(findings: Sequence[Finding]) -> dict[str, object]:
    """Return the findings for programs."""
    return {
        "healthy": all(finding.level != "FAIL" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def raise_on_failure(findings: Sequence[Finding]) -> None:
    """Return if nothing failed.

    Raises:
        DiagnosisError: something did; it names the checks.
    """
    if any(finding.level == "FAIL" for finding in findings):
        raise DiagnosisError(findings)


def check_error(check: str, error: RingfenceError) -> Finding:
    """Return the failure that one of the house's errors stands for."""
    return Finding(check, "FAIL", error.message, error.hint)


def check_clock(skew: timedelta | None, *, against: str) -> Finding:
    """Judge how far this machine's clock is from another's.

    Args:
        skew: this clock less the other; None if the other was not heard.
        against: whose clock.
    """
    if skew is None:
        return Finding(
            "clock",
            "WARN",
            f"{against} did not say what time it is, so this clock was not compared.",
            "Mend the connection first; look at `timedatectl` meanwhile.",
        )
    seconds = skew.total_seconds()
    if abs(skew) < CLOCK_WARNS_AT:
        return Finding("clock", "PASS", f"It agrees with {against} to {max(1, abs(round(seconds)))} s.")
    way = "ahead of" if seconds > 0 else "behind"
    return Finding(
        "clock",
        "WARN" if abs(skew) < CLOCK_FAILS_AT else "FAIL",
        f"It is {_length(abs(skew))} {way} {against}.",
        "Set the clock: timedatectl set-ntp true. Certificates and releases are refused where clocks differ.",
    )


def check_lifetime(
    check: str, *, begins_at: datetime, expires_at: datetime, now: datetime, warn_below: timedelta, fix: str
) -> Finding:
    """Judge until when something with a validity holds: a certificate, a role's metadata."""
    left = expires_at - now
    day = f"{expires_at:%Y-%m-%d %H:%M} UTC"
    if now < begins_at:
        return Finding(
            check,
            "FAIL",
            f"It holds only from {begins_at:%Y-%m-%d %H:%M} UTC.",
            "Check this machine's clock.",
        )
    if left <= timedelta(0):
        return Finding(check, "FAIL", f"It expired on {day}.", fix)
    level: Level = "WARN" if left < warn_below else "PASS"
    return Finding(
        check, level, f"It holds for {_length(left)}, until {day}.", fix if level == "WARN" else ""
    )


def check_space(check: str, *, free_bytes: int | None, problem: str, folder: str) -> Finding:
    """Judge the disk under a folder.

    Args:
        check: its name.
        free_bytes: left on the disk; None if that is not known.
        problem: why nothing could be written there; "" if it could.
        folder: which folder.
    """
    if problem or free_bytes is None:
        return Finding(
            check,
            "FAIL",
            f"{folder} takes no file: {problem or 'its disk cannot be read'}.",
            f"Let this user write there: chown -R $USER {folder}; check the mount and the disk.",
        )
    text = f"{free_bytes / (1 << 30):.1f} GiB are free under {folder}."
    if free_bytes >= SPACE_WARNS_BELOW_BYTES:
        return Finding(check, "PASS", text)
    level: Level = "WARN" if free_bytes >= SPACE_FAILS_BELOW_BYTES else "FAIL"
    return Finding(check, level, text, "Free some space, or move the folder to a larger disk.")


def check_private_files(check: str, modes: Mapping[str, int | None]) -> Finding:
    """Judge files that their owner alone may read.

    Args:
        check: its name.
        modes: permission bits of each file; None for a file that is missing.
    """
    missing = [name for name, mode in modes.items() if mode is None]
    if missing:
        return Finding(
            check,
            "FAIL",
            f"{', '.join(missing)} missing.",
            "Restore it from the backup, or set this side up anew.",
        )
    open_ones = [name for name, mode in modes.items() if mode is not None and mode & 0o077]
    if open_ones:
        return Finding(
            check,
            "FAIL",
            f"Others can reach {', '.join(open_ones)}.",
            f"chmod 600 {' '.join(open_ones)}; if others are on this machine, make new keys.",
        )
    return Finding(check, "PASS", f"{len(modes)} files, readable by their owner alone.")


def check_versions(wrong: Mapping[str, str], *, found: Mapping[str, str]) -> Finding:
    """Judge the installed packages.

    Args:
        wrong: by package, how it differs from what is asked for.
        found: the versions worth naming.
    """
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if wrong:
        said = "; ".join(f"{name}: {how}" for name, how in wrong.items())
        return Finding("versions", "FAIL", f"{said}. Found {text}.", 'pip install --upgrade "ringfence[...]"')
    return Finding("versions", "PASS", f"{text}.")


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
