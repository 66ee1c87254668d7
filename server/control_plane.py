"""The control plane: one listener with mutual TLS for releases, approvals and health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]  # the stubs leave it out

from ringfence.model.channels import add_mutual_tls_port, new_server
from ringfence.model.errors import RingfenceError
from ringfence.model.settings_file import split_address
from ringfence.model.wire import approval_service_pb2_grpc, release_service_pb2_grpc
from ringfence.server.approval_service import ApprovalService
from ringfence.server.call_guard import CallGuard
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.members import ActiveMembers, MemberRegistry
from ringfence.server.release_service import ReleaseService
from ringfence.server.release_trust import ReleaseTrust

TIMESTAMP_CHECK_S = 3600.0
GRACE_S = 5.0
SERVICES = ("", "ringfence.v1.ReleaseService", "ringfence.v1.ApprovalService")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningControlPlane:
    """A control plane that listens.

    Attributes:
        host: where it listens.
        port: the port that was taken.
        trust: the release repository that it serves.
    """

    host: str
    port: int
    trust: ReleaseTrust

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"


def _utc_now() -> datetime:
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def serve_releases(
    home: CoordinatorHome, settings: CoordinatorSettings, *, now: Callable[[], datetime] = _utc_now
) -> AsyncIterator[RunningControlPlane]:
    """Serve releases and approvals for the length of the block; stop gracefully at its end.

    The timestamp role is signed anew while the service runs. Everything else is signed by commands, so that the
    listening process needs no other key.

    Args:
        home: the coordinator's folder.
        settings: where to listen.
        now: returns the present, UTC.

    Raises:
        ConfigError: the certificate is missing, or the address is taken. The operator's to mend.
    """
    trust = ReleaseTrust(home, now=now)
    members = ActiveMembers(MemberRegistry(open_database(home, settings=settings)))
    server = new_server(interceptors=[CallGuard(members)])
    release_service_pb2_grpc.add_ReleaseServiceServicer_to_server(ReleaseService(trust), server)
    approval_service_pb2_grpc.add_ApprovalServiceServicer_to_server(
        ApprovalService(trust, members=members), server
    )
    condition = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    port = add_mutual_tls_port(
        server,
        address=settings.release_address,
        ca_file=home.ca_file,
        key_file=home.server_key_file,
        certificate_file=home.server_certificate_file,
    )
    await server.start()
    for service in SERVICES:
        await condition.set(service, health_pb2.HealthCheckResponse.SERVING)
    renewing = asyncio.create_task(_keep_timestamp_fresh(trust))
    try:
        yield RunningControlPlane(host=split_address(settings.release_address)[0], port=port, trust=trust)
    finally:
        # Load balancers and members learn first that this instance goes; calls under way may end.
        await condition.enter_graceful_shutdown()
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        await server.stop(GRACE_S)


async def _keep_timestamp_fresh(trust: ReleaseTrust) -> None:
    while True:
        try:
            if trust.repository.exists:
                await asyncio.to_thread(trust.refresh_timestamp)
        except (RingfenceError, OSError) as error:
            # Members keep scoring with what they have; the next attempt may succeed.
            _LOG.error("the timestamp was not renewed: %s", error)
        await asyncio.sleep(TIMESTAMP_CHECK_S)
