"""Evidence of an invented run, and a desk to lay it on and look at it with ``ringfence evidence``."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.evidence_commands import application
from ringfence.client.member_home import MemberHome
from ringfence.model.console import run_application
from ringfence.model.evidence import LedgerReceipt, PrivacyEvidence, PublicInput
from ringfence.model.key_files import public_pem
from ringfence.model.plan import Plan
from ringfence.privacy.ledger_anchor import sign_head
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.server.run_evidence import evidence_of_run

INPUT = PublicInput(name="features", origin="public chat", licence="MIT")
KEYS = {member: Ed25519PrivateKey.generate() for member in ("acme", "bell", "core")}


def plan_of(*, cohort: int = 3, demonstration: bool = False, **privacy: Any) -> Plan:
    return Plan.model_validate(
        {
            "name": "spring",
            "federation": "north",
            "demonstration": demonstration,
            "training": {"feature_set_sha256": "a" * 64, "rounds": 10, "local_steps": 30},
            "privacy": {"noise_multiplier": 77.25, **privacy},
            "cohort": {"minimum": cohort},
        }
    )


PLAN = plan_of()


def receipt(member: str, head: LedgerHead, *, key: Ed25519PrivateKey | None = None) -> LedgerReceipt:
    signed = sign_head(head, key=key or KEYS[member])
    return LedgerReceipt(member=member, head=head.hash, signature=base64.b64encode(signed).decode())


def head_of(member: str, seq: int = 11, mark: str = "") -> LedgerHead:
    return LedgerHead(f"{ord(member[0]):02x}" * 32, seq, f"{ord(member[0]) + len(mark):02x}" * 32)


def evidence_for(plan: Plan = PLAN, **changes: Any) -> PrivacyEvidence:
    arguments: dict[str, Any] = {
        "dimension": 109,
        "contributors": 3,
        "size_classes": [256, 256, 512],
        "public_inputs": [INPUT],
        "receipts": [receipt(member, head_of(member)) for member in KEYS],
    }
    return evidence_of_run(plan, **arguments | changes)


class Desk:
    """A folder with evidence in it, and the commands that look at it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.file = folder / "privacy.json"
        self.plan = folder / "plan.json"
        self.home = MemberHome(folder / "home")
        self.receipts = folder / "receipts"
        self.receipts.mkdir()

    def lay(self, evidence: PrivacyEvidence, *, plan: Plan | None = PLAN) -> None:
        self.file.write_text(evidence.to_json())
        if plan is not None:
            self.plan.write_bytes(plan.canonical_json())

    def give_key(self, member: str, *, key: Ed25519PrivateKey | None = None) -> None:
        pem = public_pem((key or KEYS[member]).public_key())
        (self.receipts / f"{member}.pem").write_text(pem)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = run_application(application, [*arguments, "--home", str(self.home.root)])
        written = self._capsys.readouterr()
        return code, written.out, written.err

    def verify(self, *more: str) -> tuple[int, str]:
        given = ["--plan", str(self.plan)] if self.plan.exists() else []
        code, out, err = self.run("verify", str(self.file), *given, *more)
        return code, out + err

    def checks(self, *more: str) -> dict[str, Any]:
        code, out, err = self.run("verify", str(self.file), "--json", *more)
        assert code == 0, err
        return {item["name"]: item for item in json.loads(out)["data"]["checks"]}


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)
