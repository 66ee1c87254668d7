"""The tables of the coordinator's database. What a row means is said by the store that owns the table.

A change here goes with a migration under ``ringfence.server.migrations``; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """A moment: aware and in UTC on both sides, also where the database knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a moment into UTC, without its zone where the database would drop it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a moment in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Unsigned64(TypeDecorator[int]):
    """A number of 64 bits without a sign, as Flower numbers nodes and runs: too large for the databases' integers."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """Write the number in decimal digits."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """Read decimal digits."""
        return None if value is None else int(value)


NAME = String(63)
DIGEST = String(64)
"""SHA-256 in hexadecimal digits."""

# What must hold in the whole database: which federation it is for.
properties = Table(
    "properties",
    metadata,
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("spiffe_id", Text, nullable=False, unique=True),
    Column("certificate_public_key", Text, nullable=False, unique=True),
    # One person with two keys would count twice towards the threshold.
    Column("approval_public_key", Text, nullable=False, unique=True),
    Column("identity_public_key", Text, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("size_class", Integer, nullable=False),
    Column("node_id", Unsigned64),
    Column("admitted_at", UtcTime, nullable=False),
    CheckConstraint("status in ('active', 'suspended', 'removed')", name="status"),
)

# The secret of an invitation is never kept: only its hash, and what was made of it.
invitations = Table(
    "invitations",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("member", NAME, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("trust_bundle_hash", LargeBinary),
    Column("again", Boolean, nullable=False),
    Column("require_approval", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("request_hash", LargeBinary),
    Column("request", LargeBinary),
    Column("certificate", Text),
    Column("approved_at", UtcTime),
    Column("used_at", UtcTime),
    CheckConstraint("state in ('open', 'waiting', 'approved', 'used', 'cancelled')", name="state"),
    Index(None, "member"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("member", NAME, ForeignKey("members.id"), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("issued_at", UtcTime, nullable=False),
    Column("not_before", UtcTime, nullable=False),
    Column("not_after", UtcTime, nullable=False),
    Index(None, "member"),
)

# Who is refused whatever certificate it shows: a member, or one certificate of it. A row without lifted_at holds.
denials = Table(
    "denials",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("member", NAME, ForeignKey("members.id"), nullable=False),
    Column("certificate_serial", String(40)),
    Column("reason", Text, nullable=False),
    Column("denied_at", UtcTime, nullable=False),
    Column("lifted_at", UtcTime),
    Index(None, "member"),
    sqlite_autoincrement=True,
)

ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("member", NAME, ForeignKey("members.id"), primary_key=True),
    Column("signed_head", LargeBinary, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("position", Integer, nullable=False, unique=True),
    Column("plan", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    Column("flower_run_id", Unsigned64),
    Column("reason", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("status in ('created', 'running', 'completed', 'failed', 'stopped')", name="status"),
)

# The model after a round; round 0 is the start.
run_checkpoints = Table(
    "run_checkpoints",
    metadata,
    Column("run", NAME, ForeignKey("runs.name"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("artifact", DIGEST, ForeignKey("artifacts.digest"), nullable=False),
)

run_events = Table(
    "run_events",
    metadata,
    Column("run", NAME, ForeignKey("runs.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", Text, nullable=False),
)

run_contributors = Table(
    "run_contributors",
    metadata,
    Column("run", NAME, ForeignKey("runs.name"), primary_key=True),
    Column("member", NAME, primary_key=True),
    Column("size_class", Integer, nullable=False),
)

# What a run leaves behind besides models, such as its evaluation.
run_documents = Table(
    "run_documents",
    metadata,
    Column("run", NAME, ForeignKey("runs.name"), primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# What people did as coordinator. The database itself refuses to change or to remove a row.
audit_events = Table(
    "audit_events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", NAME, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)
