"""Several conversations of the same people as one example: nobody hangs more on the sum than with whole conversations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talk_graphs import SECRET, conversations, graphs

from ringfence.model.conversation import Message
from ringfence.model.errors import BudgetError, ConfigError
from ringfence.model.head import ARCHITECTURES, HiddenLayerHead
from ringfence.model.plan import TrainingTerms
from ringfence.privacy import clipped_sum, grouping, head_gradients, torch_sum
from ringfence.privacy.bounding import (
    MOST_IN_AN_EXAMPLE,
    BoundedContributions,
    ContributionManifest,
    KeptConversation,
    bound_contributions,
    fractional_weights,
    verify_manifest,
)
from ringfence.privacy.clipped_sum import HeadGradients
from ringfence.privacy.examples import Examples, GroupedRows
from ringfence.privacy.grid import Grid
from ringfence.privacy.grouping import BOUNDS, group_contributions
from ringfence.privacy.head_modules import module_of
from ringfence.privacy.opacus_backend import ModuleGradients
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.torch_sum import DeviceHeadGradients
from ringfence.privacy.training import train_privately

DIMENSION = 12


def grouped(graph: list[list[str]], *, bound: int = 1, secret: bytes = SECRET) -> BoundedContributions:
    return group_contributions(conversations(graph), contribution_bound=bound, secret=secret)


class TestWhichConversationsAreUsed:
    @settings(max_examples=150, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_nobody_is_in_more_than_k_examples_and_the_trainer_finds_the_same(self, graph, bound):
        found = grouped(graph, bound=bound)
        examples: Counter[str] = Counter()
        at = 0
        for size in found.manifest.group_sizes:
            examples.update({person for i in found.positions[at : at + size] for person in graph[i]})
            at += size
        assert at == len(found.positions) == len(set(found.positions))
        assert max(examples.values(), default=0) == found.manifest.most_examples <= bound
        assert verify_manifest(found.manifest, contribution_bound=bound) is None
        assert max(found.manifest.group_sizes, default=0) <= MOST_IN_AN_EXAMPLE

    @settings(max_examples=80, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 4))
    def test_all_that_greedy_bounds_keep_is_kept_each_in_an_example_of_its_own(self, graph, bound):
        greedy = bound_contributions(conversations(graph), contribution_bound=bound, secret=SECRET)
        found = grouped(graph, bound=bound)
        firsts = np.cumsum([0, *found.manifest.group_sizes[:-1]]) if found.positions else []
        assert tuple(found.positions[int(first)] for first in firsts) == greedy.positions

    @settings(max_examples=80, deadline=None)
    @given(graph=graphs, bound=st.integers(1, 3))
    def test_in_one_example_nobody_who_is_not_in_all_of_it_weighs_more_than_one(self, graph, bound):
        for rows in grouped(graph, bound=bound).manifest.examples():
            weights: dict[str, list[float]] = {}
            for row in rows:
                for person in row.participants:
                    weights.setdefault(person, []).append(row.weight)
            for own in weights.values():
                assert len(own) == len(rows) or sum(own) <= 1 + 1e-9

    def test_what_one_person_has_with_several_others_is_one_example_of_whole_weights(self):
        found = grouped([["hub", f"p{i}"] for i in range(MOST_IN_AN_EXAMPLE + 3)])
        assert found.manifest.group_sizes == (MOST_IN_AN_EXAMPLE,)
        assert set(found.manifest.weights) == {1.0}

    def test_somebody_who_is_in_some_of_an_examples_conversations_makes_those_lighter(self):
        """One person in all three, another in two of them: those two weigh a half each."""
        found = grouped([["a", "b"], ["a", "b"], ["a", "c"]])
        weights = dict(zip(found.positions, found.manifest.weights, strict=True))
        assert weights == {0: 0.5, 1: 0.5, 2: 1.0}

    def test_a_conversation_between_two_examples_is_left_out(self):
        """Whoever joins two examples would be in both."""
        graph = [["a", "b"], ["c", "d"], ["b", "c"]]
        chosen = {frozenset(grouped(graph, secret=bytes([i]) * 32).positions) for i in range(30)}
        assert frozenset({0, 1}) in chosen
        # If the middle one comes first, the two others join it.
        assert chosen <= {frozenset({0, 1}), frozenset({0, 1, 2})}

    def test_content_labels_and_the_order_of_the_file_play_no_part(self):
        graph = [["a", "b"], ["a", "c"], ["a", "d"], ["b", "d"], ["e", "f"]] * 3
        plain = conversations(graph)
        other = [
            replace(c, messages=tuple(Message(m.author, "something else") for m in c.messages), label=1)
            for c in plain
        ]
        expected = grouped(graph).manifest
        for given_ in (other, plain[::-1]):
            assert group_contributions(given_, contribution_bound=1, secret=SECRET).manifest == expected

    def test_every_way_that_a_plan_may_name_keeps_the_bound(self):
        graph = [["a", "b"], ["a", "c"], ["a", "d"], ["b", "d"], ["e", "f"]] * 3
        for bounds in BOUNDS.values():
            found = bounds(conversations(graph), contribution_bound=2, secret=SECRET)
            assert verify_manifest(found.manifest, contribution_bound=2) is None

    def test_terms_out_of_range_are_refused(self):
        with pytest.raises(ConfigError):
            grouped([["a"]], bound=0)
        with pytest.raises(ConfigError):
            grouped([["a"]], secret=b"short")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # In two examples, of which one is a group.
        ([("x", ("p",), 1.0, "x"), ("y", ("p", "q"), 1.0, "x"), ("z", ("p",), 1.0)], "more conversations"),
        # In two of three conversations of one example, at full weight.
        ([("x", ("p",), 1.0, "x"), ("y", ("p",), 1.0, "x"), ("z", ("q",), 1.0, "x")], "more conversations"),
        # More than an example may hold, though all of one person.
        ([(f"x{i}", ("p",), 1.0, "x0") for i in range(9)], "too many"),
        # An example in two pieces, each of which would be clipped by itself.
        ([("x", ("p",), 1.0, "x"), ("z", ("q",), 1.0), ("y", ("p",), 1.0, "x")], "lie together"),
    ],
)
def test_a_manifest_of_groups_that_breaks_the_bound_is_refused(rows, message):
    manifest = ContributionManifest(1, tuple(KeptConversation(*row) for row in rows))
    with pytest.raises(BudgetError, match=message):
        verify_manifest(manifest, contribution_bound=1)


def test_the_digest_says_which_conversations_are_one_example_and_is_what_it_was_where_none_are():
    rows = (KeptConversation("x", ("p",)), KeptConversation("y", ("p",)))
    alone = ContributionManifest(2, rows)
    together = ContributionManifest(2, tuple(replace(row, group="x") for row in rows))
    assert alone.digest() != together.digest()
    assert alone.digest() == "bc82f02a6af64308e2ddcd69b9bec8071a3ab036389418ae8bbb9a50e8874086"


class TestExamplesAsArrays:
    @settings(max_examples=100, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=20),
        most=st.integers(1, 12),
        seed=st.integers(0, 99),
    )
    def test_stretches_hold_each_example_once_with_all_its_pairs(self, sizes, most, seed):
        examples = Examples(np.array(sizes))
        ends = np.cumsum(sizes)
        expected = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
        selected = np.random.default_rng(seed).uniform(size=len(sizes)) < 0.6
        conversations = np.flatnonzero(examples.selected_conversations(selected)).tolist()
        chosen = [part for part, is_selected in zip(expected, selected, strict=True) if is_selected]
        assert conversations == [place for part in chosen for place in part]
        found, pairs = [], set()
        everything = np.arange(sum(sizes))
        for stretch in examples.stretches(most=most):
            rows = everything[stretch.rows]
            assert len(rows) <= most or len(stretch.sizes) == 1
            starts = np.cumsum(stretch.sizes) - stretch.sizes
            found += [list(part) for part in np.split(rows, starts[1:])]
            of_rows, of_pairs = np.split(stretch.terms, [len(rows)])
            assert (stretch.example == of_rows).all()
            assert (np.bincount(of_rows) == stretch.sizes).all()
            assert (np.diff(of_rows) >= 0).all()
            for first, second, example in zip(stretch.first, stretch.second, of_pairs, strict=True):
                pairs.add((rows[first], rows[second]))
                assert starts[example] <= first < second < starts[example] + stretch.sizes[example]
        assert found == expected
        assert pairs == {(i, j) for part in expected for i in part for j in part if i < j}

    def test_an_example_whose_norm_is_not_a_number_counts_as_nothing(self):
        (group,) = Examples(np.array([2, 2])).stretches(most=4)
        factors = group.factors(np.full(4, 0.25), np.array([np.nan, 0.25]), clip_norm=0.5)
        assert factors.tolist() == [0.0, 0.0, pytest.approx(0.5), pytest.approx(0.5)]

    def test_an_example_of_nothing_is_refused(self):
        with pytest.raises(ConfigError, match="no conversation"):
            Examples(np.array([1, 0]))


def source_of(backend: str, architecture: str, features, labels, manifest: ContributionManifest, **changes):
    terms = {
        "grid": Grid(1.0, ARCHITECTURES[architecture].parameter_count(DIMENSION)),
        "positive_weight": 2.0,
        "weights": np.array(manifest.weights),
        "group_sizes": np.array(manifest.group_sizes),
        **changes,
    }
    if backend == "closed form":
        return HeadGradients(architecture, features, labels, **terms)
    if backend == "torch":
        return DeviceHeadGradients(architecture, features, labels, device="cpu", **terms)
    return ModuleGradients(module_of(architecture, DIMENSION), features.astype(np.float64), labels, **terms)


SHIPPED = [
    (backend, architecture)
    for backend in ("closed form", "torch", "opacus")
    for architecture in ARCHITECTURES
]

GRAPH = [
    ["hub", "a"], ["hub", "b"], ["hub", "b"], ["hub", "c", "b"], ["a", "c"],
    ["d", "e"], ["d", "e"], ["d", "f"], ["e", "f"], ["g", "h"], ["i", "j", "k"], ["i", "j"], ["j", "k"], ["i", "l"],
]  # fmt: skip


def examples_of(manifest: ContributionManifest, *, scale: float = 3.0):
    generator = np.random.default_rng(7)
    count = len(manifest.kept)
    features = (scale * generator.normal(size=(count, 3, DIMENSION))).astype(np.float32)
    return features, generator.integers(0, 2, size=count)


def without(features, manifest: ContributionManifest, person: str):
    """Return features in which a person's conversations count as nothing."""
    changed = features.copy()
    changed[[person in row.participants for row in manifest.kept]] = np.nan
    return changed


def people_of(manifest: ContributionManifest) -> list[str]:
    return sorted({person for row in manifest.kept for person in row.participants})


def moved_by(make, features, labels, manifest, model, person) -> float:
    """Return by how many clip norms a person moves the sum."""
    sums = [
        make(rows, labels).clipped_sum(model, selected=None)
        for rows in (features, without(features, manifest, person))
    ]
    return float(np.linalg.norm((sums[0] - sums[1]).astype(np.float64)) * 2.0**-20)


class TestTheSum:
    @pytest.mark.parametrize(("backend", "architecture"), SHIPPED)
    @pytest.mark.parametrize("bound", [1, 2])
    @pytest.mark.parametrize("scale", [0.05, 3.0, 1e8])
    def test_nobody_moves_it_by_more_than_k_clip_norms(self, backend, architecture, bound, scale):
        manifest = grouped(GRAPH, bound=bound).manifest
        assert len(manifest.group_sizes) < len(manifest.kept)
        features, labels = examples_of(manifest, scale=scale)
        grid = Grid(1.0, ARCHITECTURES[architecture].parameter_count(DIMENSION))

        def make(rows, labels):
            return source_of(backend, architecture, rows, labels, manifest)

        for seed in range(3):
            model = np.random.default_rng(seed).normal(size=grid.dimension)
            for person in people_of(manifest):
                moved = moved_by(make, features, labels, manifest, model, person)
                assert moved <= bound * grid.sensitivity

    @pytest.mark.parametrize("backend", ["closed form", "torch", "opacus"])
    def test_moves_further_if_examples_are_not_clipped(self, backend, monkeypatch):
        """All of an example's conversations pull one way, and all are of one person."""
        manifest = grouped([["hub", "a"], ["hub", "b"], ["hub", "c"]]).manifest
        assert self.moved(backend, manifest, labels=(1, 1, 1), of=3) == pytest.approx(1.0, abs=1e-3)
        monkeypatch.setattr(GroupedRows, "factors", lambda self, squares, *_, **__: np.ones(len(squares)))
        honest = torch_sum.clip_gradients
        monkeypatch.setattr(
            torch_sum,
            "clip_gradients",
            lambda rows, *, clip_norm: honest(rows, clip_norm=clip_norm) if len(rows) == 3 else rows,
        )
        assert self.moved(backend, manifest, labels=(1, 1, 1), of=3) > 2.9

    @pytest.mark.parametrize("backend", ["closed form", "torch", "opacus"])
    def test_moves_further_if_weights_are_left_out(self, backend):
        """Two conversations of somebody pull against the third: leaving them out turns the example round."""
        bounded = grouped([["hub", "a"], ["hub", "a"], ["hub", "b"]])
        labels = tuple(int(position == 2) for position in bounded.positions)
        manifest = bounded.manifest
        assert self.moved(backend, manifest, labels=labels, of=2) == pytest.approx(1.0, abs=1e-3)
        heavy = self.moved(backend, manifest, labels=labels, of=2, weights=np.ones(3))
        assert heavy == pytest.approx(2.0, abs=1e-3)

    @staticmethod
    def moved(backend, manifest, *, labels: tuple[int, ...], of: int, **changes) -> float:
        """Return how far the one person who is in so many conversations moves the sum; all say the same, very loudly."""
        counts = Counter(person for row in manifest.kept for person in row.participants)
        (person,) = (name for name, count in counts.items() if count == of)
        return moved_by(
            lambda rows, labels: source_of(backend, "linear-109", rows, labels, manifest, **changes),
            np.full((len(labels), 3, DIMENSION), 9.0, np.float32),
            np.array(labels),
            manifest,
            np.zeros(DIMENSION + 1),
            person,
        )

    @pytest.mark.parametrize(("backend", "architecture"), SHIPPED)
    @pytest.mark.parametrize("share", [None, 0.0, 0.4])
    @pytest.mark.parametrize(("size", "clip_norm"), [(3, 1.0), (1024, 1.0), (1024, 0.05), (1024, 37.0)])
    def test_is_that_of_clipping_by_hand(self, backend, architecture, share, size, clip_norm, monkeypatch):
        monkeypatch.setattr(clipped_sum, "MICRO_BATCH_ROWS", 3 * size)
        monkeypatch.setattr(torch_sum, "MICRO_BATCH", size)
        manifest = grouped(GRAPH * 2, bound=2).manifest
        features, labels = examples_of(manifest)
        grid = Grid(clip_norm, ARCHITECTURES[architecture].parameter_count(DIMENSION))
        source = source_of(backend, architecture, features, labels, manifest, grid=grid)
        model = 0.3 * np.random.default_rng(5).normal(size=grid.dimension)
        selected = None if share is None else np.random.default_rng(6).uniform(size=source.examples) < share
        expected = np.zeros(grid.dimension)
        at = 0
        gradients = source.gradients(model)
        for example, rows in enumerate(manifest.examples()):
            total = np.zeros(grid.dimension)
            for row in rows:
                total += row.weight * gradients[at] * min(1.0, clip_norm / np.linalg.norm(gradients[at]))
                at += 1
            if selected is None or selected[example]:
                expected += total * min(1.0, clip_norm / np.linalg.norm(total))
        found = source.clipped_sum(model, selected=selected) * grid.step
        assert np.abs(found - expected).max() <= 2 * grid.step
        assert expected.any() == (share != 0.0)

    @pytest.mark.parametrize(("backend", "architecture"), SHIPPED)
    @pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
    def test_is_that_of_the_others_when_a_conversation_of_an_example_is_not_finite(
        self, backend, architecture, poison
    ):
        manifest = grouped([["a", "b"], ["a", "c"], ["a", "d"]]).manifest
        features, labels = examples_of(manifest)
        poisoned = features.copy()
        poisoned[1] = poison
        left = [0, 2]
        others = ContributionManifest(1, tuple(manifest.kept[i] for i in left))
        grid = Grid(1.0, ARCHITECTURES[architecture].parameter_count(DIMENSION))
        model = np.random.default_rng(0).normal(size=grid.dimension)
        found = source_of(backend, architecture, poisoned, labels, manifest).clipped_sum(model, selected=None)
        if poison == 3e38 and np.linalg.norm(found * grid.step) > 0:
            # Its gradient may be finite, if its residual is 0: then it adds nothing that is not bounded.
            assert np.linalg.norm(found * grid.step) <= grid.sensitivity
            return
        expected = source_of(backend, architecture, features[left], labels[left], others).clipped_sum(
            model, selected=None
        )
        assert np.abs(found - expected).max() <= 2

    @pytest.mark.parametrize("backend", ["closed form", "torch", "opacus"])
    def test_is_that_of_the_other_examples_when_all_of_one_overflow(self, backend):
        """A hidden unit with an enormous weight, which only the conversations of one example turn on."""
        graph = [["a", "b"], ["a", "c"], ["d", "e"], ["d", "f"]]
        bounded = grouped(graph)
        assert bounded.manifest.group_sizes == (2, 2)
        features, labels = examples_of(bounded.manifest)
        hit = np.array(["a" in graph[position] for position in bounded.positions])
        features[:, :, 0] = np.where(hit, 5.0, -5.0)[:, None]
        units, width = HiddenLayerHead.UNITS, DIMENSION + 1
        model = 0.1 * np.random.default_rng(0).normal(size=units * width + units + 1)
        model[:width] = 0.0
        model[0], model[units * width] = 1.0, 1e200
        source = source_of(backend, HiddenLayerHead.name, features, labels, bounded.manifest)
        found = source.clipped_sum(model, selected=None)
        others = source.clipped_sum(model, selected=~hit.reshape(2, 2)[:, 0])
        assert np.abs(found - others).max() <= 1
        assert found.any()

    def cancelling(self) -> float:
        """Return how long a sum gets, in the bounds of one person, where all terms of each conversation nearly cancel."""
        manifest = grouped([["a", "b"], ["a", "c"], ["a", "d"]]).manifest
        longest = 0.0
        for seed in range(60):
            generator = np.random.default_rng(seed)
            features = generator.normal(size=(3, 2, DIMENSION)).astype(np.float32) * np.float32(1e6)
            features[:, 1] = -features[:, 0] * (1 + np.float32(1e-6))
            source = source_of("closed form", "linear-109", features, generator.integers(0, 2, 3), manifest)
            found = source.clipped_sum(np.zeros(DIMENSION + 1), selected=None) * source.grid.step
            longest = max(longest, float(np.linalg.norm(found)) / source.grid.sensitivity)
        return longest

    def test_conversations_whose_terms_cancel_are_still_clipped(self, monkeypatch):
        """Norms come from products: where their terms nearly cancel, they must not come out too short."""
        assert self.cancelling() <= 1
        monkeypatch.setattr(head_gradients, "_NORM_SLACK", 0.0)
        assert self.cancelling() > 1

    @pytest.mark.parametrize("sizes", [[2, 1], [2, 2, 1]])
    def test_groups_that_leave_conversations_out_are_refused(self, sizes):
        manifest = grouped([["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]).manifest
        features, labels = examples_of(manifest)
        with pytest.raises(ConfigError, match="groups"):
            source_of("closed form", "linear-109", features, labels, manifest, group_sizes=np.array(sizes))


class TestTraining:
    def train(self, bounded: BoundedContributions, *, rng, sample_rate: float = 1.0, k: int = 1, noise=1e-6):
        features, labels = examples_of(bounded.manifest)
        return train_privately(
            np.zeros(DIMENSION + 1),
            features=features,
            labels=labels,
            manifest=bounded.manifest,
            terms=TrainingTerms(feature_set_sha256="0" * 64, learning_rate=1.0, momentum=0.0),
            mechanism=SampledGaussian(k, sample_rate, noise, 1),
            clip_norm=1.0,
            size_class=16,
            rng=rng,
        )

    def test_takes_the_examples_of_the_manifest(self, repeatable):
        bounded = grouped(GRAPH)
        features, labels = examples_of(bounded.manifest)
        source = source_of("closed form", "linear-109", features, labels, bounded.manifest)
        expected = -source.clipped_sum(np.zeros(DIMENSION + 1), selected=None) * source.grid.step / 16
        assert self.train(bounded, rng=repeatable(0)) == pytest.approx(expected, abs=1e-5)

    def test_refuses_groups_when_examples_are_sampled(self, repeatable):
        """An example of which others remain is something without the person too: not what is accounted for."""
        bounded = grouped([["hub", "p"], ["hub", "q"]])
        self.train(bounded, rng=repeatable(0))
        with pytest.raises(BudgetError, match="full batch"):
            self.train(bounded, rng=repeatable(0), sample_rate=0.25)

    def test_refuses_somebody_in_more_than_k_examples_when_examples_are_sampled(self, repeatable):
        """Weights of a half keep the bound on the full batch; the amplification by sampling is for k examples."""
        bounded = fractional_weights(conversations([["a"], ["a"]]), contribution_bound=1, secret=SECRET)
        self.train(bounded, rng=repeatable(0))
        with pytest.raises(BudgetError, match="full batch"):
            self.train(bounded, rng=repeatable(0), sample_rate=0.25)


def test_a_bound_that_grouping_does_not_keep_is_refused_by_the_trainer(monkeypatch, repeatable):
    """With the check of who is in how many examples off, the manifest itself gives it away."""
    monkeypatch.setattr(grouping, "_weights", lambda rows: [1.0] * len(rows))
    bounded = grouped([["a", "b"], ["a", "b"], ["a", "c"]])
    with pytest.raises(BudgetError, match="more conversations"):
        TestTraining().train(bounded, rng=repeatable(0))
