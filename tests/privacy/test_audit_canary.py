"""Can an attacker tell who was in? A lower bound on the real privacy loss, from two thousand planted people.

Every person has their conversations point along a coordinate of their own, as hard as they can; a coin decides whether
their content counts. The attacker sees the release and guesses. From its error rates, Clopper and Pearson's intervals
give a lower bound on mu of Gaussian differential privacy; a sound program stays at or below the promised mu = k / s in
all but one of a million runs. Each fault below is noticed every time in 25 runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ringfence.model.conversation import Conversation, Message
from ringfence.privacy.bounding import bound_contributions
from ringfence.privacy.clipped_sum import LinearHeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.private_step import StepTerms, private_gradient
from ringfence.privacy.secure_noise import Csprng

FALSE_ALARM = 1e-6
PEOPLE = 2000


def lower_bound_on_mu(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return a lower bound on mu at level `FALSE_ALARM`: over 49 thresholds, corrected for trying them all."""
    thresholds = np.quantile(np.concatenate([inside, outside]), np.linspace(0.02, 0.98, 49))
    level = FALSE_ALARM / len(thresholds) / 2
    false_positives = (outside[:, None] >= thresholds).sum(axis=0)
    false_negatives = (inside[:, None] < thresholds).sum(axis=0)
    positive_rate = stats.beta.ppf(1 - level, false_positives + 1, len(outside) - false_positives)
    negative_rate = stats.beta.ppf(1 - level, false_negatives + 1, len(inside) - false_negatives)
    return float(np.nanmax(stats.norm.isf(positive_rate) - stats.norm.ppf(negative_rate)))


def attack(*, noise_multiplier: float) -> float:
    """Plant everybody once, release one step, and return the bound on mu."""
    coin = np.random.default_rng().uniform(size=PEOPLE) < 0.5
    features = np.zeros((PEOPLE, 1, PEOPLE), np.float32)
    features[np.arange(PEOPLE), 0, np.arange(PEOPLE)] = 1e3 * coin
    source = LinearHeadGradients(features, np.ones(PEOPLE), grid=Grid(1.0, PEOPLE + 1), positive_weight=1.0)
    terms = StepTerms(noise_multiplier=noise_multiplier, sample_rate=None, divisor=1.0)
    score = -private_gradient(source, np.zeros(PEOPLE + 1), terms=terms, rng=Csprng())[:-1]
    return lower_bound_on_mu(score[coin], score[~coin])


def attack_people_with_six_conversations(*, bound: int, noise_multiplier: float, people: int = 1000) -> float:
    """Everybody brings six conversations; the product's own bounding decides how many count."""
    conversations = [
        Conversation(f"{person}-{number}", (Message(f"p{person}", "hello"),), 1)
        for person in range(people)
        for number in range(6)
    ]
    kept = bound_contributions(conversations, contribution_bound=bound, secret=b"s" * 32).positions
    owner = np.array([position // 6 for position in kept])
    coin = np.random.default_rng().uniform(size=people) < 0.5
    features = np.zeros((len(kept), 1, people), np.float32)
    features[np.arange(len(kept)), 0, owner] = 1e3 * coin[owner]
    source = LinearHeadGradients(
        features, np.ones(len(kept)), grid=Grid(1.0, people + 1), positive_weight=1.0
    )
    terms = StepTerms(noise_multiplier=noise_multiplier, sample_rate=None, divisor=1.0)
    score = -private_gradient(source, np.zeros(people + 1), terms=terms, rng=Csprng())[:-1]
    return lower_bound_on_mu(score[coin], score[~coin])


def test_a_sound_program_stays_below_the_promised_mu_and_the_attack_is_no_straw_man():
    bounds = [attack(noise_multiplier=1.0) for _ in range(10)]
    assert min(bounds) > 0.3
    assert max(bounds) <= 1.0


@pytest.mark.parametrize("name", ["noise halved", "clipping skipped"])
def test_the_fault_is_noticed_every_time_in_25_runs(fault, name):
    fault(name)
    assert min(attack(noise_multiplier=1.0) for _ in range(25)) > 1.0


def test_a_sound_bound_on_contributions_keeps_busy_people_below_the_promised_mu():
    bounds = [attack_people_with_six_conversations(bound=2, noise_multiplier=2.0) for _ in range(5)]
    assert min(bounds) > 0.1
    assert max(bounds) <= 1.0


def test_a_bound_on_contributions_that_does_not_hold_is_noticed_every_time_in_25_runs(fault):
    fault("k violated")
    assert min(attack_people_with_six_conversations(bound=2, noise_multiplier=2.0) for _ in range(25)) > 1.0
