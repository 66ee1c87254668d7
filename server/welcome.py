"""The welcome: what an admitted member needs in order to connect, and to know what to trust."""

from __future__ import annotations

import base64
from datetime import datetime

from ringfence.model.errors import ConfigError
from ringfence.model.joining import WelcomeBundle
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.members import Member
from ringfence.server.release_trust import ReleaseTrust
from ringfence.server.signing_keys import plan_public_key


def compose_welcome(
    home: CoordinatorHome, *, settings: CoordinatorSettings, member: Member, now: datetime
) -> WelcomeBundle:
    """Return the welcome of an active member.

    Args:
        home: the coordinator's folder.
        settings: federation and addresses.
        member: to be welcomed.
        now: the present, UTC.

    Raises:
        ConfigError: the member is suspended, or there is no root of trust yet. The operator's to mend.
    """
    if member.status != "active":
        raise ConfigError(
            f"{member.id} is suspended.",
            hint=f"Resume it first: ringfence-coordinator member resume {member.id}",
        )
    root = ReleaseTrust(home, now=lambda: now).first_root()
    try:
        ca = home.ca_file.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"Cannot read {home.ca_file}: {error.strerror}", hint="Restore it.") from error
    return WelcomeBundle(
        federation=settings.federation,
        member=member.id,
        demonstration=settings.demonstration,
        fleet_address=settings.fleet_address_for_members,
        release_address=settings.release_address_for_members,
        certificate=member.certificate,
        ca=ca,
        trust_root=base64.b64encode(root).decode("ascii"),
        plan_public_key=plan_public_key(home),
        size_class=member.size_class,
    )
