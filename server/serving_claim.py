"""One coordinator at a time serves from a database: a second one is refused, and told by whom."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.claims import Claim, ClaimTakenError, claim, is_claimed
from ringfence.server.database import Database
from ringfence.server.tables import properties

log = logging.getLogger("ringfence.coordinator")
SERVING = "serving"
LEFT_BEHIND_S = 60.0
"""Twice the time in which PostgreSQL notices that a connection is gone (`ringfence.server.database`)."""
_CLAIM = "serve"
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class _Server:
    """Who wrote down last that it serves from a database."""

    host: str
    process: int
    since: str

    @property
    def is_gone(self) -> bool:
        """Whether it ran on this host and does no more, seen from a process that begins. Of another host nobody can say so."""
        return self.host == socket.gethostname() and (
            self.process == os.getpid() or not Path(f"/proc/{self.process}").exists()
        )


class ServingClaim:
    """The right to serve, for as long as the block of `serve_alone` lasts.

    Args:
        held: the claim on the database.
    """

    def __init__(self, held: Claim) -> None:
        self._held = held
        self._said = ""

    def keep(self) -> None:
        """Look whether the claim still holds, and take it anew where PostgreSQL lost it; call about once a second.

        Raises:
            ConfigError: another process took it meanwhile. This one must end at once.
        """
        if self._held.is_held():
            return
        try:
            self._held.take()
            self._said = ""
            log.warning("the connection to the database was lost and is back")
        except ClaimTakenError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        except StorageError as error:
            # Nobody else can take it either: the database is not reached, or holds it for a connection of ours.
            if error.message != self._said:
                log.warning("%s", error.message)
            self._said = error.message


@contextmanager
def serve_alone(
    database: Database, *, now: datetime, patience_s: float = LEFT_BEHIND_S
) -> Iterator[ServingClaim]:
    """Be the one coordinator that serves from a database while the block lasts.

    Args:
        database: the coordinator's.
        now: the present, UTC.
        patience_s: how long to wait for a database that still holds the claim of a process of this host that is gone.

    Raises:
        ConfigError: another one serves. The operator's to decide which.
        StorageError: the database cannot be used. The operator's to mend.
    """
    here = _Server(socket.gethostname(), os.getpid(), now.isoformat(timespec="seconds"))
    _await_left_behind(database, patience_s=patience_s)
    with _alone(database, here) as held:
        with database.transaction() as connection:
            connection.execute(properties.delete().where(properties.c.key == SERVING))
            connection.execute(properties.insert().values(key=SERVING, value=json.dumps(asdict(here))))
        yield ServingClaim(held)


@contextmanager
def idle_database(database: Database) -> Iterator[Claim]:
    """Keep every coordinator from serving from a database while the block lasts.

    Args:
        database: the coordinator's, in any form.

    Raises:
        ConfigError: one serves. The operator's to stop.
    """
    with _alone(database, None) as held:
        yield held


@contextmanager
def _alone(database: Database, here: _Server | None) -> Iterator[Claim]:
    try:
        with claim(
            database,
            _CLAIM,
            taken=lambda: _taken(database, here),
            hint="Stop that one first; one coordinator serves from a database.",
        ) as held:
            yield held
    except ClaimTakenError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def _await_left_behind(database: Database, *, patience_s: float) -> None:
    """Wait while the claim is held for a process that is gone: a host that was cut off, or fell and is up again."""
    deadline, said = time.monotonic() + patience_s, False
    while not database.is_sqlite and time.monotonic() < deadline and is_claimed(database, _CLAIM):
        last = _last_server(database)
        if last is None or not last.is_gone:
            return
        if not said:
            log.warning(
                "the database still holds the claim of process %d, which is gone; waiting", last.process
            )
            said = True
        time.sleep(_LOOK_AGAIN_S)


def _taken(database: Database, here: _Server | None) -> str:
    last = _last_server(database)
    if last is None:
        return f"A coordinator serves from the database {database.place}."
    if last == here:  # whoever serves writes itself down
        return f"Another command holds the database {database.place}, such as restore or db move."
    who = f"process {last.process} on {last.host}, since {last.since}"
    return f"A coordinator serves from the database {database.place}: {who}."


def _last_server(database: Database) -> _Server | None:
    try:
        with database.reading() as connection:
            found = connection.scalar(select(properties.c.value).where(properties.c.key == SERVING))
        known = json.loads(found or "")
        return _Server(str(known["host"]), int(known["process"]), str(known["since"]))
    except (StorageError, ValueError, KeyError, TypeError):
        return None
