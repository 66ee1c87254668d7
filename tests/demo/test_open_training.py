"""The rows without privacy: fitted to the end, on everything that a company has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from ringfence.client.local_data import training_rows
from ringfence.client.member_home import MemberHome
from ringfence.demo.company_data import simulated_companies
from ringfence.demo.open_training import fit_on_beginnings, fit_openly
from ringfence.demo.reference_rows import HeldOut, OpenRows, reference_rows
from ringfence.model.errors import ConfigError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms


@pytest.fixture(scope="module")
def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 12))
    return rows, (rows[:, 0] + rng.normal(size=300) > 0.8).astype(np.int64)


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_it_is_the_ridge_regression_that_the_reference_gives(
    example: tuple[np.ndarray, np.ndarray], penalty: float
) -> None:
    rows, labels = example
    found = fit_openly(rows, labels, positive_weight=3.0, weight=0.25, penalty=penalty)
    reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(
        rows, labels, sample_weight=np.where(labels == 1, 0.75, 0.25)
    )
    expected = np.append(reference.coef_[0], reference.intercept_)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    sparse = fit_openly(csr_matrix(rows), labels, positive_weight=3.0, weight=0.25, penalty=penalty)
    np.testing.assert_allclose(sparse, found, atol=2e-4)


def test_beginnings_weigh_together_what_one_conversation_weighs(
    example: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = example
    once = fit_openly(rows, labels, positive_weight=2.0, penalty=1.0)
    alike = np.repeat(rows[:, None], 4, axis=1).astype(np.float32)
    np.testing.assert_allclose(
        fit_on_beginnings(alike, labels, positive_weight=2.0, penalty=1.0), once, atol=1e-3
    )


def test_labels_of_other_rows_are_refused(example: tuple[np.ndarray, np.ndarray]) -> None:
    rows, labels = example
    with pytest.raises(ConfigError, match="differ in number"):
        fit_openly(rows, labels[1:], positive_weight=1.0)


def test_the_rows_without_privacy_do_not_depend_on_what_the_bound_keeps(tmp_path) -> None:
    features = load_feature_set()
    companies = simulated_companies(members=2, conversations=60, seed=4).companies
    plan = Plan(
        name="t",
        federation="t",
        demonstration=True,
        training=TrainingTerms(
            feature_set=features.name, feature_set_sha256=features.fingerprint, rounds=1, local_steps=1
        ),
        privacy=PrivacyTerms(contribution_bound=1, noise_multiplier=1000.0),
        cohort=CohortTerms(minimum=2),
    )
    everything = {
        company.name: OpenRows(
            features.rows_of(company.train, plan.training.prefixes),
            np.array([item.label for item in company.train], np.int64),
        )
        for company in companies
    }
    training = {
        company.name: training_rows(
            MemberHome(tmp_path / company.name).create(),
            conversations=company.train,
            feature_set=features,
            prefixes=plan.training.prefixes,
            contribution_bound=1,
            bounds="greedy",
        )
        for company in companies
    }
    assert all(len(rows.labels) < 50 for rows in training.values())
    held_out = HeldOut(features, {company.name: company.test for company in companies})
    rows = reference_rows(
        held_out,
        plan=plan,
        initial=features.warm_start,
        federated=features.warm_start,
        training=training,
        everything=everything,
        size_classes={company.name: 64 for company in companies},
    )
    pooled = next(row for row in rows if "pooled" in row.name)
    model = fit_on_beginnings(
        np.concatenate([item.features for item in everything.values()]),
        np.concatenate([item.labels for item in everything.values()]),
        positive_weight=plan.training.positive_weight,
    )
    assert (pooled.auroc, pooled.privacy) == (held_out.judge_open("", model).auroc, False)
