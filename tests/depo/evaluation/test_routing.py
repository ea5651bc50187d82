"""The routing curve against questions that are counted one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from depo.evaluation.cascade.measures import Questions, at, curve, figures, random_at, routed


def questions(rng: np.random.Generator, n: int) -> Questions:
    return Questions(
        rng.integers(0, 5, n) / 4, rng.integers(0, 5, n) / 4, rng.uniform(1, 9, n), rng.uniform(20, 90, n)
    )


def counted(
    benchmarks: list[Questions], score_BN: list[np.ndarray], tau: float
) -> tuple[float, float, float]:
    """Share, accuracy and cost saved by going through the questions in a loop."""
    rows = []
    for one, score_N in zip(benchmarks, score_BN, strict=True):
        small = right = paid = alone = 0.0
        for i, score in enumerate(score_N):
            goes_small = score > tau
            small += goes_small
            right += one.small_N[i] if goes_small else one.large_N[i]
            paid += one.small_cost_N[i] if goes_small else one.large_cost_N[i]
            alone += one.large_cost_N[i]
        rows.append((small / len(score_N), right / len(score_N), 1 - paid / alone))
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("sizes", [(7,), (1,), (5, 12, 3)])
def test_the_curve_is_what_counting_gives_at_every_threshold(sizes):
    rng = np.random.default_rng(len(sizes))
    benchmarks = [questions(rng, n) for n in sizes]
    score_BN = [rng.integers(0, 6, n) / 5 for n in sizes]  # with ties, within benchmarks and between them
    found = curve(benchmarks, score_BN)
    distinct = sorted({float(score) for score_N in score_BN for score in score_N}, reverse=True)
    assert [tau for tau, _ in found] == [*distinct, -np.inf]
    for tau, point in found:
        assert (point.share, point.accuracy, point.saved) == pytest.approx(counted(benchmarks, score_BN, tau))
    for tau in (0.0, 0.3, 0.5, 0.7, 0.75, 1.0):
        point = at(benchmarks, [routed(score_N, tau) for score_N in score_BN])
        assert (point.share, point.accuracy, point.saved) == pytest.approx(counted(benchmarks, score_BN, tau))


def test_a_question_at_the_threshold_goes_to_the_large_model():
    assert routed(np.array([0.49, 0.5, 0.51]), 0.5).tolist() == [False, False, True]


def test_the_random_line_is_the_mean_over_all_routings_of_that_share():
    rng = np.random.default_rng(5)
    benchmarks = [questions(rng, 5)]
    for count in range(6):
        every = [
            at(benchmarks, [np.isin(np.arange(5), chosen)])
            for chosen in itertools.combinations(range(5), count)
        ]
        expected = random_at(benchmarks, count / 5)
        assert expected.accuracy == pytest.approx(np.mean([point.accuracy for point in every]))
        assert expected.saved == pytest.approx(np.mean([point.saved for point in every]))


def test_a_resample_is_the_figure_of_the_questions_it_drew():
    rng = np.random.default_rng(6)
    one = questions(rng, 6)
    routed_N = np.array([True, False, True, True, False, False])
    drawn = np.array([0, 0, 2, 4, 5, 5])
    again = Questions(*(getattr(one, name)[drawn] for name in Questions.__slots__))
    weights_RN = np.bincount(drawn, minlength=6)[None].astype(float)
    share, accuracy, saved, gain = (float(value[0]) for value in figures(one, routed_N, weights_RN))
    point = at([again], [routed_N[drawn]])
    assert (share, accuracy, saved) == pytest.approx((point.share, point.accuracy, point.saved))
    assert gain == pytest.approx(point.accuracy - random_at([again], point.share).accuracy)


def test_a_router_that_knows_who_is_right_beats_the_larger_model():
    one = Questions(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.ones(2), np.full(2, 10.0))
    (_, point) = curve([one], [one.small_N])[1]
    assert (point.share, point.accuracy) == (0.5, 1.0)
    assert point.saved == pytest.approx(0.45)
