"""Curves and their comparison, against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.selection.curve import COSTS, Curve, compare, spent
from depo.report.statistics import ratio_interval, t_interval


def curve(accuracy, rollouts):
    rollouts = np.array(rollouts, dtype=float)
    return Curve(
        np.array(accuracy, dtype=float),
        {unit: factor * rollouts for unit, factor in zip(COSTS, (1, 5, 0.1, 7, 8, 9, 10), strict=True)},
    )


def test_smoothing_pools_what_falls_and_leaves_what_rises():
    smooth = curve([0.1, 0.3, 0.2, 0.5], [0, 10, 20, 30]).smooth_K
    np.testing.assert_allclose(smooth, [0.1, 0.25, 0.25, 0.5])


def test_cost_of_an_accuracy_lies_between_two_evaluations():
    rising = curve([0.1, 0.2, 0.4], [0, 100, 200])
    assert rising.cost_of(0.3) == pytest.approx(150)
    assert rising.cost_of(0.3, "tokens") == pytest.approx(750)
    assert rising.cost_of(0.2) == pytest.approx(100)
    assert rising.cost_of(0.1) == 0


def test_an_accuracy_never_reached_has_no_cost():
    assert curve([0.1, 0.2], [0, 100]).cost_of(0.21) is None


def test_a_plateau_reached_early_counts_from_its_first_point():
    assert curve([0.1, 0.3, 0.3, 0.3], [0, 100, 200, 300]).cost_of(0.3) == pytest.approx(100)


def test_a_curve_survives_json():
    there = curve([0.1, 0.3, 0.2], [0, 10, 20])
    back = Curve.from_json(there.to_json())
    np.testing.assert_array_equal(back.accuracy_K, there.accuracy_K)
    assert back.cost_of(0.2) == there.cost_of(0.2)


def test_t_interval_is_students():
    # By hand: mean 2, standard deviation 1, standard error 1/√3; t(0.975, 2) = 4.30265 (any table).
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert found.mean - found.low == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)


def test_one_seed_has_a_mean_and_no_interval():
    assert t_interval([0.3]).to_json() == [0.3, None, None]


def test_ratios_are_averaged_geometrically():
    found = ratio_interval([0.5, 2.0])
    assert found.mean == pytest.approx(1.0)
    assert found.low * found.high == pytest.approx(1.0)


def test_a_seeds_ratio_is_taken_at_that_seeds_own_accuracy_of_dapo():
    # DAPO's straight line reaches 3/4 of its height at 75; an arm twice as steep needs half of that,
    # whatever height the seed has.
    curves = {
        seed: {
            "dapo": curve([0, height], [0, 100]),
            "hybrid": curve([0, height, height], [0, 50, 100]),
        }
        for seed, height in ((0, 0.4), (1, 0.8))
    }
    found = compare(curves, ["dapo", "hybrid"], 100)
    ratio = found["ratios"]["rollouts@0.75"]["hybrid/dapo"]
    assert ratio["mean"][0] == pytest.approx(0.5)
    assert ratio["seeds"] == 2
    assert ratio["censored"] == [0, 0]
    assert found["final"]["hybrid"]["minus_dapo"][0] == pytest.approx(0.0)


def test_an_arm_that_never_gets_there_counts_as_censored_at_the_horizon():
    curves = {0: {"dapo": curve([0, 0.4], [0, 100]), "grpo": curve([0, 0.1], [0, 100])}}
    ratio = compare(curves, ["grpo", "dapo"], 100)["ratios"]["rollouts@0.75"]["grpo/dapo"]
    assert ratio["censored"] == [1, 0]
    assert ratio["mean"][0] == pytest.approx(100 / 75)


def test_seeds_that_lack_a_side_of_a_comparison_do_not_count_in_it():
    curves = {
        0: {"dapo": curve([0, 0.4], [0, 100]), "hybrid": curve([0, 0.4], [0, 100])},
        1: {"dapo": curve([0, 0.4], [0, 100])},
    }
    found = compare(curves, ["dapo", "hybrid"], 100)
    assert found["ratios"]["rollouts@0.75"]["hybrid/dapo"]["seeds"] == 1
    assert found["final"]["dapo"]["accuracy"][1] is not None
    assert found["final"]["hybrid"]["accuracy"][1] is None


def test_cost_adds_prefilled_and_trained_tokens_at_each_price():
    row = {"generated/rollouts": 8, "generated/tokens": 300, "prefilled/tokens": 400, "trained/tokens": 150}
    found = dict(zip(COSTS, spent(row, 5), strict=True))
    assert found == {
        "rollouts": 8,
        "tokens": 300,
        "updates": 5,
        "cost": 300 + 400 / 20 + 150 / 3,
        "cost, prefilled 1/5": 300 + 400 / 5 + 150 / 3,
        "cost, trained 1/10": 300 + 400 / 20 + 150 / 10,
        "cost, trained 1": 300 + 400 / 20 + 150,
    }
