"""Joining: fetch what the invitation pins, believe it only then, hand in the secret and this company's keys.

Nothing secret leaves before the coordinator has shown, by the hash in the invitation, that it is the one who invited.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from cryptography import x509

from ringfence.client.departures import record_departure
from ringfence.client.identity import DEFAULT_SIZE_CLASS, check_bundle, install_identity, make_request
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.model.certificates import CLOCK_ALLOWANCE
from ringfence.model.channels import CALL_DEADLINE_S, open_server_tls_channel
from ringfence.model.errors import ConnectionFailedError, DeadlineError, PeerError
from ringfence.model.invitation import Invitation
from ringfence.model.joining import JoinRequest, TrustBundle, read_bundle
from ringfence.model.settings_file import split_address
from ringfence.model.wire import enrollment_service_pb2 as wire
from ringfence.model.wire.enrollment_service_pb2_grpc import EnrollmentServiceStub
from ringfence.model.wire_errors import from_call

_HANDSHAKE_S = 10.0
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Joined:
    """A company that became a member.

    Attributes:
        settings: what was written for it.
        is_founding: the members have still to agree on who approves releases.
    """

    settings: MemberSettings
    is_founding: bool


def join(
    home: MemberHome,
    *,
    invitation: Invitation,
    now: Callable[[], datetime],
    size_class: int = DEFAULT_SIZE_CLASS,
    files: Sequence[str] = (),
    wait_s: float = 0.0,
    on_awaited: Callable[[JoinRequest], None] = lambda _request: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Joined:
    """Become a member by an invitation; run again after any failure, it goes on where it stopped.

    Args:
        home: the member's folder; made if missing.
        invitation: from the coordinator.
        now: returns the present, UTC.
        size_class: power of two near the number of conversations; it becomes public. What was asked for with this very
            invitation before stays.
        files: JSONL files of conversations, for the settings.
        wait_s: how long to wait for somebody at the coordinator to approve, where that is asked for.
        on_awaited: is told once when the wait begins.
        sleep: waits some seconds.

    Raises:
        ConnectionFailedError: the coordinator cannot be reached or refuses the invitation.
        PeerError: who answers is not who invited, a clock is wrong, or what was issued does not fit.
        ConfigError: the folder cannot be used. The operator's to mend.
        DeadlineError: nobody approved in time; the same invitation may be used again.
    """
    bundle = fetch_bundle(invitation, now=now())
    check_bundle(home, bundle=bundle)
    request = make_request(home, size_class=size_class, invitation=invitation.id)
    record_departure(
        home,
        kind="join-request",
        destination=invitation.address,
        content=request.model_dump_json().encode(),
    )
    deadline = time.monotonic() + wait_s
    with open_server_tls_channel(invitation.address, ca=bundle.ca.encode()) as channel:
        told = False
        while True:
            answer = _enrol(channel, secret=invitation.secret, request=request)
            if answer.WhichOneof("outcome") == "issued":
                break
            if not told:
                told = True
                on_awaited(request)
            pause_s = min(max(answer.awaited.ask_again_after.seconds, 1), _LONGEST_WAIT_S)
            if time.monotonic() + pause_s > deadline:
                raise DeadlineError(
                    "The coordinator has not approved this company yet.",
                    hint="Run the same command again later; the invitation stays good for these keys.",
                )
            sleep(pause_s)
    settings = install_identity(
        home,
        bundle=bundle,
        certificate=answer.issued.certificate_chain,
        now=now(),
        size_class=request.size_class,
        files=files,
    )
    return Joined(settings, is_founding=not home.root_file.exists())


def fetch_bundle(invitation: Invitation, *, now: datetime) -> TrustBundle:
    """Return what an invitation pins.

    The connection is believed by nobody: whatever certificate is shown there is taken, and the hash decides.

    Args:
        invitation: from the coordinator.
        now: the present, UTC.

    Raises:
        ConnectionFailedError: nobody answers there.
        PeerError: who answers is not who invited, or this machine's clock differs from the coordinator's.
    """
    shown = _shown_certificate(invitation.address)
    if not shown.not_valid_before_utc <= now < shown.not_valid_after_utc:
        raise PeerError(
            f"The coordinator's certificate holds from {shown.not_valid_before_utc:%Y-%m-%d %H:%M} to"
            f" {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}.",
            hint="Set this machine's clock, or tell the coordinator that its certificate has run out.",
        )
    from cryptography.hazmat.primitives.serialization import Encoding

    with open_server_tls_channel(invitation.address, ca=shown.public_bytes(Encoding.PEM)) as channel:
        request = wire.GetTrustBundleRequest(sha256=invitation.bundle_sha256)
        try:
            answer = EnrollmentServiceStub(channel).GetTrustBundle(request, timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
    bundle = read_bundle(answer.content, sha256=invitation.bundle_sha256)
    _compare_clocks(answer.coordinator_time.ToDatetime(tzinfo=UTC), now=now)
    return bundle


def _enrol(channel: grpc.Channel, *, secret: bytes, request: JoinRequest) -> wire.EnrollResponse:
    message = wire.EnrollRequest(secret=secret, **request.model_dump())
    try:
        answer: wire.EnrollResponse = EnrollmentServiceStub(channel).Enroll(message, timeout=CALL_DEADLINE_S)
    except grpc.RpcError as error:
        raise from_call(error) from error
    if answer.WhichOneof("outcome") is None:
        raise PeerError("The coordinator's answer says nothing.", hint="Check that the versions match.")
    return answer


def _shown_certificate(address: str) -> x509.Certificate:
    """Return the certificate that whoever answers there shows. It proves nothing."""
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    name = host.strip("[]")
    try:
        with (
            socket.create_connection((name, port), timeout=_HANDSHAKE_S) as raw,
            context.wrap_socket(raw, server_hostname=name) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
    except OSError as error:
        raise ConnectionFailedError(
            f"The coordinator cannot be reached at {address}.",
            hint="Check the network and the firewall: outbound TCP to this address and port must be open.",
        ) from error
    try:
        return x509.load_der_x509_certificate(shown or b"")
    except ValueError as error:
        raise PeerError(
            "What answers there is not a coordinator.", hint="Check the network in between."
        ) from error


def _compare_clocks(theirs: datetime, *, now: datetime) -> None:
    apart = now - theirs
    if abs(apart) > CLOCK_ALLOWANCE:
        minutes = round(abs(apart).total_seconds() / 60)
        raise PeerError(
            f"This machine's clock is {minutes} minutes {'ahead of' if apart > CLOCK_ALLOWANCE else 'behind'} the"
            " coordinator's.",
            hint="Set the clock, for instance with NTP, and run the same command again: the invitation was not used.",
        )
