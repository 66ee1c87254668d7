"""The control plane: one listener for members, one for companies that join, one Unix socket for the coordinator's commands.

Each listener has its services, its guard and its health; they start and stop together, health first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]  # the stubs leave it out
from grpc_reflection.v1alpha import reflection

from ringfence.model.certificates import expires_at
from ringfence.model.channels import new_server
from ringfence.model.errors import RingfenceError
from ringfence.model.settings_file import split_address
from ringfence.model.wire import (
    admin_service_pb2_grpc,
    approval_service_pb2_grpc,
    federation_service_pb2_grpc,
    release_service_pb2_grpc,
)
from ringfence.server.admin_service import AdminService, Listener
from ringfence.server.admin_socket import add_admin_port
from ringfence.server.approval_service import ApprovalService
from ringfence.server.audit_events import AuditEvents
from ringfence.server.call_guard import AnyOperator, CallGuard
from ringfence.server.control_metrics import ControlMetrics
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.enrolment import Enrolment
from ringfence.server.enrolment_service import SERVICE as ENROLMENT_SERVICE
from ringfence.server.enrolment_service import new_enrolment_server
from ringfence.server.federation_service import FederationService
from ringfence.server.identity_service import SERVICE as IDENTITY_SERVICE
from ringfence.server.identity_service import add_identity_service
from ringfence.server.listening_certificate import ListeningCertificate, add_port
from ringfence.server.member_admission import MemberAdmission
from ringfence.server.members import ActiveMembers, MemberRegistry
from ringfence.server.membership import Membership
from ringfence.server.metrics_listener import serve_metrics
from ringfence.server.release_service import ReleaseService
from ringfence.server.release_trust import ReleaseTrust
from ringfence.server.run_feed import RunFeed
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import RunStore

TIMESTAMP_CHECK_S = 3600.0
GRACE_S = 5.0
MEMBER_SERVICES = (
    "ringfence.v1.ReleaseService",
    "ringfence.v1.ApprovalService",
    "ringfence.v1.FederationService",
    IDENTITY_SERVICE,
)
ADMIN_SERVICES = ("ringfence.v1.AdminService",)

_LOG = logging.getLogger("ringfence.control")


@dataclass(frozen=True, slots=True)
class RunningControlPlane:
    """A control plane that listens.

    Attributes:
        host: where it listens for members.
        port: the port that was taken.
        trust: the release repository that it serves.
        enrolment_address: host:port where it lets companies join.
        metrics_port: loopback port where it tells Prometheus, None if nowhere.
    """

    host: str
    port: int
    trust: ReleaseTrust
    enrolment_address: str
    metrics_port: int | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"


def _utc_now() -> datetime:
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def serve_control_plane(
    home: CoordinatorHome, settings: CoordinatorSettings, *, now: Callable[[], datetime] = _utc_now
) -> AsyncIterator[RunningControlPlane]:
    """Serve members for the length of the block; stop gracefully at its end.

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
    database = open_database(home, settings=settings)
    registry = MemberRegistry(database)
    members = ActiveMembers(registry)
    store = RunStore.of(home, settings=settings)
    feed = RunFeed(store)
    admission = MemberAdmission(members)
    server = new_server(
        interceptors=[CallGuard(admission)], longest_connection_s=settings.longest_connection_s
    )
    release_service_pb2_grpc.add_ReleaseServiceServicer_to_server(ReleaseService(trust), server)
    approval_service_pb2_grpc.add_ApprovalServiceServicer_to_server(
        ApprovalService(trust, members=members), server
    )
    federation_service_pb2_grpc.add_FederationServiceServicer_to_server(
        FederationService(store, feed=feed), server
    )
    membership = Membership(home, federation=settings.federation, database=database, now=now)
    add_identity_service(server, membership=membership, federation=settings.federation, now=now)
    credentials = ListeningCertificate(home).credentials(ask_callers=True)
    port = add_port(server, address=settings.release_address, credentials=credentials)
    enrolment = Enrolment(home, settings=settings, database=database, now=now)
    joining, joining_port = new_enrolment_server(home, settings, enrolment=enrolment, now=now)
    running = RunningControlPlane(
        host=split_address(settings.release_address)[0],
        port=port,
        trust=trust,
        enrolment_address=f"{split_address(settings.enrolment_address)[0]}:{joining_port}",
    )
    admin = AdminService(
        launcher=Launcher(home=home, settings=settings),
        registry=registry,
        membership=membership,
        audit=AuditEvents(database),
        last_call_at=admission.last_call_at,
        listeners=(
            Listener("members", running.address, home.server_certificate_file),
            Listener("enrolment", running.enrolment_address, home.server_certificate_file),
            Listener("commands", str(home.admin_socket)),
        ),
        now=now,
    )
    commands = _admin_server(home, admin)
    figures = ControlMetrics(
        store,
        registry=registry,
        last_call_at=admission.last_call_at,
        outcomes=admission.outcomes,
        certificate_expires_at=lambda: expires_at(home.server_certificate_file.read_bytes()),
    )
    with serve_metrics(settings.metrics_address, figures) as metrics_port:
        async with (
            _listening(server, services=MEMBER_SERVICES, end_watches=feed.close),
            _listening(joining, services=(ENROLMENT_SERVICE,)),
            _listening(
                commands,
                services=ADMIN_SERVICES,
                at_the_end=lambda: home.admin_socket.unlink(missing_ok=True),
            ),
            _running(_keep_timestamp_fresh(trust)),
        ):
            yield replace(running, metrics_port=metrics_port)


def _admin_server(home: CoordinatorHome, service: AdminService) -> grpc.aio.Server:
    """Return the server of the coordinator's own commands. Its socket opens for the coordinator's account alone."""
    server = new_server(interceptors=[CallGuard(AnyOperator(), for_operators=True)])
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    names = (*ADMIN_SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    add_admin_port(server, home)
    return server


@contextlib.asynccontextmanager
async def _listening(
    server: grpc.aio.Server,
    *,
    services: Sequence[str],
    end_watches: Callable[[], Awaitable[None]] | None = None,
    at_the_end: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Start a server with health, and stop it gracefully at the end of the block."""
    condition = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    await server.start()
    for service in ("", *services):
        await condition.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        # Load balancers and members learn first that this instance goes; calls under way may end, watches must.
        await condition.enter_graceful_shutdown()
        if end_watches is not None:
            await end_watches()
        await server.stop(GRACE_S)
        at_the_end()


@contextlib.asynccontextmanager
async def _running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run something beside the block, and cancel it at its end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_timestamp_fresh(trust: ReleaseTrust) -> None:
    while True:
        try:
            if trust.repository.exists:
                await asyncio.to_thread(trust.refresh_timestamp)
        except (RingfenceError, OSError) as error:
            # Members keep scoring with what they have; the next attempt may succeed.
            _LOG.error("the timestamp was not renewed: %s", error)
        await asyncio.sleep(TIMESTAMP_CHECK_S)
