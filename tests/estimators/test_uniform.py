import numpy as np
import pytest

from estimators.base import Candidate, Context, Observation, State
from estimators.baselines import UniformEstimator

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
