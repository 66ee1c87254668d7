"""The one listener that strangers reach, who may stand between, and what a certificate may ask for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from enrolment_harness import Desk, open_desk

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.enrolment import fetch_bundle, join
from ringfence.client.identity import make_request, read_identity
from ringfence.client.identity_client import IdentityClient, renew_identity
from ringfence.model.channels import open_server_tls_channel
from ringfence.model.errors import (
    ConnectionFailedError,
    NotFoundError,
    PeerError,
    RingfenceError,
    TooOftenError,
)
from ringfence.model.key_files import load_transport_key, public_pem
from ringfence.model.wire import enrollment_service_pb2 as wire
from ringfence.model.wire import enrollment_service_pb2_grpc as wire_grpc
from ringfence.model.wire import identity_service_pb2 as identity_wire
from ringfence.model.wire import release_service_pb2 as release_wire
from ringfence.model.wire.identity_service_pb2_grpc import IdentityServiceStub
from ringfence.model.wire.release_service_pb2_grpc import ReleaseServiceStub
from ringfence.model.wire_errors import from_call
from ringfence.server.certificate_authority import (
    create_certificate_authority,
    load_certificate_authority,
    write_server_certificate,
)
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.enrolment_service import CALLS_AT_ONCE, AddressAdmission, address_of
from ringfence.server.rate_limit import RateLimit

ENROLL = "/ringfence.v1.EnrollmentService/Enroll"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One coordinator; each test has names of its own."""
    with open_desk(tmp_path_factory.mktemp("coordinator")) as opened:
        yield opened


@pytest.fixture
def stranger(desk: Desk) -> Iterator[grpc.Channel]:
    """A connection of somebody who has nothing but the address."""
    with open_server_tls_channel(
        desk.running.enrolment_address, ca=desk.home.ca_file.read_bytes()
    ) as channel:
        yield channel


@dataclass
class Impostor(wire_grpc.EnrollmentServiceServicer):
    """Serves a bundle in the coordinator's place, and keeps every secret that it is given."""

    bundle: bytes
    secrets: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)

    def GetTrustBundle(self, request, context):  # noqa: N802 - the name in the .proto file
        self.asked.set()
        answer = wire.GetTrustBundleResponse(content=self.bundle)
        answer.coordinator_time.FromDatetime(datetime.now(UTC))
        return answer

    def Enroll(self, request, context):  # noqa: N802 - the name in the .proto file
        self.secrets.append(request.secret)
        return wire.EnrollResponse()


@contextmanager
def standing_between(bundle: bytes, folder: Path, *, own_authority: bool) -> Iterator[tuple[Impostor, str]]:
    """Listen with a certificate of another authority for the same names; give the address."""
    home = CoordinatorHome(folder).create()
    now = datetime.now(UTC)
    authority = create_certificate_authority(home, federation="example", now=now)
    write_server_certificate(home, authority=authority, names=("localhost", "127.0.0.1"), now=now)
    if own_authority:
        bundle = json.dumps(json.loads(bundle) | {"ca": home.ca_file.read_text()}).encode()
    impostor = Impostor(bundle)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    wire_grpc.add_EnrollmentServiceServicer_to_server(impostor, server)
    pair = (home.server_key_file.read_bytes(), home.server_certificate_file.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield impostor, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)


@pytest.mark.parametrize("bundle", ["its own", "the right one"])
def test_whoever_stands_between_gets_no_secret(desk: Desk, tmp_path: Path, bundle: str) -> None:
    name = f"between-{bundle.replace(' ', '-')}"
    invitation = desk.invite(name)
    right = (desk.home.bundles / f"{invitation.bundle_sha256}.json").read_bytes()
    with standing_between(right, tmp_path / "impostor", own_authority=bundle == "its own") as (
        impostor,
        address,
    ):
        with pytest.raises(PeerError) as caught:
            desk.join(replace(invitation, address=address), folder=name)
        assert impostor.asked.is_set()
        assert impostor.secrets == []
    assert caught.value.hint
    assert not desk.folder(name).certificate_file.exists()
    desk.join(invitation, folder=name)  # the invitation was not used


def test_an_invitation_of_another_coordinator_is_told_apart(desk: Desk, tmp_path: Path) -> None:
    with open_desk(tmp_path / "other") as other:
        foreign = replace(other.invite("acme"), address=desk.running.enrolment_address)
        with pytest.raises(NotFoundError, match="never made such an invitation"):
            desk.join(foreign, folder="lost")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_is_named_and_the_invitation_stays_good(desk: Desk, hours: int) -> None:
    name = f"clock-{hours}".replace("--", "-behind-")
    invitation = desk.invite(name)
    home = desk.folder(name)
    skewed = timedelta(hours=hours)
    with pytest.raises(PeerError, match="60 minutes") as caught:
        join(home, invitation=invitation, now=lambda: datetime.now(UTC) + skewed)
    assert ("ahead" if hours > 0 else "behind") in caught.value.message
    assert "Set the clock" in caught.value.hint
    assert not home.root.exists()
    desk.join(invitation, folder=name)


def test_a_clock_that_is_years_off_is_named_too(desk: Desk) -> None:
    with pytest.raises(PeerError, match="clock says"):
        fetch_bundle(desk.invite("years"), now=datetime.now(UTC) - timedelta(days=900))


def test_nobody_listening_is_said_with_what_to_check(desk: Desk) -> None:
    closed = replace(desk.invite("closed"), address="127.0.0.1:1")
    with pytest.raises(ConnectionFailedError, match="cannot be reached") as caught:
        desk.join(closed, folder="closed")
    assert "firewall" in caught.value.hint


def test_a_request_that_is_too_large_or_is_no_message_harms_nobody(
    desk: Desk, stranger: grpc.Channel
) -> None:
    raw = stranger.unary_unary(ENROLL)
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\n" + b"\xff" * (1 << 20), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for content in (b"\xff\xff\xff", b"\n\xff", b"hello", bytes(range(256)) * 100):
        with pytest.raises(grpc.RpcError) as caught:
            raw(content, timeout=60)
        assert isinstance(from_call(caught.value), PeerError)
    desk.join(desk.invite("after-garbage"), folder="after-garbage")


@pytest.mark.parametrize(
    "message",
    [
        wire.EnrollRequest(),
        wire.EnrollRequest(
            secret=b"x" * 20, csr="x", approval_public_key="x", identity_public_key="x", size_class=3
        ),
        wire.EnrollRequest(
            secret=b"x" * 20, csr="x", approval_public_key="x", identity_public_key="x", size_class=1
        ),
        wire.EnrollRequest(secret=b"", csr="x" * 30_000, approval_public_key="x", identity_public_key="x"),
    ],
    ids=["empty", "a size that tells the number", "an unknown secret", "a long request"],
)
def test_a_request_that_makes_no_sense_is_refused_in_our_words(
    stranger: grpc.Channel, message: wire.EnrollRequest
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        wire_grpc.EnrollmentServiceStub(stranger).Enroll(message, timeout=60)
    error = from_call(caught.value)
    assert isinstance(error, PeerError)
    assert error.hint


@pytest.mark.parametrize("name", ["../intermediate", "0" * 64, "", "a" * 63, "../../pki/intermediate.pem\0"])
def test_nothing_but_bundles_is_served(stranger: grpc.Channel, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        wire_grpc.EnrollmentServiceStub(stranger).GetTrustBundle(
            wire.GetTrustBundleRequest(sha256=name), timeout=60
        )
    assert isinstance(from_call(caught.value), NotFoundError)


def test_a_call_without_a_deadline_is_refused(stranger: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        wire_grpc.EnrollmentServiceStub(stranger).Enroll(wire.EnrollRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_strangers_reach_no_other_service_there(stranger: grpc.Channel) -> None:
    for call in (
        lambda: ReleaseServiceStub(stranger).ListReleases(release_wire.ListReleasesRequest(), timeout=60),
        lambda: IdentityServiceStub(stranger).WhoAmI(identity_wire.WhoAmIRequest(), timeout=60),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_guessing_from_one_address_is_slowed_down(tmp_path: Path) -> None:
    with open_desk(tmp_path) as desk:
        address = desk.running.enrolment_address
        with open_server_tls_channel(address, ca=desk.home.ca_file.read_bytes()) as channel:
            stub = wire_grpc.EnrollmentServiceStub(channel)
            refused = [_guess(stub) for _ in range(int(CALLS_AT_ONCE) * 3)]
    late = [error for error in refused if isinstance(error, TooOftenError)]
    assert late
    assert late[0].retry_after_s > 0


def test_addresses_have_a_share_each() -> None:
    class Call:
        def __init__(self, peer: str) -> None:
            self._peer = peer

        def peer(self) -> str:
            return self._peer

    admission = AddressAdmission(RateLimit(per_second=1, burst=1), clock=lambda: 0.0)

    async def call(peer: str) -> None:
        async with admission.admitted(Call(peer)):
            pass

    asyncio.run(call("ipv4:192.0.2.1:1"))
    with pytest.raises(TooOftenError):
        asyncio.run(call("ipv4:192.0.2.1:2"))
    asyncio.run(call("ipv4:192.0.2.2:1"))


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("ipv4:192.0.2.7:50000", "192.0.2.7"),
        ("ipv6:[2001:db8:1:2::7]:50000", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::8%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("unix:/a", "unix:/a"),
    ],
)
def test_an_address_is_what_one_caller_can_change_least(peer: str, counted: str) -> None:
    assert address_of(peer) == counted


def test_renewing_gives_the_caller_its_own_name_and_key_and_nothing_else(desk: Desk) -> None:
    for name in ("own", "others"):
        desk.join(desk.invite(name), folder=name)
    home, other = desk.folder("own"), desk.folder("others")
    before = home.certificate_file.read_bytes()
    renewed = renew_identity(home, now=datetime.now(UTC))
    assert home.certificate_file.read_bytes() != before
    assert renewed.identity.member == "own"
    assert renewed.identity.public_key == public_pem(load_transport_key(home.key_file).public_key())
    # Another member's certificate is public; without its key it opens nothing.
    home.certificate_file.write_bytes(other.certificate_file.read_bytes())
    with open_release_channel(home) as channel, pytest.raises(RingfenceError):
        IdentityClient(channel).renew()


def test_an_answer_with_another_members_certificate_is_not_installed(desk: Desk) -> None:
    from ringfence.client.identity import install_certificate

    for name in ("mine", "not-mine"):
        desk.join(desk.invite(name), folder=name)
    home = desk.folder("mine")
    before = home.certificate_file.read_bytes()
    authority = load_certificate_authority(desk.home, federation="example")
    csr = make_request(home).csr.encode()
    wrong = (
        desk.folder("not-mine").certificate_file.read_text(),
        authority.issue_member_certificate(csr, member="not-mine", now=datetime.now(UTC)).decode(),
    )
    for chain in wrong:
        with pytest.raises(PeerError):
            install_certificate(home, certificate=chain, now=datetime.now(UTC))
    assert home.certificate_file.read_bytes() == before


def test_suspension_and_leaving_hold_from_the_next_call_on_an_open_connection(desk: Desk) -> None:
    desk.join(desk.invite("watched"), folder="watched")
    with open_release_channel(desk.folder("watched")) as channel:
        client = IdentityClient(channel)
        assert client.who_am_i().member == "watched"
        desk.membership.suspend("watched")
        for call in (client.who_am_i, client.renew, client.leave):
            with pytest.raises(ConnectionFailedError):
                call()
        desk.membership.resume("watched")
        client.leave()
        with pytest.raises(ConnectionFailedError):
            client.who_am_i()
    assert desk.enrolment.members.get("watched").status == "removed"
    assert [action for action, subject in desk.actions if subject == "watched"] == [
        "member.invite",
        "member.admit",
        "member.suspend",
        "member.resume",
        "member.leave",
    ]


def test_a_certificate_of_a_replaced_key_is_refused_at_once(desk: Desk) -> None:
    desk.join(desk.invite("replaced"), folder="replaced")
    home = desk.folder("replaced")
    old = home.key_file.read_bytes(), home.certificate_file.read_bytes()
    home.key_file.unlink()
    desk.join(desk.invite("replaced", again=True), folder="replaced")
    assert read_identity(home).identity.member == "replaced"
    home.key_file.write_bytes(old[0])
    home.certificate_file.write_bytes(old[1])
    with open_release_channel(home) as channel, pytest.raises(ConnectionFailedError):
        IdentityClient(channel).who_am_i()


def test_a_certificate_that_ran_out_is_not_renewed_by_itself(desk: Desk) -> None:
    desk.join(desk.invite("asleep"), folder="asleep")
    home = desk.folder("asleep")
    authority = load_certificate_authority(desk.home, federation="example")
    csr = make_request(home).csr.encode()
    past = authority.issue_member_certificate(
        csr, member="asleep", now=datetime.now(UTC) - timedelta(days=7, hours=12)
    )
    home.certificate_file.write_bytes(past)
    with open_release_channel(home) as channel, pytest.raises(RingfenceError):
        IdentityClient(channel).renew()
    with pytest.raises(ConnectionFailedError, match="ran out") as caught:
        renew_identity(home, now=datetime.now(UTC))
    assert "member invite asleep --again" in caught.value.hint
    assert "ringfence join" in caught.value.hint
    desk.join(desk.invite("asleep", again=True), folder="asleep")
    assert renew_identity(home, now=datetime.now(UTC)).expires_at > datetime.now(UTC)


def test_the_certificates_name_one_member_each_and_the_chain_ends_at_the_root(desk: Desk) -> None:
    desk.join(desk.invite("chained"), folder="chained")
    leaf, intermediate = x509.load_pem_x509_certificates(desk.folder("chained").certificate_file.read_bytes())
    root = x509.load_pem_x509_certificate(desk.folder("chained").ca_file.read_bytes())
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)


def _guess(stub: wire_grpc.EnrollmentServiceStub) -> RingfenceError | None:
    request = wire.GetTrustBundleRequest(sha256="0" * 64)
    try:
        stub.GetTrustBundle(request, timeout=60)
    except grpc.RpcError as error:
        return from_call(error)
    return None
