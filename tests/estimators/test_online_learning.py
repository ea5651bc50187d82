"""Against ridge regression solved directly on all rows."""

import numpy as np
import pytest

from estimators.online_learning import OnlineRidge


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    features_NF = rng.normal(size=(n, 4)) * [1.0, 50.0, 0.01, 3.0] + [0.0, 200.0, 5.0, -1.0]
    target_N = 0.5 + 0.1 * (features_NF[:, 0] + (features_NF[:, 1] - 200) / 50) + 0.05 * rng.normal(size=n)
    return features_NF, target_N


def direct(features_NF, target_N, weight_N, penalty, asked_NF):
    """Weighted ridge on standardised features, by stacking the penalty as rows of a least-squares fit."""
    weight_N = weight_N / weight_N.sum()
    center_F = weight_N @ features_NF
    scale_F = np.sqrt(weight_N @ (features_NF - center_F) ** 2)
    design_NF = (features_NF - center_F) / scale_F
    mean = weight_N @ target_N
    stacked = np.vstack(
        [np.sqrt(weight_N)[:, None] * design_NF, np.sqrt(penalty) * np.eye(design_NF.shape[1])]
    )
    wanted = np.concatenate([np.sqrt(weight_N) * (target_N - mean), np.zeros(design_NF.shape[1])])
    solution_F = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    return mean + (asked_NF - center_F) / scale_F @ solution_F


def test_is_ridge_regression_whatever_the_batches():
    features_NF, target_N = rows()
    ridge = OnlineRidge(penalty=10.0, memory=1e12)
    for part in np.array_split(np.arange(400), 7):
        ridge.fit(features_NF[part], target_N[part])
    expected_N = direct(features_NF, target_N, np.ones(400), 10.0 / 400, features_NF[:50])
    np.testing.assert_allclose(ridge.predict(features_NF[:50]), np.clip(expected_N, 0, 1), atol=1e-6)


def test_older_rows_fade_with_the_memory():
    features_NF, target_N = rows(200)
    ridge = OnlineRidge(penalty=5.0, memory=100.0)
    ridge.fit(features_NF[:100], target_N[:100])
    ridge.fit(features_NF[100:], 1 - target_N[100:])
    weight_N = np.repeat([np.exp(-1.0), 1.0], 100)
    flipped_N = np.concatenate([target_N[:100], 1 - target_N[100:]])
    expected_N = direct(features_NF, flipped_N, weight_N, 5.0 / weight_N.sum(), features_NF[:20])
    np.testing.assert_allclose(ridge.predict(features_NF[:20]), np.clip(expected_N, 0, 1), atol=1e-6)


def test_before_the_first_row_the_start_and_afterwards_probabilities():
    ridge = OnlineRidge(start=0.3)
    assert ridge.predict(np.ones((2, 5))).tolist() == [0.3, 0.3]
    features_NF, target_N = rows()
    ridge.fit(features_NF, target_N)
    predicted_N = ridge.predict(features_NF * 100)
    assert predicted_N.min() >= 0
    assert predicted_N.max() <= 1


@pytest.mark.parametrize("constant", [7.0, 0.7, 0.1, 1.19, 1e6 / 3])
def test_a_constant_feature_gets_no_weight(constant):
    """Most are no sum of powers of two, so that their variance is not 0 but rounding."""
    features_NF, target_N = rows()
    with_constant = OnlineRidge()
    with_constant.fit(np.column_stack([features_NF, np.full(400, constant)]), target_N)
    asked_NF = np.column_stack([features_NF[:5], np.full(5, 900.0)])
    without = OnlineRidge()
    without.fit(features_NF, target_N)
    np.testing.assert_allclose(with_constant.predict(asked_NF), without.predict(features_NF[:5]), atol=1e-9)


def test_other_widths_and_nan_are_errors():
    ridge = OnlineRidge()
    ridge.fit(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match="expected 2 features, found 3"):
        ridge.predict(np.ones((1, 3)))
    with pytest.raises(ValueError, match="finite"):
        ridge.fit(np.array([[np.inf, 1.0]]), np.ones(1))
    with pytest.raises(ValueError, match="penalty"):
        OnlineRidge(penalty=0.0)


def test_a_missing_feature_is_an_average_one_and_teaches_nothing():
    features_NF, target_N = rows()
    ridge, same = OnlineRidge(), OnlineRidge()
    ridge.fit(features_NF, target_N)
    same.fit(features_NF, target_N)
    same.fit(np.array([[np.nan, 200.0, 5.0, -1.0]]), np.array([1.0]))
    np.testing.assert_array_equal(ridge.moments_KK, same.moments_KK)
    average_F = features_NF.mean(axis=0)
    missing_NF = np.array([[np.nan, *average_F[1:]]])
    np.testing.assert_allclose(ridge.predict(missing_NF), ridge.predict(average_F[None]))
