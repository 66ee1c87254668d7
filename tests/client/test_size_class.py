"""What a company declares in public: one rule, by its conversations, whatever a plan's contribution bound keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.client.join_commands import _size_class
from ringfence.privacy.training import nearest_size_class


@pytest.mark.parametrize(("conversations", "declared"), [(1, 1), (100, 128), (600, 512), (1000, 1024)])
def test_a_company_that_joins_with_files_declares_the_nearest_power_of_two(
    tmp_path: Path, conversations: int, declared: int
) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    paths[0].write_text("{}\n" * (conversations - 1) + "\n\n")
    paths[1].write_text("{}\n")
    assert _size_class(paths) == declared == nearest_size_class(conversations)


def test_without_a_conversation_nothing_is_declared(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert _size_class([tmp_path / "empty.jsonl"]) is None
