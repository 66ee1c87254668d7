"""Setting up a coordinator: settings, certificate authority, listeners' certificate, signing keys."""

from __future__ import annotations

from datetime import datetime

from ringfence.model.errors import ConfigError
from ringfence.server.certificate_authority import create_certificate_authority, write_server_certificate
from ringfence.server.coordinator_database import create_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, save_coordinator_settings
from ringfence.server.signing_keys import create_signing_keys


def initialise_coordinator(home: CoordinatorHome, *, settings: CoordinatorSettings, now: datetime) -> None:
    """Make everything that a new coordinator needs before it admits its first member.

    Args:
        home: folder to set up; made if missing.
        settings: what the federation is called and where it listens.
        now: the present, UTC.

    Raises:
        ConfigError: a coordinator is set up there already, or the folder cannot be written. The operator's to decide.
    """
    if home.settings_file.exists():
        raise ConfigError(
            f"{home.root} is set up already.",
            hint="Choose another --home, or go on with: ringfence-coordinator member invite NAME",
        )
    home.create()
    authority = create_certificate_authority(home, federation=settings.federation, now=now)
    write_server_certificate(home, authority=authority, names=settings.server_names, now=now)
    create_signing_keys(home)
    create_database(home, settings=settings)
    # Last, because its presence says that the rest is complete.
    save_coordinator_settings(home, settings=settings)
