"""What an adversary at the fleet's doors can do: raw requests with any certificate, key, path and body."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now as flower_now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from ringfence.client.member_home import MemberHome
from ringfence.model.key_files import load_transport_key


@dataclass(frozen=True)
class Credentials:
    """A client certificate with its key, as files."""

    certificate_file: Path
    key_file: Path

    @classmethod
    def of(cls, member: MemberHome) -> Credentials:
        return cls(member.certificate_file, member.key_file)


class RawCaller:
    """Calls the gateway with the given TLS client certificate, speaking for the given node key.

    Args:
        address: host:port.
        ca_file: verifies the server.
        credentials: shown in the TLS handshake, if any.
        node_key_file: signs Flower's node headers; none are sent without it.
        highest: highest TLS version that is offered.
    """

    def __init__(
        self,
        address: str,
        *,
        ca_file: Path,
        credentials: Credentials | None = None,
        node_key_file: Path | None = None,
        highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca_file)
        context.maximum_version = highest
        if credentials is not None:
            context.load_cert_chain(credentials.certificate_file, credentials.key_file)
        self._address, self._context = address, context
        self._node_key = load_transport_key(node_key_file) if node_key_file is not None else None
        self._client = httpx.Client(base_url=f"https://{address}", verify=context, timeout=30)

    def __enter__(self) -> RawCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self,
        path: str,
        body: bytes = b"",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        chunked: bool = False,
    ) -> httpx.Response:
        """Send one request as a node would send it."""
        sent = {"content-type": "application/protobuf", **self.node_headers(), **(headers or {})}
        content = iter([body[start : start + 65536] for start in range(0, len(body), 65536)])
        return self._client.request(method, path, content=content if chunked else body, headers=sent)

    def connect(self) -> ssl.SSLSocket:
        """Return a connection on which nothing was sent yet."""
        host, _, port = self._address.rpartition(":")
        raw = socket.create_connection((host, int(port)), timeout=60)
        return self._context.wrap_socket(raw, server_hostname=host)

    def begin(self, path: str, *, announced: int, sent: int) -> ssl.SSLSocket:
        """Return a connection on which a request was begun: so many bytes of its body are announced, and so many were sent."""
        connection = self.connect()
        lines = [f"POST {path} HTTP/1.1", "host: coordinator", f"content-length: {announced}"]
        lines += [f"{name}: {value}" for name, value in self.node_headers().items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with contextlib.suppress(OSError):  # it may be answered and ended before all of it was sent
            connection.sendall(b"\0" * sent)
        return connection

    def node_headers(self) -> dict[str, str]:
        """Return Flower's signed node headers."""
        if self._node_key is None:
            return {}
        at = flower_now().isoformat()
        key = public_key_to_bytes(self._node_key.public_key())
        return {
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(key).decode(),
            TIMESTAMP_HEADER: at,
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(self._node_key, at.encode())).decode(),
        }


def issue_credentials(
    folder: Path,
    *,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    valid_from: datetime,
    valid_for: timedelta = timedelta(days=1),
) -> Credentials:
    """Return a client certificate over a key, signed by any authority, for any time."""
    issuer, issuer_key = authority
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid_from)
        .not_valid_after(valid_from + valid_for)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://harness/member/{name}")]),
            critical=True,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = Credentials(folder / f"{name}.pem", folder / f"{name}.key")
    chain = (certificate, issuer)
    made.certificate_file.write_bytes(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    )
    made.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.key_file.chmod(0o600)
    return made


def foreign_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate authority that has nothing to do with the federation."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ringfence harness CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key
