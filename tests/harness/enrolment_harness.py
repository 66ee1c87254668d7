"""A coordinator that serves enrolment and identities over real TLS, and companies that join it; on either database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from databases import empty_database_url, write_database_url
from trust_harness import FEDERATION, TrustFederation

from ringfence.client.enrolment import Joined, join
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.model.invitation import Invitation
from ringfence.server.audit_events import AuditEvents
from ringfence.server.control_plane import RunningControlPlane
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.enrolment import Enrolment
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.membership import Membership


@dataclass
class Desk:
    """A federation that serves, and what its people do. The clock is `federation.clock[0]`; companies have the real one."""

    federation: TrustFederation
    running: RunningControlPlane

    @property
    def home(self) -> CoordinatorHome:
        return self.federation.home

    @property
    def enrolment(self) -> Enrolment:
        return Enrolment(
            self.home, settings=self.federation.settings, database=open_database(self.home), now=self.now
        )

    @property
    def membership(self) -> Membership:
        return Membership(self.home, federation=FEDERATION, database=open_database(self.home), now=self.now)

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What stands in the audit trail: actions and whom they concern."""
        return [(event.action, event.subject) for event in AuditEvents(open_database(self.home)).all()]

    def now(self) -> datetime:
        return self.federation.clock[0]

    def pass_time(self, time: timedelta) -> None:
        self.federation.clock[0] += time

    def invite(self, member: str, **terms: object) -> Invitation:
        made = self.enrolment.invite(member, **terms)  # type: ignore[arg-type]
        return replace(made, address=self.running.enrolment_address)

    def folder(self, name: str) -> MemberHome:
        return self.federation.members.setdefault(name, MemberHome(self.federation.root / name))

    def join(self, invitation: Invitation, *, folder: str, **terms: object) -> Joined:
        home = self.folder(folder)
        joined = join(home, invitation=invitation, now=lambda: datetime.now(UTC), **terms)  # type: ignore[arg-type]
        # The listener took whatever port was free; the settings name the one that was asked for.
        settings = load_member_settings(home, environment={})
        moved = settings.model_copy(update={"release_address": self.running.address})
        save_member_settings(home, settings=moved)
        return replace(joined, settings=moved)


@contextmanager
def open_desk(root: Path, *, kind: str = "sqlite") -> Iterator[Desk]:
    """Set up a coordinator on one kind of database, and serve."""
    root.mkdir(parents=True, exist_ok=True)
    with empty_database_url(kind, root) as url:
        home = CoordinatorHome(root / "coordinator")
        file = write_database_url(home.root, None if kind == "sqlite" else url)
        settings = CoordinatorSettings(
            federation=FEDERATION,
            demonstration=True,
            fleet_address="127.0.0.1:0",
            release_address="127.0.0.1:0",
            enrolment_address="127.0.0.1:0",
            database_url_file=file,
        )
        federation = TrustFederation(root=root, home=home, settings=settings, members={})
        initialise_coordinator(home, settings=settings, now=federation.clock[0])
        with federation.running() as running:
            yield Desk(federation, running)
        open_database(home).close()
