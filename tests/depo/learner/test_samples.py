"""Worked examples; parity with TRL's formula is in tests/depo/learner/test_trl_parity.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.learner.samples import group_advantages

NAN = float("nan")


def test_one_success_in_four_is_centred_and_scaled_by_the_sample_deviation() -> None:
    # mean 1/4, squared deviations 9/16 + 3/16 = 12/16, divided by G − 1 = 3: std 1/2
    expected = np.array([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4)
    assert group_advantages(np.array([1.0, 0, 0, 0]), scale=True) == pytest.approx(expected)


def test_scale_none_only_centres() -> None:
    assert group_advantages(np.array([1.0, 0, 0, 0]), scale=False).tolist() == [0.75, -0.25, -0.25, -0.25]


def test_unscorable_rollouts_get_zero_and_do_not_move_the_baseline() -> None:
    with_gap = group_advantages(np.array([1.0, NAN, 0.0, 1.0, NAN]), scale=True)
    without = group_advantages(np.array([1.0, 0.0, 1.0]), scale=True)
    assert with_gap[[1, 4]].tolist() == [0, 0]
    assert with_gap[[0, 2, 3]] == pytest.approx(without)


@pytest.mark.parametrize("values", [[NAN, NAN], [1.0, NAN], [1.0], [NAN, 0.3, NAN]])
def test_fewer_than_two_scorable_rollouts_give_no_advantage(values: list[float]) -> None:
    assert group_advantages(np.array(values), scale=True).tolist() == [0.0] * len(values)


@given(st.lists(st.one_of(st.just(NAN), st.floats(-10, 10)), min_size=2, max_size=16))
def test_advantages_are_finite_and_sum_to_zero(values: list[float]) -> None:
    advantages = group_advantages(np.array(values), scale=True)
    assert np.isfinite(advantages).all()
    assert abs(float(advantages.sum())) < 1e-3
