"""The member's connection to the coordinator's control plane, by its own settings and certificate."""

from __future__ import annotations

import grpc

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings
from ringfence.model.channels import open_channel


def open_release_channel(home: MemberHome) -> grpc.Channel:
    """Return a channel to the release service; it connects on the first call.

    Raises:
        ConfigError: the settings or the identity are missing. The operator's to mend.
    """
    return open_channel(
        load_member_settings(home).release_address,
        ca_file=home.ca_file,
        key_file=home.key_file,
        certificate_file=home.certificate_file,
    )
