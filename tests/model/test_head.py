"""The linear head and its public warm start."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.model.errors import ReleaseError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.head import ARCHITECTURES, HiddenLayerHead

LINEAR = ARCHITECTURES["linear-109"]


def test_the_linear_head_has_a_weight_for_each_feature_and_a_bias() -> None:
    assert LINEAR.parameter_count(108) == 109
    parameters = np.arange(4, dtype=np.float64)
    features = np.array([[1, 0, 0], [0, 1, 2]], np.float32)
    np.testing.assert_array_equal(LINEAR.logits(parameters, features), [3.0, 8.0])


def test_the_warm_start_is_finite_fits_and_is_not_shared_memory() -> None:
    features = load_feature_set()
    start = LINEAR.initial(features)
    assert start.shape == (109,)
    assert start.dtype == np.float64
    assert np.isfinite(start).all()
    assert np.linalg.norm(start) > 0.1
    start[:] = 0
    assert np.linalg.norm(LINEAR.initial(features)) > 0.1


@pytest.mark.parametrize(
    ("parameters", "features"), [((109,), (2, 107)), ((108,), (2, 108)), ((109,), (108,))]
)
def test_parameters_that_do_not_fit_are_refused(
    parameters: tuple[int, ...], features: tuple[int, ...]
) -> None:
    with pytest.raises(ReleaseError):
        LINEAR.logits(np.zeros(parameters), np.zeros(features, np.float32))


HIDDEN = ARCHITECTURES["hidden-1761"]


def test_the_hidden_layer_scores_by_its_formula() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(5, 2)).astype(np.float32)
    parameters = generator.normal(size=HIDDEN.parameter_count(2))
    for row, found in zip(features, HIDDEN.logits(parameters, features), strict=True):
        score = parameters[-1]
        for unit in range(16):
            first, second, bias = parameters[3 * unit : 3 * unit + 3]
            score += parameters[48 + unit] * max(0.0, first * row[0] + second * row[1] + bias)
        assert found == pytest.approx(score, abs=1e-12)


def test_the_hidden_layer_starts_as_the_linear_warm_start_with_units_that_differ() -> None:
    features = load_feature_set()
    start = HIDDEN.initial(features)
    assert start.shape == (HIDDEN.parameter_count(108),) == (1761,)
    rows = np.random.default_rng(1).normal(size=(50, 108)).astype(np.float32)
    np.testing.assert_allclose(
        HIDDEN.logits(start, rows), LINEAR.logits(LINEAR.initial(features), rows), atol=1e-9
    )
    units = start[: 16 * 109].reshape(16, 109)
    gaps = np.linalg.norm(units[:, None] - units[None], axis=2) + 10 * np.eye(16)
    assert gaps.min() > 0.05 * np.linalg.norm(units, axis=1).max()
    np.testing.assert_array_equal(start, HIDDEN.initial(features))


@pytest.mark.parametrize(
    ("parameters", "features"), [((1761,), (2, 107)), ((109,), (2, 108)), ((1761,), (108,))]
)
def test_hidden_parameters_that_do_not_fit_are_refused(
    parameters: tuple[int, ...], features: tuple[int, ...]
) -> None:
    with pytest.raises(ReleaseError):
        HIDDEN.logits(np.zeros(parameters), np.zeros(features, np.float32))


def test_weights_are_told_from_biases() -> None:
    assert list(ARCHITECTURES["linear-109"].is_weight(4)) == [True, True, True, False]
    head = HiddenLayerHead()
    is_weight = head.is_weight(head.parameter_count(3))
    weights, biases, output, bias = head.layers(is_weight.astype(float))
    assert weights.all()
    assert output.all()
    assert not biases.any()
    assert not bias.any()


def test_every_architecture_stands_under_its_own_name() -> None:
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())
