"""The offline root, the intermediate that signs, and what each certificate may be used for."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import CliRunner

from ringfence.client.identity import check_certificate
from ringfence.model.errors import ConfigError, PeerError
from ringfence.server import command_line
from ringfence.server.certificate_authority import (
    key_of_request,
    load_certificate_authority,
    renew_certificate_authority,
    server_certificate_is_due,
    write_server_certificate,
)
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.root_authority import key_usage

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(made, settings=CoordinatorSettings(federation="example"), now=NOW)
    return made


def test_the_intermediate_may_certify_members_and_servers_and_no_other_authority(
    home: CoordinatorHome,
) -> None:
    root = x509.load_pem_x509_certificate(home.ca_file.read_bytes())
    authority = load_certificate_authority(home, federation="example")
    authority.certificate.verify_directly_issued_by(root)
    assert basic(root) == (True, 1)
    assert basic(authority.certificate) == (True, 0)
    assert authority.certificate.not_valid_after_utc - NOW < timedelta(days=401)
    assert home.intermediate_file.stat().st_mode & 0o777 == 0o600
    assert home.root_key_file.stat().st_mode & 0o777 == 0o600


def test_an_authority_that_the_intermediate_signed_is_not_believed(home: CoordinatorHome) -> None:
    authority = load_certificate_authority(home, federation="example")
    key = ec.generate_private_key(ec.SECP256R1())
    rogue = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rogue")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    below = type(authority)("example", rogue, key)
    chain = below.issue_member_certificate(request_by(key), member="acme", now=NOW)
    chain += authority.certificate.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(PeerError):
        check_certificate(chain, ca=home.ca_file.read_bytes(), now=NOW)


def test_the_root_may_be_away_while_members_are_certified_and_comes_back_for_a_new_intermediate(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    away = tmp_path / "root.key"
    home.root_key_file.rename(away)
    ca = home.ca_file.read_bytes()
    first = load_certificate_authority(home, federation="example")
    old = first.issue_member_certificate(request(), member="acme", now=NOW)
    check_certificate(old, ca=ca, now=NOW)
    second = renew_certificate_authority(home, federation="example", root_key=away, now=NOW)
    assert second.certificate.public_key() != first.certificate.public_key()
    for authority in (second, load_certificate_authority(home, federation="example")):
        new = authority.issue_member_certificate(request(), member="acme", now=NOW)
        check_certificate(new, ca=ca, now=NOW)
    check_certificate(old, ca=ca, now=NOW)


def test_a_key_that_is_not_the_roots_signs_no_intermediate(home: CoordinatorHome) -> None:
    before = home.intermediate_file.read_bytes()
    with pytest.raises(ConfigError, match="not the key of this federation's root"):
        renew_certificate_authority(home, federation="example", root_key=home.server_key_file, now=NOW)
    assert home.intermediate_file.read_bytes() == before


@pytest.mark.parametrize("kind", ["p384", "rsa"])
def test_only_keys_on_p256_are_certified(kind: str) -> None:
    key = (
        ec.generate_private_key(ec.SECP384R1())
        if kind == "p384"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    with pytest.raises(PeerError, match="P-256"):
        key_of_request(request_by(key))


@pytest.mark.parametrize("days", [0, 59, 61])
def test_the_listeners_certificate_is_due_after_two_thirds_of_its_life(
    home: CoordinatorHome, days: int
) -> None:
    names = ("localhost", "127.0.0.1")
    later = NOW + timedelta(days=days)
    assert server_certificate_is_due(home, names=names, now=later) is (days == 61)
    authority = load_certificate_authority(home, federation="example")
    write_server_certificate(home, authority=authority, names=names, now=later)
    assert not server_certificate_is_due(home, names=names, now=later)
    assert server_certificate_is_due(home, names=("localhost", "192.0.2.7"), now=later)


def test_a_coordinator_with_a_name_of_its_own_still_reaches_its_own_loopback_listener(
    home: CoordinatorHome,
) -> None:
    """On a real host nobody names 127.0.0.1, and the run starter verifies the private listener by it all the same."""
    now = datetime.now(UTC)
    authority = load_certificate_authority(home, federation="example")
    write_server_certificate(home, authority=authority, names=("fleet.example.org",), now=now)
    made = x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fleet.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not server_certificate_is_due(home, names=("fleet.example.org",), now=now)


def test_a_key_of_the_listeners_that_is_gone_is_made_anew_while_the_intermediate_is_there(
    home: CoordinatorHome,
) -> None:
    names = ("localhost", "127.0.0.1")
    assert not server_certificate_is_due(home, names=names, now=NOW)
    home.server_key_file.unlink()
    assert server_certificate_is_due(home, names=names, now=NOW)
    authority = load_certificate_authority(home, federation="example")
    write_server_certificate(home, authority=authority, names=names, now=NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate_file, home.server_key_file)  # they belong together
    assert not server_certificate_is_due(home, names=names, now=NOW)


def test_the_commands_show_the_authority_and_renew_it(home: CoordinatorHome, tmp_path: Path) -> None:
    away = tmp_path / "root.key"
    home.root_key_file.rename(away)
    before = home.intermediate_file.read_bytes()
    run = CliRunner().invoke
    renewed = run(
        command_line.application, ["ca", "renew", "--root-key", str(away), "--home", str(home.root)]
    )
    assert renewed.exit_code == 0
    assert home.intermediate_file.read_bytes() != before
    shown = run(command_line.application, ["ca", "show", "--home", str(home.root), "--json"])
    assert json.loads(shown.stdout)["data"]["root_key_is_here"] is False
    assert not away.is_relative_to(home.root)


def basic(certificate: x509.Certificate) -> tuple[bool, int | None]:
    found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return found.ca, found.path_length


def request() -> bytes:
    return request_by(ec.generate_private_key(ec.SECP256R1()))


def request_by(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)
