"""What a head of the member's own is trained on and compared on: whole examples of people who are not in the other part."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.client.local_data import TrainingRows
from ringfence.client.personalisation import bounds_within, by_people
from ringfence.client.policy import default_policy
from ringfence.model.conversation import Conversation, Message
from ringfence.privacy.bounding import ContributionManifest, KeptConversation, verify_manifest
from ringfence.privacy.grouping import group_contributions


class TestParts:
    def rows(self, participants: list[tuple[str, ...]]) -> TrainingRows:
        kept = tuple(KeptConversation(f"c{number}", people) for number, people in enumerate(participants))
        features = np.arange(len(kept), dtype=np.float32).reshape(-1, 1, 1)
        return TrainingRows(features, np.zeros(len(kept), np.int64), ContributionManifest(2, kept))

    def test_nobody_is_in_both_however_long_the_chain_of_acquaintances(self) -> None:
        chains = [(f"p{number}-{link}", f"p{number}-{link + 1}") for number in range(60) for link in range(4)]
        parts = by_people(self.rows(chains), secret=b"s" * 32)
        people = [
            {person for row in part.manifest.kept for person in row.participants}
            for part in (parts.training, parts.held_out)
        ]
        assert people[0].isdisjoint(people[1])
        assert all(people)
        assert len(parts.training.labels) + len(parts.held_out.labels) == len(chains)
        for part in (parts.training, parts.held_out):
            assert [f"c{int(value)}" for value in part.features[:, 0, 0]] == [
                row.pseudonym for row in part.manifest.kept
            ]

    def test_about_a_quarter_is_held_out_and_the_same_each_time(self) -> None:
        rows = self.rows([(f"a{number}", f"b{number}") for number in range(2000)])
        first, again = (by_people(rows, secret=b"s" * 32) for _ in range(2))
        assert 400 < len(first.held_out.labels) < 600
        assert first.held_out.manifest == again.held_out.manifest
        assert by_people(rows, secret=b"t" * 32).held_out.manifest != first.held_out.manifest


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (("greedy", "fractional", "grouped"), "grouped"),
        (("fractional",), "fractional"),
        (("greedy",), "greedy"),
        ((), "greedy"),
    ],
)
def test_the_policy_says_how_the_bound_may_be_kept(allowed: tuple[str, ...], expected: str) -> None:
    default = default_policy(federation="north")
    methods = default.methods.model_copy(update={"bounds": allowed})
    assert bounds_within(default.model_copy(update={"methods": methods})) == expected


def test_parting_people_leaves_examples_whole() -> None:
    talks = [
        Conversation(f"c{n}", (Message(f"h{n // 4}", "a"), Message(f"p{n}", "b")), 0) for n in range(200)
    ]
    manifest = group_contributions(talks, contribution_bound=1, secret=b"s" * 32).manifest
    assert set(manifest.group_sizes) == {4}
    count = len(manifest.kept)
    rows = TrainingRows(np.zeros((count, 4, 108), np.float32), np.zeros(count, np.int64), manifest)
    parts = by_people(rows, secret=b"t" * 32)
    for part in (parts.training, parts.held_out):
        assert set(part.manifest.group_sizes) == {4}
        verify_manifest(part.manifest, contribution_bound=1)
