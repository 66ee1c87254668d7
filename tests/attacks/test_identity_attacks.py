"""Who may speak to the control plane, and whose signature counts: tried over real mutual TLS on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trust_harness import TrustFederation, make_trust_federation

from ringfence.client.approvals import sign_draft
from ringfence.client.identity import check_certificate, make_request
from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import write_atomically
from ringfence.model.certificates import identity_of_certificate
from ringfence.model.drafts import Draft, RoleSignature
from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    DeadlineError,
    PeerError,
    PolicyError,
    RingfenceError,
    ThresholdError,
)
from ringfence.model.joining import JoinRequest
from ringfence.model.key_files import load_transport_key
from ringfence.model.wire import release_service_pb2 as wire
from ringfence.model.wire.release_service_pb2_grpc import ReleaseServiceStub
from ringfence.model.wire_errors import from_call
from ringfence.server.admission import admit_member
from ringfence.server.certificate_authority import create_certificate_authority, load_certificate_authority
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.tables import members


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    return make_trust_federation(tmp_path)


def by_a_certificate_of_another_authority(federation: TrustFederation) -> grpc.ChannelCredentials:
    other = CoordinatorHome(federation.root / "other").create()
    authority = create_certificate_authority(other, federation="example", now=federation.clock[0])
    acme = federation.members["acme"]
    csr = _csr(acme)
    chain = authority.issue_member_certificate(csr, member="acme", now=federation.clock[0])
    return _credentials(acme, chain=chain)


def by_a_certificate_that_has_run_out(federation: TrustFederation) -> grpc.ChannelCredentials:
    return _credentials(federation.members["acme"], chain=_issued_for_the_past(federation))


def by_the_coordinators_own_server_certificate(federation: TrustFederation) -> grpc.ChannelCredentials:
    home = federation.home
    return grpc.ssl_channel_credentials(
        home.ca_file.read_bytes(),
        home.server_key_file.read_bytes(),
        home.server_certificate_file.read_bytes(),
    )


def without_a_certificate(federation: TrustFederation) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(federation.home.ca_file.read_bytes())


def by_a_suspended_member(federation: TrustFederation) -> grpc.ChannelCredentials:
    federation.registry.suspend("acme")
    return _credentials(federation.members["acme"])


def by_a_name_that_was_never_admitted(federation: TrustFederation) -> grpc.ChannelCredentials:
    authority = load_certificate_authority(federation.home, federation="example")
    acme = federation.members["acme"]
    chain = authority.issue_member_certificate(_csr(acme), member="delta", now=federation.clock[0])
    return _credentials(acme, chain=chain)


def by_another_members_name_for_ones_own_key(federation: TrustFederation) -> grpc.ChannelCredentials:
    # As after a replaced key: the name is a member's, the key is not the one that is registered for it.
    authority = load_certificate_authority(federation.home, federation="example")
    beta = federation.members["beta"]
    chain = authority.issue_member_certificate(_csr(beta), member="acme", now=federation.clock[0])
    return _credentials(beta, chain=chain)


CALLERS: tuple[Callable[[TrustFederation], grpc.ChannelCredentials], ...] = (
    by_a_certificate_of_another_authority,
    by_a_certificate_that_has_run_out,
    by_the_coordinators_own_server_certificate,
    without_a_certificate,
    by_a_suspended_member,
    by_a_name_that_was_never_admitted,
    by_another_members_name_for_ones_own_key,
)


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
def test_nobody_but_an_active_member_is_served(
    caller: Callable[[TrustFederation], grpc.ChannelCredentials], federation: TrustFederation
) -> None:
    credentials = caller(federation)
    with federation.serving() as address, grpc.secure_channel(address, credentials) as channel:
        stub = ReleaseServiceStub(channel)
        calls: tuple[Callable[[], object], ...] = (
            lambda: stub.ListReleases(wire.ListReleasesRequest(), timeout=60),
            lambda: stub.GetMetadata(wire.GetMetadataRequest(name="timestamp.json"), timeout=60),
            lambda: list(stub.DownloadArtifact(wire.DownloadArtifactRequest(path="x"), timeout=60)),
        )
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert type(from_call(caught.value)) is ConnectionFailedError


def test_an_active_member_is_served_and_the_service_says_that_it_is_healthy(
    federation: TrustFederation,
) -> None:
    with federation.serving() as address, federation.channel("acme", address) as channel:
        stub = ReleaseServiceStub(channel)
        assert stub.GetMetadata(wire.GetMetadataRequest(name="timestamp.json"), timeout=60).content
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="ringfence.v1.ReleaseService")
        assert health.Check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING


def test_a_suspension_holds_from_the_next_call_on_and_ends_with_resume(federation: TrustFederation) -> None:
    with federation.serving() as address, federation.channel("acme", address) as channel:
        stub = ReleaseServiceStub(channel)
        stub.ListReleases(wire.ListReleasesRequest(), timeout=60)
        federation.registry.suspend("acme")
        with pytest.raises(grpc.RpcError):
            stub.ListReleases(wire.ListReleasesRequest(), timeout=60)
        federation.registry.resume("acme")
        stub.ListReleases(wire.ListReleasesRequest(), timeout=60)


@pytest.mark.parametrize("timeout_s", [None, 7200.0])
def test_a_call_without_a_bounded_deadline_is_refused(
    timeout_s: float | None, federation: TrustFederation
) -> None:
    with federation.serving() as address, federation.channel("acme", address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            ReleaseServiceStub(channel).ListReleases(wire.ListReleasesRequest(), timeout=timeout_s)
        assert type(from_call(caught.value)) is DeadlineError


@pytest.mark.parametrize(
    "path",
    [
        "../metadata/timestamp.json",
        "/etc/hostname",
        "blobs/../../.lock",
        "../../keys/snapshot.key",
        "blobs",
        "",
        "\0",
    ],
)
def test_nothing_outside_the_published_files_is_served(path: str, federation: TrustFederation) -> None:
    with federation.serving() as address, federation.channel("acme", address) as channel:
        stub = ReleaseServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.DownloadArtifact(wire.DownloadArtifactRequest(path=path), timeout=60))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetMetadata(wire.GetMetadataRequest(name=path), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_trouble_of_the_coordinators_own_tells_a_member_nothing_about_it(federation: TrustFederation) -> None:
    with open_database(federation.home).transaction() as connection:
        connection.execute(members.update().values(size_class=-7))
    with (
        federation.serving() as address,
        federation.channel("acme", address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ReleaseServiceStub(channel).ListReleases(wire.ListReleasesRequest(), timeout=60)
    found = from_call(caught.value)
    assert type(found) is PeerError
    assert str(federation.root) not in found.message + found.hint + str(caught.value)


def test_a_csr_that_names_another_member_is_issued_for_the_name_that_the_coordinator_gave(
    federation: TrustFederation,
) -> None:
    home = MemberHome(federation.root / "mallory")
    request = make_request(home)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "acme")])
    forged = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example/member/acme")]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(load_transport_key(home.key_file), hashes.SHA256())
    )
    asked = request.model_copy(update={"csr": forged.public_bytes(serialization.Encoding.PEM).decode()})
    member = admit_member(
        asked,
        member="mallory",
        authority=load_certificate_authority(federation.home, federation="example"),
        registry=federation.registry,
        now=federation.clock[0],
    )
    chain = member.certificate.encode()
    assert identity_of_certificate(chain).spiffe_id == "spiffe://example/member/mallory"
    certificate = x509.load_pem_x509_certificate(chain)
    assert not certificate.subject.rdns
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    check_certificate(chain, ca=federation.home.ca_file.read_bytes(), now=federation.clock[0])


def with_a_csr_that_its_key_did_not_sign(federation: TrustFederation, request: JoinRequest) -> JoinRequest:
    theirs = x509.load_pem_x509_csr(_csr(federation.members["acme"]))
    content = bytearray(theirs.public_bytes(serialization.Encoding.DER))
    content[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(content)).public_bytes(serialization.Encoding.PEM)
    return request.model_copy(update={"csr": broken.decode()})


def with_another_members_key(federation: TrustFederation, request: JoinRequest) -> JoinRequest:
    return request.model_copy(update={"csr": _csr(federation.members["acme"]).decode()})


def with_another_members_approval_key(federation: TrustFederation, request: JoinRequest) -> JoinRequest:
    key = federation.registry.get("acme").approval_public_key
    return request.model_copy(update={"approval_public_key": key.replace("\n", "\r\n")})


def with_an_approval_key_of_another_kind(federation: TrustFederation, request: JoinRequest) -> JoinRequest:
    return request.model_copy(
        update={"approval_public_key": federation.registry.get("acme").certificate_public_key}
    )


def with_garbage_for_a_csr(federation: TrustFederation, request: JoinRequest) -> JoinRequest:
    return request.model_copy(update={"csr": "hello"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (with_a_csr_that_its_key_did_not_sign, PeerError),
        (with_another_members_key, ConfigError),
        (with_another_members_approval_key, ConfigError),
        (with_an_approval_key_of_another_kind, PeerError),
        (with_garbage_for_a_csr, PeerError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_request_with_keys_that_are_not_its_own_is_not_admitted(
    spoil: Callable[[TrustFederation, JoinRequest], JoinRequest],
    expected: type[RingfenceError],
    federation: TrustFederation,
) -> None:
    home = MemberHome(federation.root / "mallory")
    request = make_request(home)
    with pytest.raises(expected):
        admit_member(
            spoil(federation, request),
            member="mallory",
            authority=load_certificate_authority(federation.home, federation="example"),
            registry=federation.registry,
            now=federation.clock[0],
        )
    assert [member.id for member in federation.registry.all()] == ["acme", "beta", "gamma"]


@pytest.mark.parametrize("name", ["acme", "coordinator"])
def test_a_name_that_is_taken_is_not_given_again(name: str, federation: TrustFederation) -> None:
    home = MemberHome(federation.root / "mallory")
    request = make_request(home)
    with pytest.raises(ConfigError):
        admit_member(
            request,
            member=name,
            authority=load_certificate_authority(federation.home, federation="example"),
            registry=federation.registry,
            now=federation.clock[0],
        )


def test_a_member_cannot_send_another_members_signature_even_a_right_one(federation: TrustFederation) -> None:
    draft = _open_draft(federation)
    betas = sign_draft(federation.members["beta"], draft=draft, unsafe_unseen=True)
    with federation.serving() as address:
        with pytest.raises(PolicyError):
            federation.approvals("acme", address).submit(draft.id, signatures=betas)
        (role,) = federation.trust.drafts()[0].roles
        assert role.signed_by == ()
        federation.approvals("beta", address).submit(draft.id, signatures=betas)
    (role,) = federation.trust.drafts()[0].roles
    assert role.signed_by == ("beta",)


def claimed_under_ones_own_key_id(own: RoleSignature, theirs: RoleSignature) -> RoleSignature:
    return own.model_copy(update={"signature": theirs.signature})


def claimed_under_their_key_id(own: RoleSignature, theirs: RoleSignature) -> RoleSignature:
    return own.model_copy(update={"key_id": theirs.key_id})


def for_another_role(own: RoleSignature, theirs: RoleSignature) -> RoleSignature:
    return own.model_copy(update={"role": "targets"})


@pytest.mark.parametrize(
    "forge",
    [claimed_under_ones_own_key_id, claimed_under_their_key_id, for_another_role],
    ids=lambda f: f.__name__,
)
def test_a_forged_signature_is_refused_and_leaves_the_draft_as_it_was(
    forge: Callable[[RoleSignature, RoleSignature], RoleSignature], federation: TrustFederation
) -> None:
    draft = _open_draft(federation)
    (own,) = sign_draft(federation.members["acme"], draft=draft, unsafe_unseen=True)
    (theirs,) = sign_draft(federation.members["beta"], draft=draft, unsafe_unseen=True)
    before = federation.trust.get_draft(draft.id)
    with federation.serving() as address, pytest.raises((PeerError, PolicyError)):
        federation.approvals("acme", address).submit(draft.id, signatures=[forge(own, theirs)])
    assert federation.trust.get_draft(draft.id) == before


def test_a_draft_below_its_threshold_is_not_published_however_often_one_member_signs(
    federation: TrustFederation,
) -> None:
    draft = _open_draft(federation)
    for _ in range(3):
        federation.sign(draft, "acme")
    before = federation.metadata
    with pytest.raises(ThresholdError) as caught:
        federation.trust.publish(draft.id)
    assert "beta, gamma" in caught.value.hint
    assert federation.metadata == before
    federation.sign(draft, "gamma")
    federation.trust.publish(draft.id)
    assert [str(release.version) for release in federation.trust.releases("stable")] == ["0.1.0"]


def test_a_draft_file_with_a_signature_written_into_it_is_still_below_its_threshold(
    federation: TrustFederation,
) -> None:
    draft = _open_draft(federation)
    federation.sign(draft, "acme")
    stored = federation.trust.get_draft(draft.id)
    (document,) = stored.documents
    acme = federation.approval_signer("acme").public_key.keyid
    beta = federation.approval_signer("beta").public_key.keyid
    content = json.loads(document.metadata)
    (signature,) = [entry for entry in content["signatures"] if entry["keyid"] == acme]
    content["signatures"].append({**signature, "keyid": beta})
    forged = stored.model_copy(
        update={"documents": (document.model_copy(update={"metadata": json.dumps(content)}),)}
    )
    write_atomically(federation.trust.draft_file(draft.id), forged.model_dump_json().encode())
    with pytest.raises(ThresholdError):
        federation.trust.publish(draft.id)


def _open_draft(federation: TrustFederation) -> Draft:
    federation.catch_up("acme", "beta", "gamma")
    return federation.trust.draft_release(federation.folder("0.1.0"), version="0.1.0")


def _csr(home: MemberHome) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(load_transport_key(home.key_file), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _credentials(home: MemberHome, *, chain: bytes | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        home.ca_file.read_bytes(), home.key_file.read_bytes(), chain or home.certificate_file.read_bytes()
    )


def _issued_for_the_past(federation: TrustFederation) -> bytes:
    """Return acme's certificate as the same authority would have issued it a month ago."""
    authority = load_certificate_authority(federation.home, federation="example")
    now = federation.clock[0]
    key = load_transport_key(federation.members["acme"].key_file).public_key()
    name = x509.UniformResourceIdentifier("spiffe://example/member/acme")
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now - timedelta(days=23))
        .add_extension(x509.SubjectAlternativeName([name]), critical=True)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    ) + authority.certificate.public_bytes(serialization.Encoding.PEM)
