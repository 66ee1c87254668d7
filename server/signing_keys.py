"""The coordinator's own signing keys, one file each, mode 0600.

None of them publishes a stable release: that takes the members' approval keys, which the coordinator never holds.
"""

from __future__ import annotations

from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.model.key_files import load_signing_key, make_signing_key, raw_public_base64
from ringfence.server.coordinator_home import CoordinatorHome

KeyName = Literal["governance", "candidate", "snapshot", "timestamp", "plan"]

KEY_NAMES: tuple[KeyName, ...] = ("governance", "candidate", "snapshot", "timestamp", "plan")


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
        if not (home.keys / f"{name}.key").exists():
            make_signing_key(home.keys / f"{name}.key")


def load_coordinator_key(home: CoordinatorHome, *, name: KeyName) -> Ed25519PrivateKey:
    """Return one of the coordinator's keys.

    Raises:
        ConfigError: the key is missing, damaged or readable by others. The operator's to mend.
    """
    return load_signing_key(home.keys / f"{name}.key")


def plan_public_key(home: CoordinatorHome) -> str:
    """Return the public half of the key that signs plans, base64 of its 32 bytes."""
    return raw_public_base64(load_coordinator_key(home, name="plan").public_key())
