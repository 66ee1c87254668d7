"""What was declined stays declined for as long as it is the same bytes, whoever signs meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from trust_harness import FILES, TrustFederation, make_trust_federation

from ringfence.client.approvals import sign_draft
from ringfence.client.declined_drafts import REASONS, decline_draft, declined_drafts, declined_file
from ringfence.model.errors import ConfigError, PolicyError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    made = make_trust_federation(tmp_path)
    made.catch_up("acme", "beta")
    return made


def test_a_declined_draft_is_not_signed_until_that_is_said_although_others_signed_it_meanwhile(
    federation: TrustFederation,
) -> None:
    acme = federation.members["acme"]
    draft = federation.trust.draft_release(federation.folder("one"), version="0.1.0")
    decline_draft(acme, draft=draft, reason="fairness", now=NOW)
    federation.sign(draft, "beta")
    signed_by_beta = federation.trust.get_draft(draft.id)
    assert signed_by_beta.documents != draft.documents
    with pytest.raises(PolicyError, match="declined here on 2026-03-01: fairness") as refused:
        sign_draft(acme, draft=signed_by_beta, unsafe_unseen=True)
    assert "--although-declined" in refused.value.hint
    assert sign_draft(acme, draft=signed_by_beta, unsafe_unseen=True, although_declined=True)


def test_a_draft_that_is_written_anew_under_the_same_name_is_another_one(federation: TrustFederation) -> None:
    acme = federation.members["acme"]
    draft = federation.trust.draft_release(federation.folder("one"), version="0.1.0")
    decline_draft(acme, draft=draft, reason="quality", now=NOW)
    better = federation.folder("two", files={**FILES, "README.md": b"better\n"})
    again = federation.trust.draft_release(better, version="0.1.0", replace=True)
    assert again.id == draft.id
    assert sign_draft(acme, draft=again, unsafe_unseen=True)


def test_declined_again_the_newer_reason_holds_and_a_reason_is_one_of_a_few_codes(
    federation: TrustFederation,
) -> None:
    acme = federation.members["acme"]
    draft = federation.trust.draft_release(federation.folder("one"), version="0.1.0")
    for reason in ("quality", "privacy"):
        decline_draft(acme, draft=draft, reason=reason, now=NOW)
    assert [found.reason for found in declined_drafts(acme)] == ["privacy"]
    with pytest.raises(ConfigError) as refused:
        decline_draft(acme, draft=draft, reason="I do not like it", now=NOW)
    assert all(reason in refused.value.hint for reason in REASONS)
    assert declined_file(acme).stat().st_mode & 0o077 == 0


def test_a_record_that_cannot_be_read_lets_nothing_be_signed(federation: TrustFederation) -> None:
    acme = federation.members["acme"]
    draft = federation.trust.draft_release(federation.folder("one"), version="0.1.0")
    declined_file(acme).write_text("nonsense")
    with pytest.raises(ConfigError, match="declined"):
        sign_draft(acme, draft=draft, unsafe_unseen=True)
