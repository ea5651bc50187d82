"""Metrics against brute force over pairs, thresholds and bins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.report.calibration import (
    auroc,
    average_precision,
    brier,
    brier_skill,
    by_visits,
    expected_calibration_error,
    false_reject_rate,
    midranks,
    reliability,
    spearman,
)

WINDOWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60
)


def unzip(window: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in window]), np.array([float(y) for _, y in window])


@given(WINDOWS)
def test_auroc_equals_counting_all_pairs_with_ties_as_half(window: list[tuple[float, bool]]) -> None:
    ups = [p for p, informative in window if informative]
    downs = [p for p, informative in window if not informative]
    found = auroc(*unzip(window))
    if not ups or not downs:
        assert math.isnan(found)
        return
    wins = sum((up > down) + 0.5 * (up == down) for up in ups for down in downs)
    assert found == pytest.approx(wins / (len(ups) * len(downs)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_midranks_equal_the_mean_position_of_equal_values(values: list[int]) -> None:
    ordered = sorted(values)
    expected = [np.mean([i + 1 for i, other in enumerate(ordered) if other == value]) for value in values]
    np.testing.assert_allclose(midranks(np.array(values)), expected)


@given(WINDOWS)
def test_brier_skill_equals_its_definition(window: list[tuple[float, bool]]) -> None:
    score = sum((p - y) ** 2 for p, y in window) / len(window)
    base = sum(y for _, y in window) / len(window)
    reference = sum((base - y) ** 2 for _, y in window) / len(window)
    assert brier(*unzip(window)) == pytest.approx(score)
    if reference:
        assert brier_skill(*unzip(window)) == pytest.approx(1 - score / reference)
    else:
        assert math.isnan(brier_skill(*unzip(window)))


def test_ece_equals_brute_force_over_fifteen_equal_bins() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.permutation(np.linspace(0.01, 0.99, 300))
    informative = (rng.random(300) < predicted**2).astype(float)
    order = sorted(range(300), key=lambda i: predicted[i])
    expected = 0.0
    for b in range(15):
        members = order[b * 20 : (b + 1) * 20]
        expected += 20 / 300 * abs(np.mean(predicted[members]) - np.mean(informative[members]))
    assert expected_calibration_error(predicted, informative) == pytest.approx(expected)
    assert expected > 0.1


def test_ece_of_a_calibrated_constant_is_zero_as_equal_predictions_share_a_bin() -> None:
    informative = (np.arange(100) % 4 == 0).astype(float)
    assert expected_calibration_error(np.full(100, 0.25), informative) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(np.full(100, 0.75), informative) == pytest.approx(0.5)


def test_false_rejects_are_the_informative_groups_called_unlikely() -> None:
    predicted = np.array([0.1, 0.6, 0.4, 0.9, 0.2])
    informative = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    assert false_reject_rate(predicted, informative) == 0.5
    assert math.isnan(false_reject_rate(predicted, np.zeros(5)))


@given(WINDOWS)
def test_average_precision_equals_its_definition_over_thresholds(window: list[tuple[float, bool]]) -> None:
    positives = sum(informative for _, informative in window)
    found = average_precision(*unzip(window))
    if not positives:
        assert math.isnan(found)
        return
    expected, rescoring_before = 0.0, 0.0
    for threshold in sorted({p for p, _ in window}, reverse=True):
        taken = [informative for p, informative in window if p >= threshold]
        recall = sum(taken) / positives
        expected += (recall - rescoring_before) * sum(taken) / len(taken)
        rescoring_before = recall
    assert found == pytest.approx(expected)


def test_average_precision_of_a_hand_worked_ranking() -> None:
    """Hits at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3."""
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 1.0])) == pytest.approx(
        (1 + 2 / 3 + 3 / 4) / 3
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_equals_pearson_of_the_ranks_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    ranks = [
        [np.mean([1 + sum(y < x for y in side), sum(y <= x for y in side)]) for x in side]
        for side in (first, second)
    ]
    found = spearman(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_spearman_without_ties_equals_the_textbook_formula() -> None:
    first, second = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    assert spearman(first, second) == pytest.approx(1 - 6 * (1 + 1 + 1 + 1) / (5 * 24))


def test_reliability_rows_are_the_bins_in_rising_order() -> None:
    predicted = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.9])
    informative = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    rows = reliability(predicted, informative, bins=3)
    assert rows == [
        {"groups": 4, "predicted": pytest.approx(0.1), "observed": 0.25},
        {"groups": 2, "predicted": pytest.approx(0.85), "observed": 1.0},
    ]
    assert reliability(np.array([]), np.array([])) == []


def test_every_known_number_of_visits_falls_into_exactly_one_stratum() -> None:
    visits = np.arange(-1, 60)
    members = np.stack([member for _, member in by_visits(visits)])
    assert members.sum(axis=0).tolist() == [0] + [1] * 60
    assert [label for label, member in by_visits(visits) if member[1 + 4]] == ["2-4"]
