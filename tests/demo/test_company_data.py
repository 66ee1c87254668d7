"""Companies of a demonstration: one a file, each with a name of its own, or one file split with people kept together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.demo.company_data import companies_from_corpus, write_jsonl
from ringfence.model.conversation import Conversation, Message

LONG = "a-name-that-goes-on-and-on-for-longer-than-anybody-reads"


def conversations(count: int, *, people: str) -> list[Conversation]:
    """Every second is positive; each is between two people whom no other has."""
    return [
        Conversation(
            id=f"{people}-{number}",
            messages=tuple(
                Message(author=f"{people}-{number}-{side}", text="the heron waits", time=None)
                for side in "ab"
            ),
            label=int(number % 2 == 0),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["birch.jsonl", "Cedar Forum.jsonl"], ["birch", "cedar-forum"]),
        (["x/birch.jsonl", "y/birch.jsonl", "z/birch.jsonl"], ["birch", "birch-2", "birch-3"]),
        (["x/birch.jsonl", "y/birch.jsonl", "birch-2.jsonl"], ["birch", "birch-2", "birch-2-2"]),
        ([f"{LONG}-one.jsonl", f"{LONG}-two.jsonl"], [LONG[:32].rstrip("-"), LONG[:30] + "-2"]),
        (["coordinator.jsonl", "alder.jsonl"], ["coordinator-2", "alder"]),
        # What makes no name gets one from the list, and the list may have been used up by a file.
        (["birch.jsonl", "журнал.jsonl", "--.jsonl"], ["birch", "birch-2", "cedar"]),
    ],
    ids=["as they are", "alike", "alike with a suffix", "alike when cut", "reserved", "no name"],
)
def test_every_file_makes_a_company_with_a_name_of_its_own(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    paths = [tmp_path / file for file in files]
    for place, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        write_jsonl(path, conversations(80, people=f"p{place}"))
    found = companies_from_corpus(paths, members=3, conversations=None, seed=1).companies
    assert [company.name for company in found] == names
    assert len(set(names)) == len(names)
    # In the order of the files: every company has its own file's people.
    assert [company.train[0].id.split("-")[0] for company in found] == [
        f"p{place}" for place in range(len(paths))
    ]
