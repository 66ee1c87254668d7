"""Nobody counts more than k times, and what was said plays no part in who is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talk_graphs import SECRET, conversations, graphs

from ringfence.model.conversation import Message
from ringfence.model.errors import BudgetError, ConfigError, DataError
from ringfence.privacy.bounding import (
    ContributionManifest,
    KeptConversation,
    bound_contributions,
    fractional_weights,
    report_cap,
    verify_manifest,
)


class TestWholeConversations:
    @settings(max_examples=80, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_nobody_is_in_more_than_k(self, graph, bound):
        given_ = conversations(graph)
        bounded = bound_contributions(given_, contribution_bound=bound, secret=SECRET)
        counts = Counter(person for i in bounded.positions for person in set(graph[i]))
        assert max(counts.values(), default=0) <= bound
        assert verify_manifest(bounded.manifest, contribution_bound=bound) is None
        assert len(bounded.manifest.kept) == len(bounded.positions)

    @settings(max_examples=80, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_nothing_is_dropped_without_need(self, graph, bound):
        bounded = bound_contributions(conversations(graph), contribution_bound=bound, secret=SECRET)
        counts = Counter(person for i in bounded.positions for person in set(graph[i]))
        for i in set(range(len(graph))) - set(bounded.positions):
            assert not graph[i] or any(counts[person] >= bound for person in graph[i])

    def test_content_and_labels_play_no_part_in_the_choice(self):
        graph = [["a", "b"], ["a", "c"], ["a", "d"], ["b", "d"], ["a", "b", "c"]] * 3
        plain = conversations(graph)
        other = [
            replace(c, messages=tuple(Message(m.author, "something else") for m in c.messages), label=1)
            for c in plain
        ]
        kept = [bound_contributions(c, contribution_bound=2, secret=SECRET).positions for c in (plain, other)]
        assert kept[0] == kept[1]

    def test_the_order_of_the_file_plays_no_part_in_the_choice(self):
        given_ = conversations([["a", "b"], ["a", "c"], ["a", "d"], ["b", "d"]] * 5)
        forward = bound_contributions(given_, contribution_bound=2, secret=SECRET)
        backward = bound_contributions(given_[::-1], contribution_bound=2, secret=SECRET)
        assert forward.manifest == backward.manifest

    def test_another_secret_makes_another_choice(self):
        given_ = conversations([["a", f"b{i}"] for i in range(40)])
        choices = {
            bound_contributions(given_, contribution_bound=2, secret=bytes([i]) * 32).positions
            for i in range(5)
        }
        assert len(choices) > 1

    @pytest.mark.parametrize("spelling", ["Ann", "ANN", " ann ", "ａｎｎ", "anN"])
    def test_a_person_who_changes_case_stays_one_person(self, talk, spelling):
        given_ = [talk("1", "ann", "b"), talk("2", spelling, "c"), talk("3", "ann", "d")]
        bounded = bound_contributions(given_, contribution_bound=1, secret=SECRET)
        assert len(bounded.positions) == 1

    def test_somebody_who_talks_to_themselves_counts_once_in_a_conversation(self, talk):
        bounded = bound_contributions([talk("1", "ann", "ANN", "ann")], contribution_bound=1, secret=SECRET)
        assert len(bounded.manifest.kept[0].participants) == 1

    def test_a_conversation_of_nobody_is_never_kept(self, talk):
        bounded = bound_contributions([talk("1"), talk("2", "a")], contribution_bound=1, secret=SECRET)
        assert bounded.positions == (1,)

    def test_the_manifest_holds_no_id(self, talk):
        bounded = bound_contributions([talk("conversation-77", "ann")], contribution_bound=1, secret=SECRET)
        assert "conversation-77" not in repr(bounded.manifest)
        assert "ann" not in repr(bounded.manifest)

    def test_two_conversations_of_one_id_are_refused(self, talk):
        with pytest.raises(DataError, match="same id"):
            bound_contributions([talk("1", "a"), talk("1", "b")], contribution_bound=1, secret=SECRET)

    @pytest.mark.parametrize(("bound", "secret"), [(0, SECRET), (1, b"short")])
    def test_terms_out_of_range_are_refused(self, talk, bound, secret):
        with pytest.raises(ConfigError):
            bound_contributions([talk("1", "a")], contribution_bound=bound, secret=secret)

    def test_the_member_sees_what_the_cap_dropped_by_label(self, talk):
        given_ = [talk("1", "a", label=1), talk("2", "a", label=1), talk("3", "b", label=0)]
        report = report_cap(given_, bound_contributions(given_, contribution_bound=1, secret=SECRET))
        assert report.kept == {1: 1, 0: 1}
        assert report.dropped == {1: 1}


class TestFractionalWeights:
    @settings(max_examples=80, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_nobodys_weights_sum_to_more_than_k_and_nothing_is_dropped(self, graph, bound):
        bounded = fractional_weights(conversations(graph), contribution_bound=bound, secret=SECRET)
        totals: Counter[str] = Counter()
        for row in bounded.manifest.kept:
            for person in row.participants:
                totals[person] += row.weight
        assert max(totals.values(), default=0) <= bound + 1e-9
        assert verify_manifest(bounded.manifest, contribution_bound=bound) is None
        assert sorted(bounded.positions) == [i for i, people in enumerate(graph) if people]

    def test_weights_come_from_the_busiest_participant(self, talk):
        given_ = [talk("1", "a", "b"), talk("2", "a"), talk("3", "a"), talk("4", "c")]
        bounded = fractional_weights(given_, contribution_bound=1, secret=SECRET)
        weights = dict(zip(bounded.positions, bounded.manifest.weights, strict=True))
        assert weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 1.0})


@pytest.mark.parametrize(
    ("rows", "claimed", "message"),
    [
        ([("x", ("p",), 1.0), ("y", ("p",), 1.0), ("z", ("p",), 1.0)], 2, "more conversations"),
        ([("x", ("p",), 0.9), ("y", ("p",), 0.9), ("z", ("p",), 0.9)], 2, "more conversations"),
        ([("x", ("p",), 1.0)], 3, "larger contribution bound"),
        ([("x", ("p",), 1.0), ("x", ("q",), 1.0)], 2, "twice"),
        ([("x", (), 1.0)], 2, "not attributed"),
        ([("x", ("p", "p"), 1.0)], 2, "not attributed"),
        ([("x", ("p",), 1.5)], 2, "weight"),
        ([("x", ("p",), 0.0)], 2, "weight"),
        ([("x", ("p",), float("nan"))], 2, "weight"),
        ([("x", ("p",), -1.0)], 2, "weight"),
    ],
)
def test_a_manifest_that_breaks_the_bound_is_refused(rows, claimed, message):
    manifest = ContributionManifest(claimed, tuple(KeptConversation(*row) for row in rows))
    with pytest.raises(BudgetError, match=message):
        verify_manifest(manifest, contribution_bound=2)


def test_the_digest_of_a_manifest_changes_with_any_row(talk):
    digests = {
        bound_contributions(
            [talk("1", "a"), talk(second, "b")], contribution_bound=1, secret=SECRET
        ).manifest.digest()
        for second in ("2", "3")
    }
    assert len(digests) == 2
