"""Who is served under mutual TLS: active members, each known by its certificate alone, each with its share and no more."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ringfence.model.certificates import MemberIdentity, identity_of_certificate
from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    PeerError,
    StorageError,
    TooOftenError,
)
from ringfence.server.call_guard import Context, StillAdmitted, note_calling_member
from ringfence.server.member_lookup import LONGEST_LOOK_S, MemberLookup
from ringfence.server.members import ActiveMembers, Member
from ringfence.server.rate_limit import RateLimit

CALLS_PER_SECOND = 50.0
CALLS_AT_ONCE = 200.0
MOST_OPEN_CALLS = 8
"""Calls of one member at a time: a member that opens watches without end must not use up the listener."""

_LOG = logging.getLogger("ringfence.control")


def _new_limit() -> RateLimit:
    return RateLimit(per_second=CALLS_PER_SECOND, burst=CALLS_AT_ONCE)


@dataclass(slots=True)
class MemberAdmission:
    """Admits active members, and notes when each was last heard of.

    Attributes:
        members: whom to serve.
        limit: calls that each may make.
        most_open_calls: calls that each may have open at a time.
        clock: returns monotonic seconds.
    """

    members: ActiveMembers
    limit: RateLimit = field(default_factory=_new_limit)
    most_open_calls: int = MOST_OPEN_CALLS
    clock: Callable[[], float] = time.monotonic
    _lookup: MemberLookup[str, Member] = field(init=False)
    _open: Counter[str] = field(default_factory=Counter)
    _last_call_at: dict[str, datetime] = field(default_factory=dict)
    _outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lookup = MemberLookup(self._find, log=_LOG, longest_s=LONGEST_LOOK_S)

    @property
    def last_call_at(self) -> Mapping[str, datetime]:
        """When each member last called, by identifier, since this process serves."""
        return self._last_call_at

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many calls were "served", and refused as "unknown", "too_often" or "too_many"; of all callers together."""
        return self._outcomes

    @asynccontextmanager
    async def admitted(self, context: Context) -> AsyncIterator[StillAdmitted]:
        """Serve one call of an active member within its share.

        Raises:
            ConnectionFailedError: the caller is no active member, or its certificate is not the present one's key.
            TooOftenError: it called too often, or has too many calls open.
            StorageError: it cannot be said now whether it is a member. The operator's to mend.
            ConfigError: its record is damaged. The operator's to mend.
        """
        identity = self._identity(context)
        # Before the members are looked up: haste costs the caller, not the database.
        wait_s = self.limit.wait_s(identity.spiffe_id, now=self.clock())
        if wait_s > 0:
            self._outcomes["too_often"] += 1
            raise TooOftenError(
                "This member calls too often.", hint="Call again a little later.", retry_after_s=wait_s
            )
        if self._open[identity.spiffe_id] >= self.most_open_calls:
            self._outcomes["too_many"] += 1
            raise TooOftenError(
                "This member has too many calls open.", hint="End one: a watch, or a download."
            )
        self._open[identity.spiffe_id] += 1
        try:
            caller = await self._active(identity)
            self._outcomes["served"] += 1
            self._last_call_at[caller.id] = datetime.now(UTC)
            note_calling_member(caller)
            # A member that is suspended, or whose key is replaced, while a long call runs gets no further.
            yield lambda: self._check(identity)
        finally:
            self._open[identity.spiffe_id] -= 1
            if not self._open[identity.spiffe_id]:
                del self._open[identity.spiffe_id]

    async def _check(self, identity: MemberIdentity) -> None:
        await self._active(identity)

    async def _active(self, identity: MemberIdentity) -> Member:
        try:
            member = await self._lookup.find(identity.spiffe_id)
        except StorageError as error:
            if isinstance(error.__cause__, ConfigError):
                # A damaged record does not mend itself: no caller is told to try again.
                raise error.__cause__ from error
            raise
        # With another key it is an older certificate of the same name, whose key was replaced: its week is not waited out.
        if member is None or member.certificate_public_key != identity.public_key:
            self._outcomes["unknown"] += 1
            raise _not_served()
        return member

    def _find(self, spiffe_id: str) -> Member | None:
        try:
            return self.members.by_spiffe_id(spiffe_id)
        except ConnectionFailedError:
            return None

    def _identity(self, context: Context) -> MemberIdentity:
        properties = context.auth_context()
        certificates = list(properties.get("x509_pem_cert", ()))
        if list(properties.get("transport_security_type", ())) != [b"ssl"] or len(certificates) != 1:
            self._outcomes["unknown"] += 1
            raise _not_served()
        try:
            return identity_of_certificate(certificates[0])
        except PeerError as error:
            self._outcomes["unknown"] += 1
            raise _not_served() from error


def _not_served() -> ConnectionFailedError:
    return ConnectionFailedError(
        "The coordinator does not serve this identity.", hint="Ask the coordinator for its status."
    )
