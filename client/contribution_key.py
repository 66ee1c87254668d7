"""The member's secret that orders conversations for the contribution bound and makes its pseudonyms."""

from __future__ import annotations

import os
import secrets

from ringfence.client.member_home import MemberHome
from ringfence.model.errors import ConfigError

_SECRET_BYTES = 32


def contribution_secret(home: MemberHome) -> bytes:
    """Return the secret that orders conversations for the bound, made on first use with mode 0600.

    It never changes: a new order would be a new choice of conversations under the same promise.
    """
    path = home.contribution_key_file
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) != _SECRET_BYTES:
            raise ConfigError(
                f"{path} is damaged.", hint="Restore it from a backup; never make a new one."
            ) from None
        return secret
    secret = secrets.token_bytes(_SECRET_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return secret
