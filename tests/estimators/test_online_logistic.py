"""Against the penalised log-loss written out anew, and against a model that the rows were drawn from."""

import numpy as np
import pytest

from estimators.online_logistic import INTERCEPT_PENALTY, OnlineLogistic

TRUE_KC = np.array([[0.5, 0.0, -1.0], [1.5, 0.0, -1.5], [0.0, 1.0, 0.0]])  # intercepts, two features


def probabilities(features_NF, weights_KC):
    odds_NC = np.exp(weights_KC[0] + features_NF @ weights_KC[1:])
    return odds_NC / odds_NC.sum(axis=1, keepdims=True)


def drawn(rng, n, scale=(1.0, 1.0)):
    features_NF = rng.normal(size=(n, 2))
    cumulated_NC = probabilities(features_NF, TRUE_KC).cumsum(axis=1)
    return features_NF * scale, (rng.random((n, 1)) > cumulated_NC).sum(axis=1)


def learned(penalty=1.0, memory=5000, batches=40, scale=(1.0, 1.0)):
    rng, regression, rows = np.random.default_rng(3), OnlineLogistic(3, penalty, memory), []
    for _ in range(batches):
        rows.append(drawn(rng, 50, scale))
        regression.fit(*rows[-1])
    return regression, np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


@pytest.mark.parametrize("penalty", [0.1, 100.0])
def test_the_fit_is_the_minimum_of_the_penalised_loss_over_the_remembered_rows(penalty):
    regression, features_NF, class_N = learned(penalty, memory=600)
    assert regression.rows == 600
    features_NF, class_N = features_NF[-600:], class_N[-600:]
    center_F, scale_F = features_NF.mean(axis=0), features_NF.std(axis=0)

    def loss(weights_KC):  # of features centred and scaled
        told_NC = probabilities((features_NF - center_F) / scale_F, weights_KC)
        ridge = INTERCEPT_PENALTY * (weights_KC[0] ** 2).sum() + penalty * (weights_KC[1:] ** 2).sum()
        return -np.log(told_NC[np.arange(len(class_N)), class_N]).sum() + ridge / 2

    found_KC = regression._weights_KC.copy()
    found_KC[0] += center_F @ found_KC[1:]
    found_KC[1:] *= scale_F[:, None]
    least, rng = loss(found_KC), np.random.default_rng(0)
    for size in (0.3, 0.03):
        assert all(loss(found_KC + size * rng.normal(size=found_KC.shape)) > least for _ in range(50))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1e-3, 1e3)])
def test_probabilities_come_near_those_the_rows_were_drawn_with(scale):
    regression, _, _ = learned(scale=scale)
    asked_NF = np.random.default_rng(1).normal(size=(200, 2))
    expected_NC = probabilities(asked_NF, TRUE_KC)
    told_NC = regression.predict(asked_NF * scale)
    np.testing.assert_allclose(told_NC.sum(axis=1), 1.0)
    assert np.abs(told_NC - expected_NC).mean() < 0.02
    # Rare outcomes too, where a straight line on 0 and 1 is far off: within a factor of two down to 0.1 %.
    rare = (expected_NC < 0.05) & (expected_NC > 0.001)
    assert np.abs(np.log(told_NC[rare] / expected_NC[rare])).max() < np.log(2)


def test_a_feature_that_never_changed_carries_no_weight():
    rng, regression = np.random.default_rng(0), OnlineLogistic(3, 1.0, 100)
    features_NF, class_N = drawn(rng, 80)
    regression.fit(np.column_stack([features_NF, np.full(80, 7.0)]), class_N)
    asked_NF = np.column_stack([features_NF, np.full(80, 7.0)])
    away_NF = np.column_stack([features_NF, np.full(80, -100.0)])
    np.testing.assert_array_equal(regression.predict(asked_NF), regression.predict(away_NF))


def test_before_the_first_rows_all_classes_are_equally_likely():
    regression = OnlineLogistic(3, 1.0, 100)
    regression.fit(np.zeros((0, 2)), np.zeros(0, dtype=int))
    np.testing.assert_array_equal(regression.predict(np.ones((2, 5))), np.full((2, 3), 1 / 3))


def test_a_saved_regression_goes_on_exactly():
    regression, _, _ = learned(memory=300, batches=10)
    same = OnlineLogistic(3, 1.0, 300)
    same.load_state_dict(regression.state_dict())
    features_NF, class_N = drawn(np.random.default_rng(9), 50)
    for one in (regression, same):
        one.fit(features_NF, class_N)
    np.testing.assert_array_equal(same.predict(features_NF), regression.predict(features_NF))


def test_bad_rows_and_states_are_refused():
    regression, _, _ = learned(batches=2)
    with pytest.raises(ValueError, match="expected 2 features, found 3"):
        regression.fit(np.ones((1, 3)), np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match="expected 2 features, found 1"):
        regression.predict(np.ones((1, 1)))
    with pytest.raises(ValueError, match="finite"):
        regression.fit(np.full((1, 2), np.inf), np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match="classes must lie in 0 … 2"):
        regression.fit(np.ones((1, 2)), np.array([3]))
    with pytest.raises(ValueError, match="do not fit together"):
        OnlineLogistic(4, 1.0, 10).load_state_dict(regression.state_dict())
    with pytest.raises(ValueError, match="positive penalty"):
        OnlineLogistic(3, 0.0, 10)
