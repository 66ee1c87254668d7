"""How the coordinator answers this member, seen from the member's machine: TLS, clock, admission. One request, nothing sent.

The request is a GET of the fleet gateway's root, which no member may call. It does not touch the agent's own connection, and
how the gateway refuses it tells an active member (404) from one that it does not serve (403).
"""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 63, 64})


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """What came back from the fleet gateway.

    Attributes:
        protocol: of TLS, such as "TLSv1.3"; "" if it did not come about.
        server_expires_at: end of the gateway's certificate, UTC.
        tls_problem: why this member does not believe the gateway; "" if it does.
        tls_fix: what to do about it.
        refused_by: the gateway's TLS alert about this member's certificate; "" for none.
        status: of HTTP; None if there was none.
        server_time: of the answer, UTC, to the second.
    """

    protocol: str = ""
    server_expires_at: datetime | None = None
    tls_problem: str = ""
    tls_fix: str = ""
    refused_by: str = ""
    status: int | None = None
    server_time: datetime | None = None


def ask_gateway(
    host: str, port: int, *, ca_file: Path, certificate_file: Path, key_file: Path, timeout_s: float
) -> GatewayAnswer:
    """Return how the gateway answers this member's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca_file)
        context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as error:
        return GatewayAnswer(
            tls_problem=f"This member's key and certificates cannot be read: {error.strerror or 'damaged'}.",
            tls_fix="Run: ringfence identity show",
        )
    connection = http.client.HTTPSConnection(host.strip("[]"), port, context=context, timeout=timeout_s)
    with closing(connection):
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            problem, fix = explain_verification(error.verify_code, error.verify_message)
            return GatewayAnswer(tls_problem=problem, tls_fix=fix)
        except (OSError, ssl.SSLError) as error:
            return GatewayAnswer(
                tls_problem=f"No TLS came about: {_reason(error)}.",
                tls_fix="Check that fleet_address names the fleet gateway, and that no proxy breaks TLS on the way.",
            )
        protocol, expires_at = _session(connection.sock)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
        except (OSError, ssl.SSLError, http.client.HTTPException) as error:
            # In TLS 1.3 a server judges the client's certificate after the client's handshake is over.
            return GatewayAnswer(protocol, expires_at, refused_by=_reason(error))
        told = None
        with suppress(TypeError, ValueError):
            told = parsedate_to_datetime(response.headers["Date"])
        return GatewayAnswer(protocol, expires_at, status=response.status, server_time=told)


def explain_verification(code: int, message: str) -> tuple[str, str]:
    """Return what OpenSSL's verdict on the gateway's certificate means here, and what to do.

    Args:
        code: X509_V_ERR_*.
        message: OpenSSL's own words.
    """
    if code in _UNKNOWN_ISSUER:
        return (
            "What answers there was not certified by the federation that this member joined.",
            "Check fleet_address, and whether something on the way opens TLS; else ask the coordinator by telephone.",
        )
    if code in _WRONG_NAME:
        return (
            "The gateway's certificate is for another name than fleet_address.",
            "Use the name that the coordinator gave, or have it add this one: server_names in coordinator.toml.",
        )
    if code == _EXPIRED:
        return (
            "The gateway's certificate has expired, by this machine's clock.",
            "Check the clock with `timedatectl`; if it is right, tell the coordinator.",
        )
    if code == _NOT_YET_VALID:
        return (
            "The gateway's certificate is not valid yet, by this machine's clock.",
            "Set the clock: timedatectl set-ntp true.",
        )
    return f"The gateway's certificate is refused: {message}.", "Tell the coordinator."


def _session(connection: object) -> tuple[str, datetime | None]:
    if not isinstance(connection, ssl.SSLSocket):
        return "", None
    certificate = connection.getpeercert() or {}
    ends = certificate.get("notAfter")
    expires_at = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if isinstance(ends, str) else None
    )
    return connection.version() or "", expires_at


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it broke off"
