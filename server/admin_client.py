"""The coordinator's commands' side of AdminService."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc

from ringfence.model.errors import ConnectionFailedError
from ringfence.model.progress_messages import summary_value
from ringfence.model.run_progress import RunSummary
from ringfence.model.wire import admin_service_pb2 as wire
from ringfence.model.wire.admin_service_pb2_grpc import AdminServiceStub
from ringfence.model.wire_errors import from_call, is_transient
from ringfence.server.admin_socket import not_serving, open_admin_channel
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.run_store import SignedPlan

_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class MemberStanding:
    """A member as the serving coordinator sees it.

    Attributes:
        id: the member.
        status: as the registry says.
        size_class: its public size class.
        in_fleet: whether the fleet knows its node.
        last_call_at: when it last called the control plane since that serves, UTC; None if it has not.
    """

    id: str
    status: str
    size_class: int
    in_fleet: bool
    last_call_at: datetime | None


@dataclass(frozen=True, slots=True)
class ListenerStanding:
    """Something that the coordinator listens on.

    Attributes:
        name: for people.
        address: host:port, or a path.
        certificate_expires_at: when the certificate that it shows runs out, UTC; None on a Unix socket.
    """

    name: str
    address: str
    certificate_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Condition:
    """How the serving coordinator is.

    Attributes:
        version: of the installed package.
        serving_since: UTC.
        fleet_answers: whether the fleet service answers.
        known_nodes: nodes that the fleet knows.
        listeners: what the control plane listens on.
    """

    version: str
    serving_since: datetime
    fleet_answers: bool
    known_nodes: int
    listeners: tuple[ListenerStanding, ...]


class AdminClient:
    """Asks the coordinator that serves.

    Args:
        channel: to its socket; see `open_admin`.

    Raises:
        RingfenceError: from every method, as the coordinator says; ConnectionFailedError if it does not serve.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = AdminServiceStub(channel)

    def start_run(self, signed: SignedPlan, *, name: str | None = None) -> RunSummary:
        """Start a run with a signed plan."""
        request = wire.StartRunRequest(
            name=name or "", plan=signed.plan.canonical_json(), signature=signed.signature
        )
        return summary_value(_call(self._stub.StartRun, request).run)

    def stop_run(self, name: str) -> RunSummary:
        """Stop a run."""
        return summary_value(_call(self._stub.StopRun, wire.StopRunRequest(name=name)).run)

    def resume_run(self, name: str) -> RunSummary:
        """Go on with a run."""
        return summary_value(_call(self._stub.ResumeRun, wire.ResumeRunRequest(name=name)).run)

    def members(self) -> tuple[MemberStanding, ...]:
        """Return every member, with when it last called."""
        return tuple(_member(one) for one in _call(self._stub.ListMembers, wire.ListMembersRequest()).members)

    def suspend_member(self, member: str) -> MemberStanding:
        """Refuse a member everywhere from its next call on."""
        return _member(_call(self._stub.SuspendMember, wire.SuspendMemberRequest(id=member)).member)

    def resume_member(self, member: str) -> MemberStanding:
        """Serve a suspended member again."""
        return _member(_call(self._stub.ResumeMember, wire.ResumeMemberRequest(id=member)).member)

    def condition(self) -> Condition:
        """Return how the coordinator is."""
        found = _call(self._stub.GetCondition, wire.GetConditionRequest())
        return Condition(
            version=found.version,
            serving_since=found.serving_since.ToDatetime(UTC),
            fleet_answers=found.fleet_answers,
            known_nodes=found.known_nodes,
            listeners=tuple(
                ListenerStanding(
                    name=one.name,
                    address=one.address,
                    certificate_expires_at=one.certificate_expires_at.ToDatetime(UTC)
                    if one.HasField("certificate_expires_at")
                    else None,
                )
                for one in found.listeners
            ),
        )


@contextmanager
def open_admin(home: CoordinatorHome, *, patience_s: float = 20.0) -> Iterator[AdminClient]:
    """Open a client of the coordinator that serves from this folder.

    Args:
        home: the coordinator's folder.
        patience_s: seconds to wait for a coordinator that is starting.

    Raises:
        ConnectionFailedError: none serves.
    """
    with open_admin_channel(home, patience_s=patience_s) as channel:
        yield AdminClient(channel)


def _call(method: Callable[..., Any], request: object) -> Any:  # noqa: ANN401 - any of the stub's pairs
    try:
        return method(request, timeout=_DEADLINE_S)
    except grpc.RpcError as error:
        found = from_call(error)
        if type(found) is ConnectionFailedError and is_transient(error):
            found = not_serving()  # it went away during the call
        raise found from error


def _member(message: wire.MemberSummary) -> MemberStanding:
    return MemberStanding(
        id=message.id,
        status=message.status,
        size_class=message.size_class,
        in_fleet=message.in_fleet,
        last_call_at=message.last_call_at.ToDatetime(UTC) if message.HasField("last_call_at") else None,
    )
