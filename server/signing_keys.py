"""The coordinator's own signing keys, one file each, mode 0600.

None of them publishes a stable release: that takes the members' approval keys, which the coordinator never holds.

A key of the release repository is replaced with the members: the new one waits in ``keys/next/`` until a root of trust, or
targets, that enough of them signed name it. Until then the old one signs; from then on nobody believes it any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.model.atomic_file import sync_folder
from ringfence.model.errors import ConfigError
from ringfence.model.key_files import load_signing_key, make_signing_key, raw_public_base64
from ringfence.server.coordinator_home import CoordinatorHome

KeyName = Literal["governance", "candidate", "snapshot", "timestamp", "plan"]

KEY_NAMES: tuple[KeyName, ...] = ("governance", "candidate", "snapshot", "timestamp", "plan")
ROTATED_WITH_MEMBERS: tuple[KeyName, ...] = ("candidate", "snapshot", "timestamp")


def create_signing_keys(home: CoordinatorHome) -> None:
    """Make every key that is not there yet in ``keys/``.

    * governance: one of several that decide who may approve (root and targets); never enough alone.
    * candidate: vouches for releases that members are asked to evaluate.
    * snapshot: says which versions of all metadata belong together.
    * timestamp: says, every day or two, that the snapshot is still the newest.
    * plan: signs the plans of training runs.

    Raises:
        ConfigError: the folder cannot be written. The operator's to mend.
    """
    for name in KEY_NAMES:
        if not key_file(home, name=name).exists():
            make_signing_key(key_file(home, name=name))


def load_coordinator_key(home: CoordinatorHome, *, name: KeyName) -> Ed25519PrivateKey:
    """Return one of the coordinator's keys.

    Raises:
        ConfigError: the key is missing, damaged or readable by others. The operator's to mend.
    """
    return load_signing_key(key_file(home, name=name))


def key_file(home: CoordinatorHome, *, name: KeyName) -> Path:
    """Return where a key lies."""
    return home.keys / f"{name}.key"


def next_key_file(home: CoordinatorHome, *, name: KeyName) -> Path:
    """Return where a key waits that is to take the place of another."""
    return home.keys / "next" / f"{name}.key"


def make_next_key(home: CoordinatorHome, *, name: KeyName) -> Ed25519PrivateKey:
    """Make a key that waits to take the place of the present one.

    Raises:
        ConfigError: one waits already, or the folder cannot be written. The operator's to decide.
    """
    require_none_waits(home, name=name)
    file = next_key_file(home, name=name)
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot make {file.parent}: {error.strerror}", hint="Check the folder.") from error
    return make_signing_key(file)


def require_none_waits(home: CoordinatorHome, *, name: KeyName) -> None:
    """Refuse where a key waits to take the place of the present one.

    Raises:
        ConfigError: one does. The operator's to decide.
    """
    if next_key_file(home, name=name).exists():
        raise ConfigError(
            f"A new {name} key waits already.",
            hint="Have the members agree on it: ringfence-coordinator trust draft --replace",
        )


def newest_keys(home: CoordinatorHome, *, name: KeyName) -> tuple[Ed25519PrivateKey, ...]:
    """Return a key and, before it, the one that waits to take its place, if there is one.

    Raises:
        ConfigError: a key is missing, damaged or readable by others. The operator's to mend.
    """
    waiting = next_key_file(home, name=name)
    present = load_coordinator_key(home, name=name)
    return (load_signing_key(waiting), present) if waiting.exists() else (present,)


def take_next_key(home: CoordinatorHome, *, name: KeyName) -> None:
    """Put the key that waits in the place of the present one, for good.

    Raises:
        ConfigError: the folder cannot be written. The operator's to mend.
    """
    try:
        os.replace(next_key_file(home, name=name), key_file(home, name=name))
        sync_folder(home.keys)
    except OSError as error:
        raise ConfigError(
            f"Cannot replace the {name} key: {error.strerror}", hint="Check the folder."
        ) from error


def replace_plan_key(home: CoordinatorHome) -> None:
    """Make a new key that signs plans, in place of the present one, at once.

    Raises:
        ConfigError: the folder cannot be written. The operator's to mend.
    """
    next_key_file(home, name="plan").unlink(missing_ok=True)  # of a try that was cut off
    make_next_key(home, name="plan")
    take_next_key(home, name="plan")


def plan_public_key(home: CoordinatorHome) -> str:
    """Return the public half of the key that signs plans, base64 of its 32 bytes."""
    return raw_public_base64(load_coordinator_key(home, name="plan").public_key())
