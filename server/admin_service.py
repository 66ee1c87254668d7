"""AdminService: the coordinator's own commands, to the process that serves. Whoever calls it has the coordinator's account.

One process decides on runs, one decision after another: two commands at once cannot start a run twice.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ringfence.model.certificates import expires_at
from ringfence.model.errors import RingfenceError
from ringfence.model.plan import parse_plan
from ringfence.model.progress_messages import summary_message
from ringfence.model.run_progress import RunSummary
from ringfence.model.wire import admin_service_pb2 as wire
from ringfence.model.wire import admin_service_pb2_grpc as wire_grpc
from ringfence.server.audit_events import AuditEvents
from ringfence.server.call_guard import Context
from ringfence.server.members import Member, MemberRegistry
from ringfence.server.membership import Membership
from ringfence.server.run_feed import summarise
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run, SignedPlan

log = logging.getLogger("ringfence.control")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Listener:
    """Something that the control plane listens on.

    Attributes:
        name: for people.
        address: host:port, or the path of a socket.
        certificate_file: the certificate that it shows, None on a Unix socket.
    """

    name: str
    address: str
    certificate_file: Path | None = None


class AdminService(wire_grpc.AdminServiceServicer):
    """Does what the coordinator's commands ask.

    Args:
        launcher: starts and stops runs.
        registry: all members.
        membership: suspends members and serves them again.
        audit: is told what was done.
        last_call_at: when each member last called, by identifier.
        listeners: what this process listens on.
        now: returns the present, UTC.
    """

    def __init__(
        self,
        *,
        launcher: Launcher,
        registry: MemberRegistry,
        membership: Membership,
        audit: AuditEvents,
        last_call_at: Mapping[str, datetime],
        listeners: Sequence[Listener],
        now: Callable[[], datetime],
    ) -> None:
        self._launcher = launcher
        self._store = launcher.runs
        self._registry = registry
        self._membership = membership
        self._audit = audit
        self._now = now
        self._last_call_at = last_call_at
        self._listeners = listeners
        self._serving_since = now()
        self._deciding = asyncio.Lock()

    async def StartRun(  # noqa: N802 - the name in the .proto file
        self, request: wire.StartRunRequest, context: Context
    ) -> wire.StartRunResponse:
        """Start a run with a signed plan. Members check the signature; who may open the socket is not checked again."""

        def start() -> RunSummary:
            signed = SignedPlan(plan=parse_plan(request.plan), signature=request.signature)
            run = self._launcher.launch(signed, name=request.name or None)
            self._note("run.start", run)
            return summarise(run)

        summary = await self._decide(start)
        log.info("run %s is started", summary.name)
        return wire.StartRunResponse(run=summary_message(summary))

    async def StopRun(  # noqa: N802 - the name in the .proto file
        self, request: wire.StopRunRequest, context: Context
    ) -> wire.StopRunResponse:
        """Stop a run."""
        summary = await self._decide(lambda: self._changed(request.name, self._launcher.stop, "run.stop"))
        log.info("run %s is stopped", summary.name)
        return wire.StopRunResponse(run=summary_message(summary))

    async def ResumeRun(  # noqa: N802 - the name in the .proto file
        self, request: wire.ResumeRunRequest, context: Context
    ) -> wire.ResumeRunResponse:
        """Go on with a run."""
        summary = await self._decide(lambda: self._changed(request.name, self._launcher.start, "run.resume"))
        log.info("run %s goes on", summary.name)
        return wire.ResumeRunResponse(run=summary_message(summary))

    async def ListMembers(  # noqa: N802 - the name in the .proto file
        self, request: wire.ListMembersRequest, context: Context
    ) -> wire.ListMembersResponse:
        """List every member."""
        members = await asyncio.to_thread(self._registry.all)
        return wire.ListMembersResponse(members=[self._member(member) for member in members])

    async def SuspendMember(  # noqa: N802 - the name in the .proto file
        self, request: wire.SuspendMemberRequest, context: Context
    ) -> wire.SuspendMemberResponse:
        """Refuse a member from its next call on."""
        member = await asyncio.to_thread(self._membership.suspend, request.id)
        log.info("member %s is suspended", member.id)
        return wire.SuspendMemberResponse(member=self._member(member))

    async def ResumeMember(  # noqa: N802 - the name in the .proto file
        self, request: wire.ResumeMemberRequest, context: Context
    ) -> wire.ResumeMemberResponse:
        """Serve a suspended member again."""
        member = await asyncio.to_thread(self._membership.resume, request.id)
        log.info("member %s is served again", member.id)
        return wire.ResumeMemberResponse(member=self._member(member))

    async def GetCondition(  # noqa: N802 - the name in the .proto file
        self, request: wire.GetConditionRequest, context: Context
    ) -> wire.GetConditionResponse:
        """Say how this coordinator is."""
        nodes = await asyncio.to_thread(self._known_nodes)
        response = wire.GetConditionResponse(
            version=importlib.metadata.version("ringfence"),
            fleet_answers=nodes is not None,
            known_nodes=nodes or 0,
        )
        response.serving_since.FromDatetime(self._serving_since)
        for listener in self._listeners:
            told = response.listeners.add(name=listener.name, address=listener.address)
            if listener.certificate_file is not None:
                content = await asyncio.to_thread(listener.certificate_file.read_bytes)
                told.certificate_expires_at.FromDatetime(expires_at(content))
        return response

    async def _decide(self, decision: Callable[[], _Result]) -> _Result:
        async with self._deciding:
            # Shielded: a caller that goes away in the middle must not let the next decision begin beside this one.
            return await asyncio.shield(asyncio.create_task(asyncio.to_thread(decision)))

    def _changed(self, name: str, change: Callable[[Run], None], action: str) -> RunSummary:
        run = self._store.open(name)
        change(run)
        self._note(action, run)
        return summarise(run)

    def _note(self, action: str, run: Run) -> None:
        self._audit.record(
            action, subject=run.name, now=self._now(), detail=f"after round {run.rounds_done()}"
        )

    def _known_nodes(self) -> int | None:
        try:
            return len(self._launcher.control().node_ids())
        except RingfenceError:
            return None

    def _member(self, member: Member) -> wire.MemberSummary:
        message = wire.MemberSummary(
            id=member.id,
            status=member.status,
            size_class=member.size_class,
            in_fleet=member.node_id is not None,
        )
        last = self._last_call_at.get(member.id)
        if last is not None:
            message.last_call_at.FromDatetime(last)
        return message
