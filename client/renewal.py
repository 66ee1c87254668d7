"""Keeping the certificate fresh: renewed at two thirds of its life, in the background, while the agent works."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from ringfence.client.identity import InstalledIdentity, read_identity
from ringfence.client.member_home import MemberHome
from ringfence.model.errors import RingfenceError

RENEW_AT = 2 / 3
JITTER = 1 / 20
"""Members that joined together are not to renew together: up to this share of the certificate's life later."""
_LONGEST_SLEEP_S = 900.0
_FIRST_RETRY_S = 30.0

log = logging.getLogger("ringfence.agent")


def renewal_due_at(identity: InstalledIdentity, *, jitter: float) -> datetime:
    """Return when a certificate should be renewed, UTC; ``jitter`` is in [0, 1)."""
    life = identity.expires_at - identity.begins_at
    return identity.begins_at + life * (RENEW_AT + JITTER * jitter)


@dataclass(slots=True)
class Renewal:
    """Renews one member's certificate when it is due, and tries again where that fails.

    Attributes:
        home: the member's folder.
        renew: fetches and installs a new certificate.
        now: returns the present, UTC.
        jitter: in [0, 1), drawn once.
    """

    home: MemberHome
    renew: Callable[[], InstalledIdentity]
    now: Callable[[], datetime]
    jitter: float
    failures: int = 0

    def step(self) -> float:
        """Renew if it is time, and return the seconds until the next look."""
        try:
            present = read_identity(self.home)
            wait = renewal_due_at(present, jitter=self.jitter) - self.now()
            if wait <= timedelta():
                present = self.renew()
                self.failures = 0
                log.info("the certificate was renewed and holds until %s", f"{present.expires_at:%Y-%m-%d}")
                wait = renewal_due_at(present, jitter=self.jitter) - self.now()
        except RingfenceError as error:
            self.failures += 1
            log.warning("the certificate was not renewed: %s %s", error.message, error.hint)
            return float(min(_LONGEST_SLEEP_S, _FIRST_RETRY_S * 2 ** min(self.failures - 1, 10)))
        # Never asleep for long: the clock may jump, and a laptop may sleep.
        return min(max(wait.total_seconds(), 1.0), _LONGEST_SLEEP_S)

    def run(self, stop: threading.Event) -> None:
        """Keep the certificate fresh until ``stop`` is set."""
        while not stop.wait(self.step()):
            pass


@contextmanager
def renewing(home: MemberHome, *, now: Callable[[], datetime]) -> Iterator[None]:
    """Keep a member's certificate fresh for the length of the block, in a thread of its own."""

    def renew() -> InstalledIdentity:
        # gRPC is loaded when the first renewal is due, not when the agent starts.
        from ringfence.client.identity_client import renew_identity

        return renew_identity(home, now=now())

    stop = threading.Event()
    renewal = Renewal(home, renew=renew, now=now, jitter=random.random())  # noqa: S311 - not a secret
    thread = threading.Thread(target=renewal.run, args=(stop,), name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
