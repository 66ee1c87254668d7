"""Replacing the coordinator's own keys, each in the way in which members come to believe the new one.

* candidate, snapshot, timestamp: a root of trust and targets name them. The new key waits until the members have signed the
  next ones, and signs from their publication on.
* plan: each member pinned it when it joined, and takes another one only from an invitation. So it is replaced at once, and
  every member is invited again; until it has joined again it refuses every plan. It keeps its keys, ledger and history.

The governance key is not replaced here: it is one of several, and never enough alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ringfence.model.errors import ConfigError
from ringfence.model.key_files import key_fingerprint, public_pem
from ringfence.model.run_progress import UNDER_WAY
from ringfence.server.audit_events import AuditEvents
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.database import Database
from ringfence.server.invitations import InvitationStore, is_pending
from ringfence.server.members import ActiveMembers, MemberRegistry
from ringfence.server.run_store import RunStore
from ringfence.server.signing_keys import (
    KEY_NAMES,
    ROTATED_WITH_MEMBERS,
    KeyName,
    key_file,
    load_coordinator_key,
    make_next_key,
    newest_keys,
    next_key_file,
    replace_plan_key,
    require_none_waits,
)

ROTATABLE: tuple[KeyName, ...] = (*ROTATED_WITH_MEMBERS, "plan")


@dataclass(frozen=True, slots=True)
class OwnKey:
    """One of the coordinator's signing keys.

    Attributes:
        name: what it is for.
        fingerprint: of its public half, as people read it to each other; "" if the key cannot be read.
        made_at: when its file was written, UTC; a restored file's time is that of the restore. None if there is no file.
        file: where it lies.
        waits: it is to take another one's place once the members have agreed.
        problem: why it cannot be used; "" if it can.
    """

    name: KeyName
    fingerprint: str
    made_at: datetime | None
    file: Path
    waits: bool
    problem: str


@dataclass(frozen=True, slots=True)
class PlanKeyReplaced:
    """What follows from a new plan key.

    Attributes:
        members: who has to be invited again.
        withdrawn: whose open invitations were withdrawn, because they would pin the old key.
    """

    members: tuple[str, ...]
    withdrawn: tuple[str, ...]


def own_keys(home: CoordinatorHome) -> tuple[OwnKey, ...]:
    """Return the coordinator's signing keys, each followed by the one that waits to take its place."""
    found = []
    for name in KEY_NAMES:
        found.append(_own_key(home, name=name, file=key_file(home, name=name), waits=False))
        waiting = next_key_file(home, name=name)
        if waiting.exists():
            found.append(_own_key(home, name=name, file=waiting, waits=True))
    return tuple(found)


def begin_rotation(
    home: CoordinatorHome, *, names: Sequence[KeyName], database: Database, now: datetime
) -> None:
    """Make new keys of the release repository, which wait for the members: all that were asked for, or none.

    Args:
        home: the coordinator's folder.
        names: of `ROTATED_WITH_MEMBERS`, each once.
        database: the coordinator's, with the audit trail.
        now: the present, UTC.

    Raises:
        ConfigError: one waits already, or the folder cannot be written. The operator's to decide.
    """
    with contextlib.ExitStack() as undo:
        # One turn at the database, so that of two operators the later one finds the earlier one's keys.
        with database.transaction():
            for name in names:
                require_none_waits(home, name=name)
            for name in names:
                key = make_next_key(home, name=name)
                undo.callback(next_key_file(home, name=name).unlink, missing_ok=True)
                AuditEvents(database).record(
                    "keys.rotate", subject=name, now=now, detail=key_fingerprint(public_pem(key.public_key()))
                )
        undo.pop_all()


def rotate_plan_key(
    home: CoordinatorHome, *, settings: CoordinatorSettings, database: Database, now: datetime
) -> PlanKeyReplaced:
    """Replace the key that signs plans, and withdraw the invitations that would pin the old one.

    Raises:
        ConfigError: a run is under way, which its members would then refuse. The operator's to stop.
    """
    for run in RunStore.of(home, settings=settings).all():
        if run.record().status in UNDER_WAY:
            raise ConfigError(
                f"The run {run.name} is under way with the present plan key.",
                hint=f"Wait for its end, or stop it: ringfence-coordinator run stop {run.name}",
            )
    store = InvitationStore(database)
    # The key first: an invitation that is made in between then pins the new one, and is merely withdrawn for nothing.
    replace_plan_key(home)
    with database.transaction():
        pending = [found for found in store.all() if is_pending(found)]
        for found in pending:
            store.change(found.cancelled())
        fingerprint = key_fingerprint(public_pem(load_coordinator_key(home, name="plan").public_key()))
        AuditEvents(database).record("keys.rotate", subject="plan", now=now, detail=fingerprint)
    active = ActiveMembers(MemberRegistry(database)).all()
    return PlanKeyReplaced(
        members=tuple(member.id for member in active),
        withdrawn=tuple(sorted({found.member for found in pending})),
    )


def _own_key(home: CoordinatorHome, *, name: KeyName, file: Path, waits: bool) -> OwnKey:
    try:
        made_at = datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)
    except OSError:
        made_at = None
    try:
        key = newest_keys(home, name=name)[0] if waits else load_coordinator_key(home, name=name)
        fingerprint, problem = key_fingerprint(public_pem(key.public_key())), ""
    except ConfigError as error:
        fingerprint, problem = "", error.message
    return OwnKey(name, fingerprint, made_at, file, waits, problem)
