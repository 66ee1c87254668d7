"""What leaves a member beside its answers stands in the audit log before it goes; what cannot be recorded does not go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enrolment_harness import Desk, open_desk
from ledger_homes import write_settings
from tuf.api.metadata import Metadata, Targets

from ringfence.client import approvals, approve_commands, coordinator_connection
from ringfence.client.approvals import save_signatures
from ringfence.client.audit_against_ledger import verify_departures
from ringfence.client.audit_chain import AuditBrokenError
from ringfence.client.audit_log import audit_entries, audit_file
from ringfence.client.command_line import application
from ringfence.client.identity_client import renew_identity
from ringfence.client.member_home import MemberHome
from ringfence.model.console import run_application
from ringfence.model.drafts import Draft, DraftDocument, RoleSignature


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as opened:
        yield opened


def recorded(home: MemberHome) -> list[tuple[str, str, str]]:
    return [(entry.kind, entry.purpose, entry.destination) for entry in audit_entries(audit_file(home))]


def test_joining_renewing_and_leaving_have_a_line_each(desk: Desk) -> None:
    invitation = desk.invite("acme")
    desk.join(invitation, folder="acme")
    home = desk.folder("acme")
    renew_identity(home, now=datetime.now(UTC))
    assert run_application(application, ["leave", "--yes", "--home", str(home.root)]) == 0
    assert recorded(home) == [
        ("join-request", "membership", invitation.address),
        ("renewal", "membership", desk.running.address),
        ("leave", "membership", desk.running.address),
    ]
    assert verify_departures(home).seq == 3
    joined, *_ = audit_entries(audit_file(home))
    request = json.loads(home.request_file.read_bytes())
    content = json.dumps(request, separators=(",", ":")).encode()
    assert (joined.digest, joined.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert invitation.secret.hex() not in audit_file(home).read_text()


def test_a_member_whose_log_was_changed_neither_renews_nor_leaves(desk: Desk) -> None:
    desk.join(desk.invite("acme"), folder="acme")
    home = desk.folder("acme")
    audit_file(home).write_bytes(b"")
    with pytest.raises(AuditBrokenError):
        renew_identity(home, now=datetime.now(UTC))
    assert run_application(application, ["leave", "--yes", "--home", str(home.root)]) == 1
    assert {action for action, _ in desk.actions} & {"member.renew", "member.leave"} == set()


def test_nobody_is_asked_to_admit_a_company_that_cannot_record_it(desk: Desk) -> None:
    home = desk.folder("acme").create()
    audit_file(home).write_bytes(b"{}\n")
    with pytest.raises(AuditBrokenError):
        desk.join(desk.invite("acme"), folder="acme")
    asked = {"member.ask", "member.admit", "member.admit_again"}
    assert {action for action, _ in desk.actions} & asked == set()
    desk.join(desk.invite("bolt"), folder="bolt")
    assert {action for action, _ in desk.actions} & asked, (
        "what the coordinator calls it when somebody does ask"
    )


SIGNATURES = (RoleSignature(role="stable", key_id="a" * 64, signature="b" * 128),)


def release_metadata() -> str:
    content: bytes = Metadata(Targets()).to_bytes()
    return content.decode()


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemberHome, list[str]]:
    """A member that has signed a draft, and what it has submitted so far."""
    home = MemberHome(tmp_path / "acme").create()
    write_settings(home)
    submitted: list[str] = []

    class Client:
        def __init__(self, channel: object) -> None:
            pass

        def submit(self, draft_id: str, *, signatures: object) -> Any:
            assert [entry.kind for entry in audit_entries(audit_file(home))] == ["approval"], "recorded first"
            submitted.append(draft_id)
            return SimpleNamespace(id=draft_id, purpose="", roles=(), is_complete=True)

    draft = Draft(
        id="release-0.2.0",
        purpose="a release",
        created_at=datetime.now(UTC),
        documents=(DraftDocument(role="stable", metadata=release_metadata()),),
    )
    monkeypatch.setattr(approve_commands, "_fetch", lambda name, *, home: draft)
    monkeypatch.setattr(approvals, "review", lambda *_, **__: SimpleNamespace(lines=()))
    monkeypatch.setattr(approvals, "sign_draft", lambda *_, **__: SIGNATURES)
    monkeypatch.setattr(approvals, "ApprovalClient", Client)
    monkeypatch.setattr(coordinator_connection, "open_release_channel", lambda home: nullcontext())
    return home, submitted


def sign(home: MemberHome, *more: str) -> int:
    return run_application(
        application, ["approve", "sign", "release-0.2.0", "--yes", *more, "--home", str(home.root)]
    )


def test_signatures_under_a_draft_have_a_line(signer: tuple[MemberHome, list[str]], tmp_path: Path) -> None:
    home, submitted = signer
    assert sign(home) == 0
    assert submitted == ["release-0.2.0"]
    assert recorded(home) == [("approval", "release-approval", "b:2")]
    [entry] = audit_entries(audit_file(home))
    written = tmp_path / "signatures.json"
    save_signatures(written, draft_id="release-0.2.0", signatures=SIGNATURES)
    assert entry.digest == hashlib.sha256(written.read_bytes()).hexdigest(), "what a file would have held"


def test_signatures_that_cannot_be_recorded_are_not_sent(signer: tuple[MemberHome, list[str]]) -> None:
    home, submitted = signer
    audit_file(home).write_bytes(b"{}\n")
    assert sign(home) == 1
    assert submitted == []
