"""The member's own identity at the coordinator: who it is there, a new certificate, the end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.departures import record_departure
from ringfence.client.identity import InstalledIdentity, install_certificate
from ringfence.client.identity_expiry import require_valid
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings
from ringfence.model.channels import CALL_DEADLINE_S
from ringfence.model.trust_chain import readable
from ringfence.model.wire import identity_service_pb2 as wire
from ringfence.model.wire.identity_service_pb2_grpc import IdentityServiceStub
from ringfence.model.wire_errors import from_call


@dataclass(frozen=True, slots=True)
class SeenIdentity:
    """A member as the coordinator sees it.

    Attributes:
        federation: identifier of the federation.
        member: the member's identifier.
        expires_at: when the certificate of this connection ends, UTC.
        is_in_fleet: whether the fleet knows the member's key, so that its agent can take part.
        coordinator_time: the coordinator's clock, UTC.
        size_class: as recorded; public.
    """

    federation: str
    member: str
    expires_at: datetime
    is_in_fleet: bool
    coordinator_time: datetime
    size_class: int


class IdentityClient:
    """The coordinator's identity service, over the member's own connection.

    Args:
        channel: to the coordinator, with the member's certificate.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = IdentityServiceStub(channel)

    def who_am_i(self) -> SeenIdentity:
        """Return who this member is in the coordinator's eyes.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        try:
            answer = self._stub.WhoAmI(wire.WhoAmIRequest(), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return SeenIdentity(
            federation=readable(answer.federation),
            member=readable(answer.member),
            expires_at=answer.certificate_expires_at.ToDatetime(tzinfo=UTC),
            is_in_fleet=answer.is_in_fleet,
            coordinator_time=answer.coordinator_time.ToDatetime(tzinfo=UTC),
            size_class=answer.size_class,
        )

    def renew(self) -> str:
        """Return the chain of a new certificate for the present one's key, PEM; nothing is installed.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        try:
            answer = self._stub.Renew(wire.RenewRequest(), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return str(answer.certificate_chain)

    def leave(self) -> None:
        """End the membership.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        try:
            self._stub.Leave(wire.LeaveRequest(), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error


def renew_identity(home: MemberHome, *, now: datetime) -> InstalledIdentity:
    """Fetch a new certificate for this member's key and install it; connections opened from then on use it.

    Raises:
        IdentityExpiredError: the present one has run out; only a new invitation helps.
        AuditBrokenError, ConfigError: it cannot be recorded, and so nothing is sent.
        RingfenceError: the coordinator cannot be reached, refuses, or sent one that does not fit.
    """
    require_valid(home, now=now)
    record_departure(home, kind="renewal", destination=load_member_settings(home).release_address)
    with open_release_channel(home) as channel:
        renewed = IdentityClient(channel).renew()
    return install_certificate(home, certificate=renewed, now=now)
