"""After a restore: a timestamp that is later than any that members saw, so that they do not take it for a step back."""

from __future__ import annotations

from datetime import datetime

from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.publication import load_signers, renewed_timestamp, unentitled_keys
from ringfence.server.release_repository import ReleaseRepository
from ringfence.server.signing_keys import KEY_NAMES, key_file

VERSIONS = 1000
"""More than a coordinator signs in a year of one or two a day."""


def jump_ahead(home: CoordinatorHome, *, now: datetime) -> tuple[str, ...]:
    """Sign a timestamp that is `VERSIONS` later, if a root of trust was published and its keys are here.

    A key that is here under the right name may be another than the published state names: the backup is of before it took the
    other's place, and what members believe of this state is the one that is gone. Nothing that they would not believe is
    published.

    Args:
        home: a folder that nobody serves from yet.
        now: the present, UTC.

    Returns:
        The keys that are missing, or are others than the published state names: without those the operator has to bring them
        back first.

    Raises:
        ConfigError: the repository or a key is damaged. The operator's to mend.
    """
    files = [*(home.keys / f"{name}.key" for name in KEY_NAMES), home.server_key_file, home.intermediate_file]
    missing = tuple(str(file.relative_to(home.root)) for file in files if not file.is_file())
    repository = ReleaseRepository(home.repository)
    if missing or not repository.exists:
        return missing
    with repository.lock():
        present = repository.read()
        signers = load_signers(home, root=present.root.signed, targets=present.targets.signed)
        others = unentitled_keys(signers, present=present)
        if "timestamp" not in others:
            following = renewed_timestamp(signers, present=present, now=now, versions=VERSIONS)
            repository.switch({"timestamp.json": following.timestamp.to_bytes()})
    return tuple(str(key_file(home, name=name).relative_to(home.root)) for name in others)
