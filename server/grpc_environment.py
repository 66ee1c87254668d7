"""What gRPC reads from the environment as it first starts in a process: the coordinator sets it before."""

from __future__ import annotations

import os

_NO_OLDER_TLS = "ECDHE-RSA-AES256-GCM-SHA384"


def settle_grpc() -> None:
    """Have gRPC's listeners speak TLS 1.3 alone, and have gRPC itself write nothing to standard error.

    gRPC's Python has no setting for the oldest TLS that is taken. What it has is the list of the ciphers of TLS 1.2; those of
    1.3 are always there. The listeners' key is EC, so that with a list of ciphers for RSA keys alone no handshake of 1.2 can
    end well. Its own lines, one for each handshake of a stranger that fails, are not in our form and without bound.
    """
    os.environ["GRPC_SSL_CIPHER_SUITES"] = _NO_OLDER_TLS
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
