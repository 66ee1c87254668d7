"""Conversations that share somebody, however far round, are one group."""

from __future__ import annotations

import pytest

from ringfence.model.linked_people import linked_groups


@pytest.mark.parametrize(
    ("participants", "expected"),
    [
        ([], []),
        ([("a", "b"), ("c", "d")], [0, 1]),
        ([("a", "b"), ("c", "d"), ("b", "c")], [0, 0, 0]),
        ([("a",), ("b",), ("c",), ("c", "a")], [0, 1, 0, 0]),
        ([(), ("a",), (), ("a",)], [0, 1, 2, 1]),
        ([("a", "a"), ("b", "c", "a"), ("d",)], [0, 0, 1]),
    ],
    ids=["nothing", "strangers", "a bridge", "one by one", "nobody", "the same twice"],
)
def test_groups_are_those_that_share_somebody(
    participants: list[tuple[str, ...]], expected: list[int]
) -> None:
    assert linked_groups(participants) == expected


def test_a_chain_of_any_length_is_one_group() -> None:
    chain = [(f"p{link}", f"p{link + 1}") for link in range(20_000)]
    assert set(linked_groups(chain[::2] + chain[1::2])) == {0}
