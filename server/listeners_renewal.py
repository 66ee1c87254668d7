"""Keeping the listeners' certificate fresh while the coordinator serves, and saying in time what only people can renew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ringfence.model.errors import RingfenceError
from ringfence.server.certificate_authority import (
    load_certificate_authority,
    server_certificate_is_due,
    write_server_certificate,
)
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings

CHECK_EVERY = timedelta(hours=1)
INTERMEDIATE_SOON = timedelta(days=45)

log = logging.getLogger("ringfence.coordinator")


@dataclass(slots=True)
class ListenersRenewal:
    """Renews the listeners' certificate at two thirds of its life, or when the names in the settings changed.

    Attributes:
        home: the coordinator's folder.
        settings: the names.
        now: returns the present, UTC.
        due_at: when to look again, UTC; None for now.
    """

    home: CoordinatorHome
    settings: CoordinatorSettings
    now: Callable[[], datetime]
    due_at: datetime | None = None

    def tick(self) -> None:
        """Look whether it is time, once an hour; call as often as you like. What cannot be done is logged."""
        now = self.now()
        if self.due_at is not None and now < self.due_at:
            return
        self.due_at = now + CHECK_EVERY
        try:
            self._renew(now)
        except RingfenceError as error:
            log.error("the listeners' certificate was not renewed: %s %s", error.message, error.hint)

    def _renew(self, now: datetime) -> None:
        names = self.settings.certified_names
        authority = load_certificate_authority(self.home, federation=self.settings.federation)
        if authority.certificate.not_valid_after_utc - now < INTERMEDIATE_SOON:
            log.warning(
                "the intermediate ends on %s: bring the root's key back for ringfence-coordinator ca renew",
                f"{authority.certificate.not_valid_after_utc:%Y-%m-%d}",
            )
        if server_certificate_is_due(self.home, names=names, now=now):
            write_server_certificate(self.home, authority=authority, names=names, now=now)
            log.info("the listeners' certificate was renewed")
