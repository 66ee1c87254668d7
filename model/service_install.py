"""Putting a unit file where systemd finds it, and asking systemd what it thinks of it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ringfence.model.atomic_file import write_atomically
from ringfence.model.console import emit, note
from ringfence.model.errors import ConfigError

UNIT_FOLDER = Path("/etc/systemd/system")
_ANALYZE_S = 60


def owner_of(folder: Path) -> str:
    """Return the name of the account that owns a folder.

    Raises:
        ConfigError: the folder is missing, or its owner has no name. The operator's to mend.
    """
    try:
        return pwd.getpwuid(folder.stat().st_uid).pw_name
    except (OSError, KeyError) as error:
        raise ConfigError(
            f"{folder} has no owner that is known here.", hint="Give --home, and --user."
        ) from error


def known_user(name: str) -> str:
    """Return an account's name.

    Raises:
        ConfigError: there is no such account here. The operator's to mend.
    """
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError as error:
        raise ConfigError(
            f"There is no account {name!r} on this machine.",
            hint=f"Make it: useradd --system {name}; or give --user.",
        ) from error


def require_access(user: str, *, folder: Path, files: Iterable[Path] = ()) -> None:
    """Refuse an account that a service could not work as: it has to write its folder, and to read its keys.

    Args:
        user: the account.
        folder: what the service works in.
        files: what it must read below it; one that is missing is not its trouble here.

    Raises:
        ConfigError: the account may not. The operator's to mend.
    """
    account = pwd.getpwnam(user)
    if account.pw_uid == 0:
        return
    groups = set(os.getgrouplist(user, account.pw_gid))
    wanted = [*((parent, os.X_OK, "enter") for parent in reversed(folder.parents))]
    wanted += [
        (folder, os.R_OK | os.W_OK | os.X_OK, "write into"),
        *((file, os.R_OK, "read") for file in files),
    ]
    for path, rights, word in wanted:
        try:
            status = path.stat()
        except OSError:
            continue  # missing, or not to be seen by whoever asks: the service says what it lacks
        own = status.st_uid == account.pw_uid
        shift = 6 if own else 3 if status.st_gid in groups else 0
        if (status.st_mode >> shift) & rights != rights:
            raise ConfigError(
                f"{user} may not {word} {path}, so the service could not start.",
                hint=f"Give it the folder: chown -R {user}: {folder}; or choose another --user or --home.",
            )


def program_path(name: str) -> list[str]:
    """Return how a service calls one of our programs: by the script beside this Python, else through it."""
    script = Path(sys.executable).parent / name
    if script.is_file() and os.access(script, os.X_OK):
        return [str(script)]
    side = "server" if name.endswith("-coordinator") else "client"
    return [sys.executable, "-m", f"ringfence.{side}.command_line"]


def program_folders() -> list[Path]:
    """Return the folders that a service's program is run from: this Python's environment, and the Python below it."""
    return [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent]


def write_unit(text: str, *, file: Path, replace: bool) -> None:
    """Write a unit file, readable by all.

    Raises:
        ConfigError: one is there already and differs, or the folder does not take it. The operator's to mend.
    """
    if file.exists() and file.read_text(encoding="utf-8") != text and not replace:
        raise ConfigError(
            f"{file} is there already and differs.", hint="Look at it; write over it with --force."
        )
    try:
        write_atomically(file, text.encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"Cannot write {file}: {error.strerror}",
            hint=f"Run as root, or have it printed: ... install-service --print | sudo tee {UNIT_FOLDER / file.name}",
        ) from error


def place_unit(
    text: str,
    *,
    name: str,
    user: str,
    to: Path | None,
    print_only: bool,
    force: bool,
    following: str,
    as_json: bool,
) -> None:
    """Print or write a unit, say what systemd thinks of it, and name the next commands.

    Args:
        text: of the unit.
        name: of the service.
        user: the account that it runs as.
        to: the file; below /etc/systemd/system by default.
        print_only: write nothing.
        force: write over a unit that differs.
        following: the next commands, with {name} for the service.
        as_json: as the caller was asked.

    Raises:
        ConfigError: the file is there and differs, or cannot be written. The operator's to mend.
    """
    if print_only:
        emit(text.rstrip("\n"), data={"name": name, "unit": text, "user": user}, as_json=as_json)
        note(f"Save it as {UNIT_FOLDER / name}.service.\n{following.format(name=name)}")
        return
    file = to or UNIT_FOLDER / f"{name}.service"
    write_unit(text, file=file, replace=force)
    complaints = complaints_of_systemd(text, name=file.name)
    for line in complaints or []:
        note(f"systemd-analyze: {line}")
    if user == "root":
        note("warning: it runs as root, because the folder is root's. Give it an account of its own: --user.")
    emit(
        f"The unit is in {file}; it runs as {user}.\n{following.format(name=file.stem)}",
        data={"name": file.stem, "file": str(file), "user": user, "complaints": complaints},
        as_json=as_json,
    )


def complaints_of_systemd(text: str, *, name: str) -> list[str] | None:
    """Return what ``systemd-analyze verify`` says about a unit; None where systemd is not installed."""
    return _analyze(text, name=name, words=["verify"])


def exposure_of_unit(text: str, *, name: str) -> float | None:
    """Return how exposed ``systemd-analyze security`` finds a unit, 0 (safe) to 10; None where it cannot be asked."""
    lines = _analyze(text, name=name, words=["security", "--offline=yes", "--no-pager"])
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", "\n".join(lines or []))
    return float(found[1]) if found else None


def _analyze(text: str, *, name: str, words: list[str]) -> list[str] | None:
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="ringfence-unit-") as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                [program, *words, str(file)], capture_output=True, text=True, timeout=_ANALYZE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
