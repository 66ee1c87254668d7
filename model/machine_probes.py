"""What a doctor command measures on its own machine: disk, file modes, packages, names and ports. Thin, without judgement."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that are left for this user under a folder, or None if that cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def writing_problem(folder: Path) -> str:
    """Return why no file can be written into a folder, or "" if one was, and removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def modes_of(files: Iterable[Path]) -> dict[str, int | None]:
    """Return the permission bits of each file by its path; None for one that is missing."""
    found: dict[str, int | None] = {}
    for file in files:
        try:
            found[str(file)] = stat.S_IMODE(file.stat().st_mode)
        except OSError:
            found[str(file)] = None
    return found


def addresses_of(host: str, port: int) -> tuple[tuple[str, ...], str]:
    """Return the IP addresses of a name, and why there are none."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        return (), error.strerror or str(error)
    return tuple(dict.fromkeys(str(item[4][0]) for item in found)), ""


def connection_problem(host: str, port: int, *, timeout_s: float) -> str:
    """Return why no TCP connection comes about, or "" if one did."""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=timeout_s):
            return ""
    except TimeoutError:
        return f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        return error.strerror or str(error)


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """Return Python's version and those of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def wrong_requirements(package: str, *, extras: Sequence[str]) -> dict[str, str]:
    """Return how the installed packages differ from what a package asks for, by name.

    Args:
        package: whose requirements.
        extras: of its extras, those that are used here.
    """
    from packaging.requirements import Requirement

    try:
        asked = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return {package: "is not installed as a package"}
    wrong: dict[str, str] = {}
    for line in asked:
        wanted = Requirement(line)
        marker = wanted.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong[wanted.name] = "is not installed"
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong[wanted.name] = f"{version} is installed, {wanted.specifier} is asked for"
    return wrong
