"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "audit_events",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=63), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_events")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("trust_bundle_hash", sa.LargeBinary(), nullable=True),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("require_approval", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=True),
        sa.Column("request", sa.LargeBinary(), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('open', 'waiting', 'approved', 'used', 'cancelled')", name=op.f("ck_invitations_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_invitations_secret_hash")),
    )
    op.create_index(op.f("ix_invitations_member"), "invitations", ["member"], unique=False)
    op.create_table(
        "members",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("certificate_public_key", sa.Text(), nullable=False),
        sa.Column("approval_public_key", sa.Text(), nullable=False),
        sa.Column("identity_public_key", sa.Text(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("size_class", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=20), nullable=True),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status in ('active', 'suspended', 'removed')", name=op.f("ck_members_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("approval_public_key", name=op.f("uq_members_approval_public_key")),
        sa.UniqueConstraint("certificate_public_key", name=op.f("uq_members_certificate_public_key")),
        sa.UniqueConstraint("spiffe_id", name=op.f("uq_members_spiffe_id")),
    )
    op.create_table(
        "properties",
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_properties")),
    )
    op.create_table(
        "runs",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("flower_run_id", sa.String(length=20), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status in ('created', 'running', 'completed', 'failed', 'stopped')", name=op.f("ck_runs_status")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_runs")),
        sa.UniqueConstraint("position", name=op.f("uq_runs_position")),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["member"], ["members.id"], name=op.f("fk_certificates_member")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
    )
    op.create_index(op.f("ix_certificates_member"), "certificates", ["member"], unique=False)
    op.create_table(
        "denials",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("certificate_serial", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("denied_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["member"], ["members.id"], name=op.f("fk_denials_member")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_denials")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_denials_member"), "denials", ["member"], unique=False)
    op.create_table(
        "ledger_heads",
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("signed_head", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["member"], ["members.id"], name=op.f("fk_ledger_heads_member")),
        sa.PrimaryKeyConstraint("member", name=op.f("pk_ledger_heads")),
    )
    op.create_table(
        "run_checkpoints",
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.digest"], name=op.f("fk_run_checkpoints_artifact")),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name=op.f("fk_run_checkpoints_run")),
        sa.PrimaryKeyConstraint("run", "round", name=op.f("pk_run_checkpoints")),
    )
    op.create_table(
        "run_contributors",
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("size_class", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name=op.f("fk_run_contributors_run")),
        sa.PrimaryKeyConstraint("run", "member", name=op.f("pk_run_contributors")),
    )
    op.create_table(
        "run_documents",
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name=op.f("fk_run_documents_run")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_documents")),
    )
    op.create_table(
        "run_events",
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name=op.f("fk_run_events_run")),
        sa.PrimaryKeyConstraint("run", "number", name=op.f("pk_run_events")),
    )
    _keep_audit_events()


def _keep_audit_events() -> None:
    """Have the database refuse to change or to remove what was audited."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_events_no_{verb.lower()} BEFORE {verb} ON audit_events "
                "BEGIN SELECT RAISE(ABORT, 'audit events are only added'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'audit events are only added'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_events_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()"
    )
