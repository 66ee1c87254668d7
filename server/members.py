"""Who is a member: one JSON file each, and the one place that says so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.model.joining import SizeClass
from ringfence.model.key_files import normal_public_pem
from ringfence.model.plan import Name, describe


class Member(BaseModel):
    """A member company, as admitted.

    Attributes:
        id: the identifier that the coordinator gave it.
        status: "active", or "suspended": refused everywhere at once.
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
    status: Literal["active", "suspended"] = "active"
    spiffe_id: str
    certificate_public_key: str
    approval_public_key: str
    identity_public_key: str
    certificate: str
    size_class: SizeClass = 256
    node_id: int | None = None
    admitted_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class _Remembered:
    stamp: tuple[int, int, int]
    member: Member


class MemberRegistry:
    """The admitted members, active or not.

    Every look-up compares the files' stamps, so that a suspension by another process holds from the next call on; only
    files that changed are read again.

    Args:
        folder: the coordinator home's ``members`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remembered: dict[str, _Remembered] = {}

    def all(self) -> tuple[Member, ...]:
        """Return every member, by identifier.

        Raises:
            ConfigError: a member's file is damaged. The operator's to mend.
        """
        seen: dict[str, _Remembered] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        seen[entry.name] = self._current(Path(entry.path), entry.stat())
        except OSError as error:
            raise ConfigError(
                f"Cannot read the members in {self._folder}: {error.strerror}", hint="Check --home."
            ) from error
        self._remembered = seen
        return tuple(seen[name].member for name in sorted(seen))

    def get(self, member: str) -> Member:
        """Return one member.

        Raises:
            ConfigError: there is none of that name. The operator's to mend.
        """
        for found in self.all():
            if found.id == member:
                return found
        raise ConfigError(
            f"There is no member {member}.", hint="List them: ringfence-coordinator member list"
        )

    def find_by_public_key(self, pem_spki: bytes) -> Member | None:
        """Return the member with this certificate key (SubjectPublicKeyInfo PEM), active or not."""
        wanted = normal_public_pem(pem_spki)
        return next((found for found in self.all() if found.certificate_public_key == wanted), None)

    def find_by_spiffe_id(self, spiffe_id: str) -> Member | None:
        """Return the member with this SPIFFE identifier, active or not."""
        return next((found for found in self.all() if found.spiffe_id == spiffe_id), None)

    def admit(self, member: Member) -> None:
        """Record a new member.

        Raises:
            ConfigError: the identifier or one of the keys is taken. The operator's to mend.
        """
        with exclusive(self._folder / ".lock"):
            for other in self.all():
                if other.id == member.id:
                    raise ConfigError(f"{member.id} is a member already.", hint="Choose another --as name.")
                if other.certificate_public_key == member.certificate_public_key:
                    raise ConfigError(
                        f"This key is {other.id}'s already.", hint="Each company makes its own identity."
                    )
                if other.approval_public_key == member.approval_public_key:
                    # One person with two keys would count twice towards the threshold.
                    raise ConfigError(
                        f"This approval key is {other.id}'s already.",
                        hint="Each company makes its own identity.",
                    )
            self._write(member)

    def suspend(self, member: str) -> Member:
        """Refuse a member everywhere from the next call on, and return its new record."""
        return self._change(member, status="suspended")

    def resume(self, member: str) -> Member:
        """Serve a suspended member again, and return its new record."""
        return self._change(member, status="active")

    def set_node_id(self, member: str, *, node_id: int | None) -> Member:
        """Record Flower's number for a member, and return its new record."""
        return self._change(member, node_id=node_id)

    def renew(self, member: str, *, certificate: str) -> Member:
        """Record a member's new certificate for the same key, and return its new record."""
        return self._change(member, certificate=certificate)

    def _change(self, member: str, **changes: object) -> Member:
        with exclusive(self._folder / ".lock"):
            changed = self.get(member).model_copy(update=changes)
            self._write(changed)
        return changed

    def _write(self, member: Member) -> None:
        content = member.model_dump_json(indent=2).encode() + b"\n"
        try:
            write_atomically(self._folder / f"{member.id}.json", content)
        except OSError as error:
            raise ConfigError(
                f"Cannot record {member.id}: {error.strerror}", hint="Check the folder and the disk."
            ) from error

    def _current(self, path: Path, status: os.stat_result) -> _Remembered:
        # Files are only ever replaced whole, so that a change always shows in the inode.
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        remembered = self._remembered.get(path.name)
        if remembered is not None and remembered.stamp == stamp:
            return remembered
        try:
            member = Member.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ConfigError(
                f"{path} is not a member: {describe(error)}", hint="Restore the file."
            ) from error
        if member.id != path.stem:
            raise ConfigError(f"{path} holds the record of {member.id}.", hint="Restore the file.")
        return _Remembered(stamp, member)


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
