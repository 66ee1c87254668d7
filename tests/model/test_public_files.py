"""The shipped public files fit what they are said to be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

DATA = Path(__file__).parents[2] / "examples" / "data"


def test_the_benign_chat_ships_once_small_and_with_its_licence() -> None:
    part = DATA / "chitchat-part.jsonl.gz"
    assert part.stat().st_size < 2_500_000
    assert "MIT License" in (DATA / "NOTICE.md").read_text(encoding="utf-8")
    packaged = DATA.parents[1] / "demo" / "data"
    assert packaged.is_symlink()
    assert packaged.resolve() == DATA.resolve()


def test_the_benign_chat_holds_no_label_but_zero_and_no_name_but_ids() -> None:
    with gzip.open(DATA / "chitchat-part.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            assert item["label"] == 0
            assert all(message["author"].startswith(item["id"]) for message in item["messages"])
