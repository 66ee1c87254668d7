"""ApprovalService: drafts to active members, and their signatures back."""

from __future__ import annotations

import asyncio

from ringfence.model.approval_messages import draft_message, signature_values, summary_message
from ringfence.model.wire import approval_service_pb2 as wire
from ringfence.model.wire import approval_service_pb2_grpc as wire_grpc
from ringfence.server.call_guard import Context, calling_member
from ringfence.server.members import ActiveMembers
from ringfence.server.release_trust import ReleaseTrust


class ApprovalService(wire_grpc.ApprovalServiceServicer):
    """Collects countersignatures.

    Args:
        trust: the drafts.
        members: the active members.
    """

    def __init__(self, trust: ReleaseTrust, *, members: ActiveMembers) -> None:
        self._trust = trust
        self._members = members

    async def ListDrafts(  # noqa: N802 - the name in the .proto file
        self, request: wire.ListDraftsRequest, context: Context
    ) -> wire.ListDraftsResponse:
        """List the open drafts."""
        calling_member()
        drafts = await asyncio.to_thread(self._trust.drafts)
        return wire.ListDraftsResponse(drafts=[summary_message(draft) for draft in drafts])

    async def GetDraft(  # noqa: N802 - the name in the .proto file
        self, request: wire.GetDraftRequest, context: Context
    ) -> wire.GetDraftResponse:
        """Return one draft whole."""
        calling_member()
        draft = await asyncio.to_thread(self._trust.get_draft, request.id)
        return wire.GetDraftResponse(draft=draft_message(draft))

    async def SubmitCountersignature(  # noqa: N802 - the name in the .proto file
        self, request: wire.SubmitCountersignatureRequest, context: Context
    ) -> wire.SubmitCountersignatureResponse:
        """Verify the caller's signatures and keep them."""
        caller = calling_member()
        signatures = signature_values(request.signatures)
        summary = await asyncio.to_thread(
            lambda: self._trust.accept_signatures(
                request.draft_id, signatures=signatures, members=self._members.all(), signer=caller
            )
        )
        return wire.SubmitCountersignatureResponse(draft=summary_message(summary))
