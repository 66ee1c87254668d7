"""What leaves a member beside its answers: recorded in the audit log before it goes, one line each.

| kind | what leaves | digest of |
|---|---|---|
| join-request | public keys and size class, with the invitation's secret | the request, without the secret |
| renewal | the wish for a new certificate; nothing else is in it | nothing |
| leave | the end of the membership; nothing else is in it | nothing |
| approval | signatures under a draft | the signatures, in the form of a signature file |

Questions for runs, drafts and releases are not recorded: there is nothing in them but names that the coordinator gave.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from ringfence.client.audit_chain import Departure
from ringfence.client.audit_log import AuditLog
from ringfence.client.member_home import MemberHome

ControlKind = Literal["join-request", "renewal", "leave", "approval"]

_PURPOSES: dict[ControlKind, str] = {
    "join-request": "membership",
    "renewal": "membership",
    "leave": "membership",
    "approval": "release-approval",
}


def record_departure(home: MemberHome, *, kind: ControlKind, destination: str, content: bytes = b"") -> None:
    """Record what is about to leave; on disk when this returns. The same bytes may be sent again until they are answered.

    Args:
        home: the member's folder.
        kind: what it is.
        destination: host and port.
        content: what the entry's digest and size are of.

    Raises:
        AuditBrokenError: the log is not the one that was written; nothing may leave until somebody knows why.
        ConfigError: it cannot be written. The operator's to mend.
    """
    AuditLog.of(home).append(
        Departure(
            destination=destination,
            kind=kind,
            purpose=_PURPOSES[kind],
            digest=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )
    )
