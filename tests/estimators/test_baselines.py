"""The two ends: nothing known, and everything."""

from __future__ import annotations

import numpy as np
import pytest

from depo.estimators.base import Candidate, Context, Observation, State
from depo.estimators.baselines import OracleEstimator, UniformEstimator

CONTEXT = Context(group_size=4, step=1)


def test_believes_the_same_of_every_prompt_whatever_happened() -> None:
    estimator = UniformEstimator()
    estimator.observe([Observation("a", "?", 0, 4, 1)], CONTEXT)
    estimates = estimator.predict([Candidate("a", "?"), Candidate("b", "?", prior=0.9)], CONTEXT)
    np.testing.assert_allclose(estimates.mean, 0.5)
    np.testing.assert_allclose(estimates.p_informative, 3 / 5)  # (G−1)/(G+1)
    np.testing.assert_allclose(estimates.sd, np.sqrt(1 / 12))
    assert estimates.sample(np.random.default_rng(0)).shape == (2,)


def test_impossible_counts_are_errors_here_too() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        UniformEstimator().observe([Observation("a", "?", 5, 4, 1)], CONTEXT)


def test_state_round_trips_and_other_versions_are_errors() -> None:
    estimator = UniformEstimator()
    estimator.load_state_dict(estimator.state_dict())
    with pytest.raises(ValueError, match="schema_version"):
        estimator.load_state_dict(State(schema_version=7))


def test_no_candidates_give_empty_arrays() -> None:
    assert UniformEstimator().predict([], CONTEXT).mean.shape == (0,)


def test_believes_the_recorded_rate_exactly() -> None:
    """p = 1/4, G = 2: all right 1/16, all wrong 9/16, mixed 6/16."""
    estimates = OracleEstimator().predict([Candidate("a", "?", prior=0.25)], Context(2, 1))
    assert (estimates.mean[0], estimates.sd[0]) == (0.25, 0.0)
    assert estimates.p_informative[0] == pytest.approx(6 / 16)
    assert (estimates.p_all_wrong[0], estimates.p_all_right[0]) == (9 / 16, 1 / 16)
    assert estimates.sample(np.random.default_rng(0))[0] == 0.25


def test_observations_change_nothing_but_wrong_counts_are_errors() -> None:
    estimator = OracleEstimator()
    estimator.observe([Observation("a", "?", 8, 8, 1)], Context(8, 1))
    assert estimator.predict([Candidate("a", "?", prior=0.25)], Context(8, 2)).mean[0] == 0.25
    with pytest.raises(ValueError, match="prompt a: successes and trials"):
        estimator.observe([Observation("a", "?", 9, 8, 1)], Context(8, 1))


@pytest.mark.parametrize("prior", [None, float("nan"), -0.1, 1.1])
def test_prompt_without_a_usable_rate_is_an_error_naming_it(prior: float | None) -> None:
    with pytest.raises(ValueError, match=r"prompt b: the oracle .* prior"):
        OracleEstimator().predict([Candidate("a", "?", 0.5), Candidate("b", "?", prior)], Context(8, 1))


def test_a_live_oracle_is_told_by_the_policy_and_not_by_the_data_set() -> None:
    told = Candidate("a", "?", prior=0.9, features=np.array([0.25]))
    assert OracleEstimator(live=True).predict([told], Context(2, 1)).mean[0] == 0.25
    with pytest.raises(ValueError, match=r"prompt b: the oracle .* policy"):
        OracleEstimator(live=True).predict([told, Candidate("b", "?", 0.9)], Context(2, 1))


def test_no_candidates_and_state() -> None:
    estimator = OracleEstimator()
    assert estimator.predict([], Context(8, 1)).p_informative.shape == (0,)
    estimator.load_state_dict(estimator.state_dict())
    with pytest.raises(ValueError, match="schema_version 7"):
        estimator.load_state_dict(State(schema_version=7))
