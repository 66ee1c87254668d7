"""One coordinator at a time serves from a database: a second one is refused, and told by whom."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import select

from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.claims import Claim, ClaimTakenError, claim
from ringfence.server.database import Database
from ringfence.server.tables import properties

log = logging.getLogger("ringfence.coordinator")
SERVING = "serving"
_CLAIM = "serve"


class ServingClaim:
    """The right to serve, for as long as the block of `serve_alone` lasts.

    Args:
        held: the claim on the database.
    """

    def __init__(self, held: Claim) -> None:
        self._held = held

    def keep(self) -> None:
        """Look whether the claim still holds, and take it anew where PostgreSQL lost it; call about once a second.

        Raises:
            ConfigError: another coordinator took it meanwhile. This one must end at once.
        """
        if self._held.is_held():
            return
        try:
            self._held.take_again()
            log.warning("the connection to the database was lost and is back")
        except ClaimTakenError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        except StorageError as error:
            log.warning("%s", error.message)  # nobody else can reach it to serve from it either


@contextmanager
def serve_alone(database: Database, *, now: datetime) -> Iterator[ServingClaim]:
    """Be the one coordinator that serves from a database while the block lasts.

    Args:
        database: the coordinator's.
        now: the present, UTC.

    Raises:
        ConfigError: another one serves. The operator's to decide which.
        StorageError: the database cannot be used. The operator's to mend.
    """
    with idle_database(database) as held:
        here = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": now.isoformat(timespec="seconds"),
        }
        with database.transaction() as connection:
            connection.execute(properties.delete().where(properties.c.key == SERVING))
            connection.execute(properties.insert().values(key=SERVING, value=json.dumps(here)))
        yield ServingClaim(held)


@contextmanager
def idle_database(database: Database) -> Iterator[Claim]:
    """Keep every coordinator from serving from a database while the block lasts.

    Args:
        database: the coordinator's, in any form.

    Raises:
        ConfigError: one serves. The operator's to stop.
    """
    try:
        with claim(
            database,
            _CLAIM,
            taken=f"A coordinator serves from the database {database.place}{_who(database)}.",
            hint="Stop that one first; one coordinator serves from a database.",
        ) as held:
            yield held
    except ClaimTakenError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def _who(database: Database) -> str:
    try:
        with database.reading() as connection:
            found = connection.scalar(select(properties.c.value).where(properties.c.key == SERVING))
        known = json.loads(found or "")
        return f": process {known['process']} on {known['host']}, since {known['since']}"
    except (StorageError, ValueError, KeyError, TypeError):
        return ""
