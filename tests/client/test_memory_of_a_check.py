"""Memory grows by a few numbers a conversation and a person, also where conversations are short and people many."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ringfence.client.data_summary import summarise
from ringfence.model.bounds import Bounds
from ringfence.model.conversation import Conversation, Message
from ringfence.privacy.bounding import verify_manifest
from ringfence.privacy.grouping import BOUNDS

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "data_reading.py"
CONVERSATIONS = 20_000
SECRET = b"k" * 32


class ShortTalks(Sequence[Conversation]):
    """Conversations of two messages, made when they are asked for; each has two people of its own, or draws on the others'."""

    def __init__(self, *, strangers: bool) -> None:
        self._people = 2 * CONVERSATIONS if strangers else CONVERSATIONS // 8

    def __len__(self) -> int:
        return CONVERSATIONS

    def __iter__(self) -> Iterator[Conversation]:
        return map(self.__getitem__, range(CONVERSATIONS))

    def __getitem__(self, position):
        if isinstance(position, slice):
            return [self[number] for number in range(CONVERSATIONS)[position]]
        number = range(CONVERSATIONS)[position]
        two = (2 * number % self._people, (2 * number + 1 + number // self._people) % self._people)
        messages = tuple(Message(f"user-{person}", f"hello {number}", 1.7e9 + number) for person in two)
        return Conversation(f"conversation-{number}", messages, label=int(number % 10 == 0))


def peak_a_conversation(do: Callable[[], object]) -> float:
    """Return the most bytes held at once while doing something, for each conversation."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1] / CONVERSATIONS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("strangers", [True, False])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_a_check_holds_less_than_half_a_kilobyte_a_conversation(bounds: Bounds, strangers: bool) -> None:
    """With strings and sets for people and conversations it was between 0.7 and 1.8 kilobytes."""
    talks = ShortTalks(strangers=strangers)
    summarise(talks[:2000], contribution_bound=2, bounds=bounds, secret=SECRET)  # loads what knows languages
    peak = peak_a_conversation(
        lambda: summarise(talks, contribution_bound=2, bounds=bounds, secret=SECRET, part=lambda _: 0)
    )
    assert peak < 500


@pytest.mark.parametrize("strangers", [True, False])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_bounding_and_checking_it_hold_less_than_half_a_kilobyte_a_conversation(
    bounds: Bounds, strangers: bool
) -> None:
    def bound_and_check() -> None:
        manifest = BOUNDS[bounds](
            ShortTalks(strangers=strangers), contribution_bound=2, secret=SECRET
        ).manifest
        verify_manifest(manifest, contribution_bound=2)
        manifest.digest()

    assert peak_a_conversation(bound_and_check) < 500


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("people", [(), ("--people", "300000")], ids=["strangers", "acquainted"])
def test_a_million_messages_need_less_than_300_mib_in_conversations_of_two(people: tuple[str, ...]) -> None:
    command = [sys.executable, str(BENCHMARK), "--messages", "1000000", "--length", "2", *people]
    found = subprocess.run(
        [*command, "--kinds", "conversations", "--tasks", "check", "--json"],
        check=True,
        capture_output=True,
        timeout=800,
    )
    (measured,) = json.loads(found.stdout)
    assert measured["messages"] == 1_000_000
    assert 20 < measured["peak_mib"] < 300
