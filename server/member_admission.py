"""Who is served under mutual TLS: active members, each known by its certificate alone, each with its share and no more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ringfence.model.certificates import identity_of_certificate
from ringfence.model.errors import ConnectionFailedError, PeerError, TooOftenError
from ringfence.server.call_guard import Context, StillAdmitted, note_calling_member
from ringfence.server.members import ActiveMembers, Member
from ringfence.server.rate_limit import RateLimit

CALLS_PER_SECOND = 50.0
CALLS_AT_ONCE = 200.0
MOST_OPEN_CALLS = 8
"""Calls of one member at a time: a member that opens watches without end must not use up the listener."""


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
    _open: Counter[str] = field(default_factory=Counter)
    _last_call_at: dict[str, datetime] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)

    @property
    def last_call_at(self) -> Mapping[str, datetime]:
        """When each member last called, by identifier, since this process serves."""
        return self._last_call_at

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many calls were "served", and refused as "unknown", "too_often" or "too_many"; of all callers together."""
        return self._calls

    @contextmanager
    def admitted(self, context: Context) -> Iterator[StillAdmitted]:
        """Serve one call of an active member within its share.

        Raises:
            ConnectionFailedError: the caller is no active member, or its certificate is not the present one's key.
            TooOftenError: it called too often, or has too many calls open.
        """
        try:
            caller = self._identify(context)
        except ConnectionFailedError:
            self._calls["unknown"] += 1
            raise
        wait_s = self.limit.wait_s(caller.id, now=self.clock())
        if wait_s > 0:
            self._calls["too_often"] += 1
            raise TooOftenError(
                "This member calls too often.", hint="Call again a little later.", retry_after_s=wait_s
            )
        if self._open[caller.id] >= self.most_open_calls:
            self._calls["too_many"] += 1
            raise TooOftenError(
                "This member has too many calls open.", hint="End one: a watch, or a download."
            )
        self._calls["served"] += 1
        self._last_call_at[caller.id] = datetime.now(UTC)
        self._open[caller.id] += 1
        note_calling_member(caller)
        try:
            yield lambda: self._still_active(caller)
        finally:
            self._open[caller.id] -= 1
            if not self._open[caller.id]:
                del self._open[caller.id]

    def _still_active(self, caller: Member) -> None:
        # A member that is suspended, or whose key is replaced, while a long call runs gets no further.
        _require_same_key(self.members.by_spiffe_id(caller.spiffe_id), caller.certificate_public_key)

    def _identify(self, context: Context) -> Member:
        properties = context.auth_context()
        certificates = list(properties.get("x509_pem_cert", ()))
        if list(properties.get("transport_security_type", ())) != [b"ssl"] or len(certificates) != 1:
            raise _not_served()
        try:
            identity = identity_of_certificate(certificates[0])
        except PeerError as error:
            raise _not_served() from error
        member = self.members.by_spiffe_id(identity.spiffe_id)
        # An older certificate of the same name, for a key that was replaced: its week is not waited out.
        _require_same_key(member, identity.public_key)
        return member


def _require_same_key(member: Member, public_key: str) -> None:
    if member.certificate_public_key != public_key:
        raise _not_served()


def _not_served() -> ConnectionFailedError:
    return ConnectionFailedError("The coordinator does not serve this identity.")
