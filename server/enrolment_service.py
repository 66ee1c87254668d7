"""EnrollmentService: the one listener that a company without a certificate reaches, and the share that each address has."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from ringfence.model.channels import new_server
from ringfence.model.errors import PeerError, TooOftenError
from ringfence.model.joining import JoinRequest
from ringfence.model.plan import describe
from ringfence.model.wire import enrollment_service_pb2 as wire
from ringfence.model.wire import enrollment_service_pb2_grpc as wire_grpc
from ringfence.server.call_guard import CallGuard, Context, StillAdmitted
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.enrolment import Enrolment, Issued
from ringfence.server.listening_certificate import ListeningCertificate, add_port
from ringfence.server.rate_limit import RateLimit
from ringfence.server.trust_bundle import kept_bundle

SERVICE = "ringfence.v1.EnrollmentService"
CALLS_PER_SECOND = 2.0
CALLS_AT_ONCE = 120.0
LARGEST_REQUEST_BYTES = 64 << 10
ASK_AGAIN_S = 5


def _new_limit() -> RateLimit:
    return RateLimit(per_second=CALLS_PER_SECOND, burst=CALLS_AT_ONCE)


@dataclass(slots=True)
class AddressAdmission:
    """Admits anybody, each address within its share: nobody here has shown who it is.

    Attributes:
        limit: calls that each address may make.
        clock: returns monotonic seconds.
    """

    limit: RateLimit = field(default_factory=_new_limit)
    clock: Callable[[], float] = time.monotonic

    @asynccontextmanager
    async def admitted(self, context: Context) -> AsyncIterator[StillAdmitted]:
        """Serve one call of an address within its share.

        Raises:
            TooOftenError: calls come too often from there.
        """
        wait_s = self.limit.wait_s(address_of(context.peer()), now=self.clock())
        if wait_s > 0:
            raise TooOftenError(
                "Calls come too often from this address.", hint="Try again later.", retry_after_s=wait_s
            )
        yield _for_good


async def _for_good() -> None:
    """Calls here are short: whoever was admitted stays so."""


class EnrolmentService(wire_grpc.EnrollmentServiceServicer):
    """Serves trust bundles, and lets the holders of invitations in.

    Args:
        enrolment: decides.
        home: the coordinator's folder, with the bundles.
        now: returns the present, UTC.
    """

    def __init__(self, enrolment: Enrolment, *, home: CoordinatorHome, now: Callable[[], datetime]) -> None:
        self._enrolment = enrolment
        self._home = home
        self._now = now

    async def GetTrustBundle(  # noqa: N802 - the name in the .proto file
        self, request: wire.GetTrustBundleRequest, context: Context
    ) -> wire.GetTrustBundleResponse:
        """Return the bundle that an invitation pins, and what time it is here."""
        clock = Timestamp()
        clock.FromDatetime(self._now())
        return wire.GetTrustBundleResponse(
            content=await asyncio.to_thread(kept_bundle, self._home, sha256=request.sha256),
            coordinator_time=clock,
        )

    async def Enroll(  # noqa: N802 - the name in the .proto file
        self, request: wire.EnrollRequest, context: Context
    ) -> wire.EnrollResponse:
        """Burn an invitation and certify the company's key, or say that somebody has to approve first."""
        try:
            asked = JoinRequest(
                csr=request.csr,
                approval_public_key=request.approval_public_key,
                identity_public_key=request.identity_public_key,
                size_class=request.size_class,
            )
        except ValidationError as error:
            refusal = PeerError(
                f"The request is not in the agreed form: {describe(error)}.",
                hint="Join with the installed ringfence.",
            )
            await asyncio.to_thread(
                self._enrolment.note_malformed, request.secret, csr=request.csr, reason=refusal.message
            )
            raise refusal from error
        outcome = await asyncio.to_thread(self._enrolment.enrol, request.secret, asked)
        if isinstance(outcome, Issued):
            issued = wire.IssuedCertificate(member=outcome.member, certificate_chain=outcome.certificate)
            return wire.EnrollResponse(issued=issued)
        return wire.EnrollResponse(
            awaited=wire.AwaitedApproval(ask_again_after=Duration(seconds=ASK_AGAIN_S))
        )


def new_enrolment_server(
    home: CoordinatorHome,
    settings: CoordinatorSettings,
    *,
    enrolment: Enrolment,
    now: Callable[[], datetime],
    admission: AddressAdmission | None = None,
) -> tuple[grpc.aio.Server, int]:
    """Return a server for companies with an invitation, not started, and the port that it took.

    Args:
        home: the coordinator's folder.
        settings: where to listen.
        enrolment: decides.
        now: returns the present, UTC.
        admission: each address's share.

    Raises:
        ConfigError: the certificate is missing, or the address is taken. The operator's to mend.
    """
    server = new_server(
        interceptors=[CallGuard(admission or AddressAdmission())], largest_message_bytes=LARGEST_REQUEST_BYTES
    )
    wire_grpc.add_EnrollmentServiceServicer_to_server(EnrolmentService(enrolment, home=home, now=now), server)
    credentials = ListeningCertificate(home).credentials(ask_callers=False)
    return server, add_port(server, address=settings.enrolment_address, credentials=credentials)


def address_of(peer: str) -> str:
    """Return whose share a call counts against: an IPv4 address, or the /64 network of an IPv6 one.

    Args:
        peer: as gRPC names it, such as ``ipv4:192.0.2.7:50000``.
    """
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
    if kind == "ipv6":
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            return peer
        return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))
    return host or peer
