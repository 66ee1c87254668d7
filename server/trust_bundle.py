"""What invitations pin: the federation's root of certificates, root of releases, addresses and keys, as one file."""

from __future__ import annotations

import base64
import re
from datetime import datetime

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError, NotFoundError
from ringfence.model.joining import TrustBundle, bundle_digest
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.release_trust import ReleaseTrust
from ringfence.server.signing_keys import plan_public_key

_DIGEST = re.compile(r"[0-9a-f]{64}")


def compose_bundle(home: CoordinatorHome, *, settings: CoordinatorSettings, now: datetime) -> TrustBundle:
    """Return what a member that joins now shall believe.

    Args:
        home: the coordinator's folder.
        settings: federation and addresses.
        now: the present, UTC.

    Raises:
        ConfigError: a file of the coordinator is missing. The operator's to mend.
    """
    trust = ReleaseTrust(home, now=lambda: now)
    try:
        ca = home.ca_file.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(
            f"Cannot read {home.ca_file}: {error.strerror}", hint="Restore it from a backup."
        ) from error
    return TrustBundle(
        federation=settings.federation,
        demonstration=settings.demonstration,
        fleet_address=settings.fleet_address_for_members,
        release_address=settings.release_address_for_members,
        enrolment_address=settings.enrolment_address_for_members,
        ca=ca,
        # The founding members join before there is one, agree on it together, and pin what they signed.
        trust_root=base64.b64encode(trust.first_root()).decode("ascii") if trust.repository.exists else None,
        plan_public_key=plan_public_key(home),
    )


def keep_bundle(home: CoordinatorHome, *, bundle: TrustBundle) -> str:
    """Keep a bundle to be served for as long as somebody holds an invitation to it, and return its hash.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    content = bundle.content()
    digest = bundle_digest(content)
    try:
        home.bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(home.bundles / f"{digest}.json", content, mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"Cannot write into {home.bundles}: {error.strerror}", hint="Check the folder and the disk."
        ) from error
    return digest


def kept_bundle(home: CoordinatorHome, *, sha256: str) -> bytes:
    """Return a bundle as it was hashed.

    Raises:
        NotFoundError: no invitation of this coordinator pins it. The asker's fault.
    """
    path = home.bundles / f"{sha256}.json"
    if not _DIGEST.fullmatch(sha256) or not path.is_file():
        raise NotFoundError(
            "This coordinator never made such an invitation.", hint="Ask the coordinator for a new one."
        )
    return path.read_bytes()
