"""Answers as a member's firewall gives them out, for tests that send without an agent; and ledger heads to go with them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from ringfence.client.audit_log import AuditLog
from ringfence.client.firewall import Cleared, Firewall, Question
from ringfence.client.stored_answer import Charged, StoredAnswer
from ringfence.model.round_messages import Refusal, RoundUpdate, TrainUpdate

PURPOSE = "grooming-risk-detection"
HEAD_HASH = "d" * 64


def question_to(update: TrainUpdate, *, numbers: int | None = None) -> Question:
    """Return the question that an update answers."""
    return Question(
        run=update.run,
        plan_digest=update.plan_digest,
        kind="train-update",
        round=update.round,
        attempt=update.attempt,
        purpose=PURPOSE,
        numbers=update.update.size if numbers is None else numbers,
        digest="c" * 64,
    )


def charged(update: RoundUpdate, *, question: str = "c" * 64, head: str = HEAD_HASH) -> Charged:
    """Return what a ledger says that has charged an answer to a question of this digest."""
    stored = StoredAnswer(question=question, update=update).encode()
    return Charged(payload=hashlib.sha256(stored).hexdigest(), head=head)


def cleared(answer: TrainUpdate | Refusal) -> Cleared:
    """Return an answer as the firewall of a member without a ledger clears it."""
    with tempfile.TemporaryDirectory() as folder:
        firewall = Firewall(
            AuditLog(Path(folder) / "audit.jsonl"), destination="127.0.0.1:1", ledger_required=False
        )
        question = question_to(answer) if isinstance(answer, TrainUpdate) else None
        return firewall.clear(answer, question=question)


def signed_head(*, hash_: str = HEAD_HASH, **more: object) -> bytes:
    """Return something of the form of a signed ledger head."""
    content = {"hash": hash_, "ledger": "e" * 64, "seq": 7, **more}
    return bytes(64) + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
