"""The choice in numbers is the choice that was made in strings: same conversations, same weights, same examples, same manifest."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talk_graphs import SECRET, conversations, graphs

from ringfence.model.errors import BudgetError
from ringfence.privacy import digest_table
from ringfence.privacy.bounding import (
    MOST_IN_AN_EXAMPLE,
    ContributionManifest,
    KeptConversation,
    KeptConversations,
    choose_whole,
    normalise_participant,
    verify_manifest,
)
from ringfence.privacy.digest_table import DigestTable, ranks, sorted_order
from ringfence.privacy.grouping import BOUNDS
from ringfence.privacy.talk_graph import TalkGraph


def pseudonym(secret: bytes, kind: str, value: str) -> str:
    return hmac.new(secret, f"{kind}|{value}".encode(), hashlib.sha256).hexdigest()


def rows_of(given_, secret: bytes) -> list[KeptConversation]:
    return [
        KeptConversation(
            pseudonym(secret, "conversation", item.id),
            tuple(
                sorted(
                    {pseudonym(secret, "participant", normalise_participant(a)) for a in item.participants}
                )
            ),
        )
        for item in given_
    ]


def greedy(rows, bound: int) -> list[int]:
    used: Counter[str] = Counter()
    positions = []
    for position in sorted(range(len(rows)), key=lambda index: rows[index].pseudonym):
        people = rows[position].participants
        if people and all(used[person] < bound for person in people):
            used.update(people)
            positions.append(position)
    return positions


def fractional(rows, bound: int):
    degree = Counter(person for row in rows for person in row.participants)
    positions = [index for index, row in enumerate(rows) if row.participants]
    positions.sort(key=lambda index: rows[index].pseudonym)
    kept = [
        replace(rows[p], weight=min(1.0, *(bound / degree[person] for person in [*rows[p].participants] * 2)))
        for p in positions
    ]
    return positions, kept


def grouped(rows, bound: int):
    alone = greedy(rows, bound)
    examples = [[position] for position in alone]
    of_person: dict[str, set[int]] = {}
    for example, position in enumerate(alone):
        for person in rows[position].participants:
            of_person.setdefault(person, set()).add(example)
    left_out = set(range(len(rows))).difference(alone)
    for position in sorted(left_out, key=lambda index: rows[index].pseudonym):
        people = rows[position].participants
        busy = [of_person[person] for person in people if len(of_person.get(person, ())) >= bound]
        open_to_it = {
            example
            for example in (set.intersection(*busy) if busy else set())
            if len(examples[example]) < MOST_IN_AN_EXAMPLE
        }
        known = Counter(example for person in people for example in of_person.get(person, ()))
        chosen = min(open_to_it, key=lambda example: (-known[example], example), default=None)
        if chosen is not None:
            examples[chosen].append(position)
            for person in people:
                of_person.setdefault(person, set()).add(chosen)
    kept = []
    for members in examples:
        appearances = Counter(person for position in members for person in rows[position].participants)
        for position in members:
            counts = [appearances[person] for person in rows[position].participants]
            weight = 1.0 / max((count for count in counts if count < len(members)), default=1)
            group = rows[members[0]].pseudonym if len(members) > 1 else ""
            kept.append(replace(rows[position], weight=weight, group=group))
    return [position for members in examples for position in members], kept


def of_before(name: str, given_, *, bound: int, secret: bytes):
    rows = rows_of(given_, secret)
    if name == "greedy":
        positions = greedy(rows, bound)
        return positions, [rows[position] for position in positions]
    return (fractional if name == "fractional" else grouped)(rows, bound)


def examples_of(kept) -> list[list[KeptConversation]]:
    return [list(rows) for _, rows in itertools.groupby(kept, key=lambda row: row.example)]


def contribution_of(kept) -> float:
    totals: dict[str, float] = {}
    for rows in examples_of(kept):
        weights: dict[str, list[float]] = {}
        for row in rows:
            for person in row.participants:
                weights.setdefault(person, []).append(row.weight)
        for person, own in weights.items():
            most = 1.0 if len(own) == len(rows) else 2.0
            totals[person] = totals.get(person, 0.0) + min(sum(own), most)
    return max(totals.values(), default=0.0)


def most_examples_of(kept) -> int:
    counts: Counter[str] = Counter()
    for rows in examples_of(kept):
        counts.update({person for row in rows for person in row.participants})
    return max(counts.values(), default=0)


def digest_of(kept, bound: int) -> str:
    state = hashlib.sha256(f"{bound}".encode())
    for row in kept:
        grouped_ = f"|{row.group}" if row.group else ""
        state.update(f"|{row.pseudonym}|{','.join(row.participants)}|{row.weight!r}{grouped_}".encode())
    return state.hexdigest()


def refusal_of(kept, bound: int) -> str:
    """Return a word of the error that a manifest meets, or nothing."""
    if len({row.pseudonym for row in kept}) != len(kept):
        return "twice"
    for row in kept:
        if not row.participants or len(set(row.participants)) != len(row.participants):
            return "not attributed"
        if not (math.isfinite(row.weight) and 0.0 < row.weight <= 1.0):
            return "weight"
    names = [rows[0].example for rows in examples_of(kept)]
    if len(set(names)) != len(names):
        return "lie together"
    if max(map(len, examples_of(kept)), default=1) > MOST_IN_AN_EXAMPLE:
        return "too many"
    return "more conversations" if contribution_of(kept) > bound + 1e-9 else ""


def check_same(name: str, given_, *, bound: int, secret: bytes = SECRET) -> None:
    positions, kept = of_before(name, given_, bound=bound, secret=secret)
    found = BOUNDS[name](given_, contribution_bound=bound, secret=secret)
    manifest = found.manifest
    assert found.positions == tuple(positions)
    assert manifest.kept == tuple(kept)
    assert tuple(kept) == manifest.kept
    assert list(manifest.kept) == kept
    assert manifest.digest() == digest_of(kept, bound)
    assert manifest.weights == tuple(row.weight for row in kept)
    assert manifest.group_sizes == tuple(len(rows) for rows in examples_of(kept))
    assert [list(rows) for rows in manifest.examples()] == examples_of(kept)
    assert manifest.largest_contribution == contribution_of(kept)
    assert manifest.most_examples == most_examples_of(kept)
    assert verify_manifest(manifest, contribution_bound=bound) is None
    of_rows = ContributionManifest(bound, tuple(kept))
    assert of_rows == manifest
    assert of_rows.largest_contribution == manifest.largest_contribution
    assert of_rows.most_examples == manifest.most_examples
    assert (of_rows.digest(), of_rows.weights, of_rows.group_sizes) == (
        manifest.digest(),
        manifest.weights,
        manifest.group_sizes,
    )


@pytest.mark.parametrize("name", BOUNDS)
class TestTheChoice:
    @settings(max_examples=150, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_is_that_of_before_on_small_graphs(self, name, graph, bound):
        check_same(name, conversations(graph), bound=bound)

    @pytest.mark.parametrize("bound", [1, 2, 3, 8, 64])
    @pytest.mark.parametrize(
        ("people", "count", "most"), [(30, 400, 3), (600, 2_000, 4), (6_000, 2_500, 2), (40, 300, 12)]
    )
    def test_is_that_of_before_on_larger_graphs(self, name, bound, people, count, most):
        """Some people are in many conversations, most in few, and spellings differ."""
        rng = random.Random(people * bound + most)
        graph = [
            [f"{rng.choice('Pp')}{int(people * rng.random() ** 3)}" for _ in range(rng.randint(0, most))]
            for _ in range(count)
        ]
        check_same(name, conversations(graph), bound=bound, secret=rng.randbytes(32))

    def test_rows_are_found_one_by_one_from_either_end_and_in_pieces(self, name):
        given_ = conversations([["a", "b"], ["a", "c"], ["b", "c"], [], ["a", "d"], ["e"], ["a", "b"]] * 4)
        expected = of_before(name, given_, bound=2, secret=SECRET)[1]
        kept = BOUNDS[name](given_, contribution_bound=2, secret=SECRET).manifest.kept
        assert [kept[place] for place in range(-len(kept), len(kept))] == expected + expected
        assert [*reversed(kept)] == expected[::-1]
        for piece in (slice(1, 3), slice(None, None, -2), slice(5, 2), slice(-3, None)):
            assert kept[piece] == expected[piece]
        for place in (len(kept), -len(kept) - 1):
            with pytest.raises(IndexError):
                kept[place]
        assert kept != expected[:-1]
        assert kept != [*expected[:-1], replace(expected[-1], weight=0.3)]
        assert kept != "kept"


rows = st.lists(
    st.builds(
        KeptConversation,
        st.sampled_from([f"c{i}" for i in range(40)]),
        st.lists(st.sampled_from("pqrst"), min_size=1, max_size=3).map(tuple),
        st.sampled_from([1.0, 1.0, 0.5, 1 / 3]),
        st.sampled_from(["", "", "c1", "c2"]),
    ),
    max_size=9,
)


@settings(max_examples=500, deadline=None)
@given(
    kept=rows,
    bound=st.integers(1, 4),
    change=st.sampled_from(["", "nobody", "nan", "zero", "above", "infinite"]),
)
def test_what_the_trainer_refuses_is_what_it_refused(kept, bound, change):
    if change and kept:
        weight = {"nan": math.nan, "zero": 0.0, "above": 1.1, "infinite": math.inf}
        kept[-1] = (
            replace(kept[-1], participants=())
            if change == "nobody"
            else replace(kept[-1], weight=weight[change])
        )
    manifest = ContributionManifest(bound, tuple(kept))
    expected = refusal_of(kept, bound)
    with pytest.raises(BudgetError, match=expected) if expected else contextlib.nullcontext():
        verify_manifest(manifest, contribution_bound=bound)
    if all(math.isfinite(row.weight) for row in kept):
        assert manifest.largest_contribution == contribution_of(kept)
    assert manifest.most_examples == most_examples_of(kept)


@pytest.mark.parametrize(("names", "refused"), [("abc", False), ("aba", True)])
def test_the_trainer_goes_by_the_pseudonyms_and_not_by_the_numbers_of_a_graph(names, refused):
    """Somebody who had two numbers would count twice as often as is allowed."""
    graph = TalkGraph(
        conversations=np.frombuffer(b"".join(n.encode() * 32 for n in "xyz"), np.uint8).reshape(-1, 32),
        starts=np.arange(4),
        people=np.arange(3, dtype=np.int32),
        names=np.frombuffer(b"".join(n.encode() * 32 for n in names), np.uint8).reshape(-1, 32),
    )
    manifest = ContributionManifest(1, KeptConversations(graph, choose_whole(graph, 1)))
    assert len(manifest.kept) == 3
    with pytest.raises(BudgetError, match="more conversations") if refused else contextlib.nullcontext():
        verify_manifest(manifest, contribution_bound=1)


class TestDigests:
    def test_get_one_number_each_in_the_order_met(self):
        """Many share their first eight bytes, so that only the rest tells them apart."""
        rng = random.Random(3)
        starts = [rng.randbytes(8) for _ in range(300)]
        digests = [rng.choice(starts) + rng.choice(starts) for _ in range(5_000)]
        table = DigestTable(16)
        assert [table.number(digest) for digest in digests] == [
            list(dict.fromkeys(digests)).index(digest) for digest in digests
        ]
        assert [bytes(digest) for digest in table.digests()] == list(dict.fromkeys(digests))
        assert len(table) == len(set(digests))

    def test_of_more_than_a_block_keep_their_numbers_when_the_table_grows(self, monkeypatch):
        monkeypatch.setattr(digest_table, "_BLOCK", 100)
        table = DigestTable(32)
        digests = [hashlib.sha256(str(n).encode()).digest() for n in range(20_000)]
        assert [table.number(digest) for digest in digests] == list(range(20_000))
        assert [table.number(digest) for digest in digests] == list(range(20_000))

    @pytest.mark.parametrize("shared", [0, 8, 31])
    def test_are_put_in_order_and_ranked_by_all_their_bytes(self, shared):
        rng = random.Random(shared)
        digests = [bytes(shared) + rng.randbytes(32 - shared) for _ in range(600)]
        digests += digests[:50]
        found = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        assert sorted_order(found).tolist() == sorted(range(len(digests)), key=digests.__getitem__)
        smaller = sorted(set(digests))
        assert ranks(found).tolist() == [smaller.index(digest) for digest in digests]
