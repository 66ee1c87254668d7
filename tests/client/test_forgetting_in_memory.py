"""A warm worker lets go of a person whom the member forgets between two rounds."""

from __future__ import annotations

from pathlib import Path

from ringfence.client.local_training import LocalTrainer
from ringfence.client.member_home import MemberHome


def test_a_warm_trainer_lets_go_of_its_rows_when_somebody_is_forgotten(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme").create()
    trainer = LocalTrainer(home, has_ledger=True)
    trainer._notice_forgotten()
    trainer._prepared = {("plan", (1.0,), "greedy"): object()}  # type: ignore[dict-item]
    trainer._notice_forgotten()
    assert trainer._prepared, "nothing was forgotten, so nothing is read again"
    home.exclusions_file.write_text("{}")
    trainer._notice_forgotten()
    assert trainer._prepared == {}
