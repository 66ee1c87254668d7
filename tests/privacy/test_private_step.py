"""A step draws its noise once, whatever the data, and divides by a public constant."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.model.head import LinearHead
from ringfence.model.metrics import area_under_roc
from ringfence.model.plan import PrivacyTerms, TrainingTerms
from ringfence.privacy import head_modules, private_step, training
from ringfence.privacy.bounding import ContributionManifest, KeptConversation
from ringfence.privacy.clipped_sum import LinearHeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_modules import LinearModule
from ringfence.privacy.private_step import StepTerms, private_gradient, private_gradients
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import nearest_size_class, train_privately, train_without_privacy

DIMENSION = 6
NOISE_WORDS = 2 * 3 * 4
"""Of one step: two draws of seven normals, each from four pairs, each of three words."""
TERMS = TrainingTerms(feature_set_sha256="0" * 64, momentum=0.9, learning_rate=0.4)


def examples(count: int, *, seed: int = 0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 3, DIMENSION)).astype(np.float32)
    labels = (features.mean(axis=1)[:, 0] > 0).astype(np.int64)
    return features, labels


def source_of(count: int, **changes):
    features, labels = examples(count)
    return LinearHeadGradients(
        features, labels, grid=Grid(1.0, DIMENSION + 1), positive_weight=2.0, **changes
    )


class TestOneStep:
    @pytest.mark.parametrize("sample_rate", [None, 0.5, 1e-9])
    def test_draws_as_much_randomness_whatever_the_sample_holds(self, repeatable, sample_rate):
        rng = repeatable(3)
        terms = StepTerms(noise_multiplier=1.0, sample_rate=sample_rate, divisor=64)
        private_gradient(source_of(50), np.zeros(DIMENSION + 1), terms=terms, rng=rng)
        coins = 0 if sample_rate is None else 50
        assert (
            rng.drawn == coins + 2 * 3 * 4
        )  # two draws of seven normals, each from four pairs of three words

    def test_with_an_empty_sample_is_noise_and_nothing_else(self, repeatable):
        terms = StepTerms(noise_multiplier=1.0, sample_rate=1e-9, divisor=64)
        source = source_of(50)
        found = private_gradient(source, np.zeros(DIMENSION + 1), terms=terms, rng=repeatable(3))
        (noise,) = source.grid.noise(repeatable(3), noise_multiplier=1.0, steps=1)
        assert np.array_equal(found, noise * source.grid.step / 64)

    def test_divides_by_the_public_constant_and_not_by_what_came(self, repeatable):
        gradients = [
            private_gradient(
                source_of(count),
                np.zeros(DIMENSION + 1),
                terms=StepTerms(noise_multiplier=1e-6, sample_rate=None, divisor=64),
                rng=repeatable(1),
            )
            for count in (20, 40)
        ]
        sums = [source_of(count).clipped_sum(np.zeros(DIMENSION + 1), selected=None) for count in (20, 40)]
        for gradient, total in zip(gradients, sums, strict=True):
            assert gradient == pytest.approx(total * 2.0**-20 / 64, abs=1e-6)

    def test_is_asked_once_and_in_the_process_that_drew_its_noise(self, repeatable, monkeypatch):
        terms = StepTerms(noise_multiplier=1.0, sample_rate=None, divisor=64)
        model = np.zeros(DIMENSION + 1)
        steps = private_gradients(source_of(50), terms=terms, steps=4, rng=repeatable(1))
        first, second, third = (next(steps) for _ in range(3))
        another = copy.copy(first)
        assert not np.array_equal(first(model), second(model))
        for used in (first, another):
            with pytest.raises(BudgetError, match="used once"):
                used(model)
        monkeypatch.setattr(private_step.os, "getpid", lambda: 1)
        for drawn_elsewhere in (third, next(steps)):
            with pytest.raises(BudgetError, match="process that drew it"):
                drawn_elsewhere(model)

    def test_has_noise_of_its_own_however_many_are_drawn_together(self, repeatable, monkeypatch):
        """The same words in the same order: nothing is used twice where one drawing ends and the next begins."""
        monkeypatch.setattr(private_step, "NOISE_AT_ONCE", 3)
        terms = StepTerms(noise_multiplier=1.0, sample_rate=None, divisor=64)
        rng = repeatable(1)
        found = [
            step(np.zeros(DIMENSION + 1))
            for step in private_gradients(source_of(50), terms=terms, steps=7, rng=rng)
        ]
        assert len(found) == len({gradient.tobytes() for gradient in found}) == 7
        assert rng.drawn == 7 * NOISE_WORDS

    @pytest.mark.parametrize(
        "terms",
        [
            {"noise_multiplier": 0.0},
            {"noise_multiplier": float("nan")},
            {"noise_multiplier": float("inf")},
            {"divisor": 0.0},
            {"divisor": float("nan")},
        ],
    )
    def test_without_noise_or_divisor_is_refused(self, terms):
        with pytest.raises(ConfigError):
            StepTerms(**{"noise_multiplier": 1.0, "sample_rate": None, "divisor": 64, **terms})


class TestTraining:
    def train(self, strangers, *, count=50, size_class=64, rng=None, privacy=None, manifest=None, **changes):
        features, labels = examples(count)
        privacy = privacy or PrivacyTerms(contribution_bound=1, noise_multiplier=2.0)
        return train_privately(
            changes.pop("parameters", np.zeros(DIMENSION + 1)),
            features=features,
            labels=labels,
            manifest=manifest or strangers(count),
            terms=TERMS,
            mechanism=SampledGaussian(
                privacy.contribution_bound,
                privacy.sample_rate,
                privacy.noise_multiplier,
                changes.pop("steps", 5),
            ),
            clip_norm=privacy.clip_norm,
            size_class=size_class,
            rng=rng or Csprng(),
        )

    def test_gives_two_members_with_the_same_data_different_models(self, strangers):
        assert not np.allclose(self.train(strangers), self.train(strangers))

    def test_draws_as_much_noise_as_it_takes_steps(self, strangers, repeatable):
        rng = repeatable(0)
        self.train(strangers, rng=rng, steps=7)
        assert rng.drawn == 7 * NOISE_WORDS

    def test_is_momentum_descent_on_the_noised_gradients(self, strangers, repeatable):
        found = self.train(strangers, rng=repeatable(9), steps=3)
        source = source_of(50)
        noise = source.grid.noise(repeatable(9), noise_multiplier=2.0, steps=3)
        model, velocity = np.zeros(DIMENSION + 1), np.zeros(DIMENSION + 1)
        for own in noise:
            noised = source.clipped_sum(model, selected=None) + own
            velocity = 0.9 * velocity + noised * source.grid.step / 64
            model = model - 0.4 * velocity
        assert np.array_equal(found, model)

    def test_decays_weights_and_leaves_the_bias_alone(self, monkeypatch, strangers, repeatable):
        start = np.arange(1.0, DIMENSION + 2)
        plain = self.train(strangers, parameters=start, rng=repeatable(9), steps=1)
        monkeypatch.setitem(globals(), "TERMS", TERMS.model_copy(update={"weight_decay": 0.25}))
        decayed = self.train(strangers, parameters=start, rng=repeatable(9), steps=1)
        assert decayed - plain == pytest.approx(-0.4 * 0.25 * np.append(start[:-1], 0.0), abs=1e-12)
        features, labels = examples(50)
        open_ = [
            train_without_privacy(start, features=features, labels=labels, terms=terms, steps=1)
            for terms in (TERMS, TERMS.model_copy(update={"weight_decay": 0.0}))
        ]
        assert open_[0] - open_[1] == pytest.approx(decayed - plain, abs=1e-12)

    def test_learns_when_there_is_enough_data_for_the_noise(self, strangers):
        features, labels = examples(2000)
        privacy = PrivacyTerms(contribution_bound=1, noise_multiplier=5.0)
        private = self.train(strangers, count=2000, size_class=2048, privacy=privacy, steps=40)
        reference = train_without_privacy(
            np.zeros(DIMENSION + 1), features=features, labels=labels, terms=TERMS, steps=40
        )
        for model in (private, reference):
            assert area_under_roc(labels, features.mean(axis=1) @ model[:-1] + model[-1]) > 0.95

    def test_with_sampling_draws_a_coin_a_conversation_in_each_step(self, strangers, repeatable):
        rng = repeatable(0)
        privacy = PrivacyTerms(
            contribution_bound=1, noise_multiplier=2.0, sampling="poisson", sample_rate=0.25
        )
        self.train(strangers, rng=rng, privacy=privacy, steps=4)
        assert rng.drawn == 4 * (50 + NOISE_WORDS)

    def test_refuses_somebody_who_is_in_more_conversations_than_the_plan_allows(self, strangers):
        over = ContributionManifest(2, tuple(KeptConversation(f"c{i}", ("one", f"b{i}")) for i in range(3)))
        with pytest.raises(BudgetError, match="more conversations"):
            self.train(strangers, count=3, manifest=over, privacy=PrivacyTerms(noise_multiplier=2.0))

    def test_refuses_examples_that_the_manifest_does_not_list(self, strangers):
        with pytest.raises(BudgetError, match="not the conversations"):
            self.train(strangers, count=50, manifest=strangers(49))

    def test_refuses_fractional_weights_when_conversations_are_sampled(self, strangers):
        rows = tuple(KeptConversation(f"c{i}", (f"a{i // 2}",), 0.5) for i in range(50))
        privacy = PrivacyTerms(
            contribution_bound=1, noise_multiplier=2.0, sampling="poisson", sample_rate=0.25
        )
        with pytest.raises(BudgetError, match="full batch"):
            self.train(strangers, manifest=ContributionManifest(1, rows), privacy=privacy)

    def test_applies_fractional_weights_in_the_full_batch(self, strangers, repeatable):
        rows = tuple(KeptConversation(f"c{i}", (f"a{i}",), 0.5) for i in range(50))
        privacy = PrivacyTerms(contribution_bound=1, noise_multiplier=1e-6)
        halved = self.train(
            strangers, manifest=ContributionManifest(1, rows), privacy=privacy, steps=1, rng=repeatable(0)
        )
        whole = self.train(strangers, privacy=privacy, steps=1, rng=repeatable(0))
        assert halved == pytest.approx(0.5 * whole, abs=1e-4)

    @pytest.mark.parametrize("size_class", [0, -2, 50, 63])
    def test_refuses_a_size_class_that_would_tell_the_number_of_conversations(self, strangers, size_class):
        with pytest.raises(ConfigError, match="power of two"):
            self.train(strangers, size_class=size_class)

    def test_refuses_a_model_that_is_not_finite(self, strangers):
        with pytest.raises(PeerError):
            self.train(strangers, parameters=np.full(DIMENSION + 1, np.nan))

    def test_refuses_a_round_without_steps(self, strangers):
        with pytest.raises(BudgetError):
            self.train(strangers, steps=0)


def test_training_never_sees_numbers_that_are_not_its_own(monkeypatch, strangers, repeatable):
    """The noise call is inside the step: taking it out is visible (the fault that the statistical tests look for)."""
    monkeypatch.setattr(
        Grid,
        "noise",
        lambda self, source, *, noise_multiplier, steps: np.zeros((steps, self.dimension), np.int64),
    )
    suite = TestTraining()
    assert np.allclose(suite.train(strangers), suite.train(strangers))


@pytest.mark.parametrize(
    ("expected", "size_class"), [(1, 1), (3, 4), (47, 32), (49, 64), (240, 256), (100_000, 131_072)]
)
def test_the_size_class_is_the_nearest_power_of_two(expected, size_class):
    assert nearest_size_class(expected) == size_class
    assert training.check_size_class(size_class) is None


class SkipHead:
    """A head that nobody wrote a closed form for: the linear one and half of it again."""

    name = "skip-7"

    def parameter_count(self, dimension: int) -> int:
        return dimension + 1

    def initial(self, feature_set):
        return feature_set.warm_start.copy()

    def logits(self, parameters, features):
        return 1.5 * LinearHead().logits(parameters, features)


class SkipModule(LinearModule):
    def forward(self, features):
        return 1.5 * super().forward(features)


def test_a_head_without_a_closed_form_is_trained_through_its_module(monkeypatch, strangers):
    """By Opacus' per-sample gradients: the sum before the noise is that of the written-out gradients."""
    monkeypatch.setattr(head_modules, "MODULES", {**head_modules.MODULES, SkipHead.name: SkipModule})
    features, labels = examples(64)
    arguments = {
        "features": features,
        "labels": labels,
        "manifest": strangers(64),
        "mechanism": SampledGaussian(1, 1.0, 1e-6, 1),
        "clip_norm": 0.05,
        "size_class": 64,
        "rng": Csprng(),
    }
    terms = TERMS.model_copy(update={"architecture": SkipHead.name})
    found = train_privately(np.zeros(DIMENSION + 1), terms=terms, **arguments)
    # At parameters 0 the gradient is one and a half times the linear head's, so with every conversation clipped it is the same.
    expected = train_privately(np.zeros(DIMENSION + 1), terms=TERMS, **arguments)
    assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match="cannot be trained"):
        train_privately(
            np.zeros(DIMENSION + 1), terms=TERMS.model_copy(update={"architecture": "no-such"}), **arguments
        )
