"""IdentityService: how the coordinator sees a member, a new certificate for its key, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import grpc.aio
from cryptography import x509
from google.protobuf.timestamp_pb2 import Timestamp

from ringfence.model.errors import TooOftenError
from ringfence.model.wire import identity_service_pb2 as wire
from ringfence.model.wire import identity_service_pb2_grpc as wire_grpc
from ringfence.server.call_guard import Context, calling_member
from ringfence.server.membership import Membership
from ringfence.server.rate_limit import RateLimit

SERVICE = "ringfence.v1.IdentityService"
RENEWALS_PER_HOUR = 5.0
RENEWALS_AT_ONCE = 5.0
"""A member renews once in a week, and again where the answer was lost. Each is a row for ever and the writer's turn."""


def _new_limit() -> RateLimit:
    return RateLimit(per_second=RENEWALS_PER_HOUR / 3600, burst=RENEWALS_AT_ONCE)


class IdentityService(wire_grpc.IdentityServiceServicer):
    """Serves each active member, and never in another's name: no request says whom it is about.

    Args:
        membership: changes what is recorded of members.
        federation: identifier of the federation.
        now: returns the present, UTC.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        federation: str,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._membership = membership
        self._federation = federation
        self._now = now
        self._clock = clock
        self._renewals = _new_limit()

    async def WhoAmI(  # noqa: N802 - the name in the .proto file
        self, request: wire.WhoAmIRequest, context: Context
    ) -> wire.WhoAmIResponse:
        """Say who the caller is."""
        caller = calling_member()
        shown = x509.load_pem_x509_certificate(next(iter(context.auth_context()["x509_pem_cert"])))
        return wire.WhoAmIResponse(
            federation=self._federation,
            member=caller.id,
            spiffe_id=caller.spiffe_id,
            certificate_expires_at=_timestamp(shown.not_valid_after_utc),
            is_in_fleet=caller.node_id is not None,
            coordinator_time=_timestamp(self._now()),
            size_class=caller.size_class,
        )

    async def Renew(  # noqa: N802 - the name in the .proto file
        self, request: wire.RenewRequest, context: Context
    ) -> wire.RenewResponse:
        """Issue a new certificate for the key that the caller has just proven to hold, a few times an hour at most."""
        caller = calling_member()
        wait_s = self._renewals.wait_s(caller.id, now=self._clock())
        if wait_s > 0:
            raise TooOftenError(
                "This member's certificate was renewed only just now, more than once.",
                hint="It has a week; the agent renews it by itself.",
                retry_after_s=wait_s,
            )
        renewed = await asyncio.to_thread(self._membership.renew, caller)
        return wire.RenewResponse(certificate_chain=renewed.certificate)

    async def Leave(  # noqa: N802 - the name in the .proto file
        self, request: wire.LeaveRequest, context: Context
    ) -> wire.LeaveResponse:
        """Serve the caller no more, from its next call on."""
        caller = calling_member()
        await asyncio.to_thread(self._membership.leave, caller.id)
        return wire.LeaveResponse()


def add_identity_service(
    server: grpc.aio.Server, *, membership: Membership, federation: str, now: Callable[[], datetime]
) -> None:
    """Have a server with mutual TLS and a guard serve identities too."""
    wire_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(membership, federation=federation, now=now), server
    )


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made
