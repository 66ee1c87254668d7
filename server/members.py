"""Who is a member: one row each in the coordinator's database, and the one place that says so."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy import ColumnElement, RowMapping, select

from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.model.joining import SizeClass
from ringfence.model.key_files import normal_public_pem
from ringfence.model.plan import Name, describe
from ringfence.server.database import Database
from ringfence.server.tables import members


class Member(BaseModel):
    """A member company, as admitted.

    Attributes:
        id: the identifier that the coordinator gave it.
        status: "active"; "suspended": refused everywhere at once, for now; "removed": the same, because it left or had to go.
        spiffe_id: the identity in its certificate.
        certificate_public_key: EC P-256 key of its certificate and Flower node, SubjectPublicKeyInfo PEM.
        approval_public_key: Ed25519 key with which it countersigns, SubjectPublicKeyInfo PEM.
        identity_public_key: Ed25519 key with which its agent signs the head of its ledger, SubjectPublicKeyInfo PEM.
        certificate: its present certificate chain, PEM.
        size_class: power of two near its number of conversations, which it declares in public.
        node_id: Flower's number for it, once registered.
        admitted_at: when it was admitted, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    status: Literal["active", "suspended", "removed"] = "active"
    spiffe_id: str
    certificate_public_key: str
    approval_public_key: str
    identity_public_key: str
    certificate: str
    size_class: SizeClass = 256
    node_id: int | None = None
    admitted_at: AwareDatetime


class MemberRegistry:
    """The admitted members, active or not.

    Nothing is remembered between calls, so that a suspension by another process holds from the next call on.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> tuple[Member, ...]:
        """Return every member, by identifier.

        Raises:
            ConfigError: a member's record is damaged. The operator's to mend.
        """
        with self._database.reading() as connection:
            rows = connection.execute(select(members).order_by(members.c.id)).mappings().all()
        return tuple(_member(row) for row in rows)

    def get(self, member: str) -> Member:
        """Return one member.

        Raises:
            ConfigError: there is none of that name. The operator's to mend.
        """
        found = self.find(member)
        if found is None:
            raise ConfigError(
                f"There is no member {member}.", hint="List them: ringfence-coordinator member list"
            )
        return found

    def find(self, member: str) -> Member | None:
        """Return the member of this name, active or not, or None."""
        return self._find(members.c.id == member)

    def find_by_public_key(self, pem_spki: bytes) -> Member | None:
        """Return the member with this certificate key (SubjectPublicKeyInfo PEM), active or not."""
        return self._find(members.c.certificate_public_key == normal_public_pem(pem_spki))

    def find_by_spiffe_id(self, spiffe_id: str) -> Member | None:
        """Return the member with this SPIFFE identifier, active or not."""
        return self._find(members.c.spiffe_id == spiffe_id)

    def admit(self, member: Member) -> None:
        """Record a new member.

        Raises:
            ConfigError: the identifier or one of the keys is taken. The operator's to mend.
        """
        with self._database.transaction() as connection:
            if self.find(member.id):
                raise ConfigError(f"{member.id} is a member already.", hint="Choose another name.")
            self._require_own_keys(member)
            connection.execute(members.insert().values(**dict(member)))

    def readmit(self, member: Member) -> Member:
        """Record a known member's new certificate, and new keys where it made some; what it did before stays its own.

        Raises:
            ConfigError: there is no such member, or one of the keys is another's. The operator's to mend.
        """
        with self._database.transaction():
            known = self.get(member.id)
            self._require_own_keys(member)
            same_node = known.certificate_public_key == member.certificate_public_key
            kept = {"id", "spiffe_id", "admitted_at", "node_id"}
            return self._change(
                member.id,
                **{name: value for name, value in dict(member).items() if name not in kept},
                node_id=known.node_id if same_node else None,
            )

    def suspend(self, member: str) -> Member:
        """Refuse a member everywhere from the next call on, and return its new record.

        Raises:
            ConfigError: there is no such member, or it was removed. The operator's to mend.
        """
        with self._database.transaction():
            self._require_not_removed(member)
            return self._change(member, status="suspended")

    def resume(self, member: str) -> Member:
        """Serve a suspended member again, and return its new record.

        Raises:
            ConfigError: there is no such member, or it was removed. The operator's to mend.
        """
        with self._database.transaction():
            self._require_not_removed(member)
            return self._change(member, status="active")

    def remove(self, member: str) -> Member:
        """Refuse a member everywhere for good, and return its new record. The record of what it did stays.

        Raises:
            ConfigError: there is no such member. The operator's to mend.
        """
        return self._change(member, status="removed")

    def set_node_id(self, member: str, *, node_id: int | None) -> Member:
        """Record Flower's number for a member, and return its new record."""
        return self._change(member, node_id=node_id)

    def renew(self, member: str, *, certificate: str) -> Member:
        """Record a member's new certificate for the same key, and return its new record."""
        return self._change(member, certificate=certificate)

    def _change(self, member: str, **changes: object) -> Member:
        with self._database.transaction() as connection:
            changed = self.get(member).model_copy(update=changes)
            connection.execute(members.update().where(members.c.id == member).values(**changes))
        return changed

    def _require_own_keys(self, member: Member) -> None:
        for column, name in (
            (members.c.certificate_public_key, "key"),
            # One person with two keys would count twice towards the threshold.
            (members.c.approval_public_key, "approval key"),
        ):
            other = self._find((column == getattr(member, column.name)) & (members.c.id != member.id))
            if other is not None:
                raise ConfigError(
                    f"This {name} is {other.id}'s already.", hint="Each company makes its own identity."
                )

    def _require_not_removed(self, member: str) -> None:
        if self.get(member).status == "removed":
            raise ConfigError(
                f"{member} was removed.",
                hint=f"Let it join anew: ringfence-coordinator member invite {member} --again",
            )

    def _find(self, condition: ColumnElement[bool]) -> Member | None:
        with self._database.reading() as connection:
            row = connection.execute(select(members).where(condition)).mappings().first()
        return None if row is None else _member(row)


def _member(row: RowMapping) -> Member:
    try:
        return Member.model_validate(dict(row))
    except ValidationError as error:
        # Never passed over: a coordinator that reads its members in part would serve by half of its rules.
        raise ConfigError(
            f"The record of the member {row['id']} is damaged: {describe(error)}",
            hint="Restore the database from a backup.",
        ) from error


class ActiveMembers:
    """The members that are served now. Whoever is not found here is refused.

    Args:
        registry: all members.
    """

    def __init__(self, registry: MemberRegistry) -> None:
        self._registry = registry

    def all(self) -> tuple[Member, ...]:
        """Return every active member, by identifier."""
        return tuple(member for member in self._registry.all() if member.status == "active")

    def by_spiffe_id(self, spiffe_id: str) -> Member:
        """Return the active member with this identity.

        Raises:
            ConnectionFailedError: no active member has it. The caller's fault.
        """
        return self._active(self._registry.find_by_spiffe_id(spiffe_id))

    def by_public_key(self, pem_spki: bytes) -> Member:
        """Return the active member with this certificate key (SubjectPublicKeyInfo PEM).

        Raises:
            ConnectionFailedError: no active member has it. The caller's fault.
        """
        return self._active(self._registry.find_by_public_key(pem_spki))

    @staticmethod
    def _active(member: Member | None) -> Member:
        # Unknown and suspended read the same: a stranger learns nothing about who is a member.
        if member is None or member.status != "active":
            raise ConnectionFailedError(
                "The coordinator does not serve this identity.", hint="Ask the coordinator for its status."
            )
        return member


def new_member(
    member: str,
    *,
    spiffe_id: str,
    certificate_public_key: str,
    approval_public_key: str,
    identity_public_key: str,
    certificate: str,
    size_class: int = 256,
    now: datetime,
) -> Member:
    """Return the record of a newly admitted, active member, with its keys in the form in which they are compared."""
    return Member(
        id=member,
        spiffe_id=spiffe_id,
        certificate_public_key=normal_public_pem(certificate_public_key),
        approval_public_key=normal_public_pem(approval_public_key),
        identity_public_key=normal_public_pem(identity_public_key),
        certificate=certificate,
        size_class=size_class,
        admitted_at=now,
    )
