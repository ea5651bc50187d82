"""The cascade's curve against questions that are counted one by one, and limits where all come out alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from depo.evaluation.cascade.figures import (
    Point,
    Questions,
    at,
    curve,
    distances_of_equals,
    figures,
    gain_bounds,
    random_line,
    sent_to_small,
)


def random_questions(rng: np.random.Generator, n: int) -> Questions:
    return Questions(
        rng.integers(0, 5, n) / 4, rng.integers(0, 5, n) / 4, rng.uniform(1, 9, n), rng.uniform(20, 90, n)
    )


def random_at(benchmarks: list[Questions], share: float) -> Point:
    """The random rule that sends ``share`` of the questions to the small model, on its line."""
    none, everything = random_line(benchmarks)
    return Point(
        share,
        (1 - share) * none.accuracy + share * everything.accuracy,
        share * everything.saved,
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
    benchmarks = [random_questions(rng, n) for n in sizes]
    score_BN = [rng.integers(0, 6, n) / 5 for n in sizes]  # with ties, within benchmarks and between them
    found = curve(benchmarks, score_BN)
    distinct = sorted({float(score) for score_N in score_BN for score in score_N}, reverse=True)
    assert [tau for tau, _ in found] == [*distinct, -np.inf]
    for tau, point in found:
        assert (point.share, point.accuracy, point.saved) == pytest.approx(counted(benchmarks, score_BN, tau))
    for tau in (0.0, 0.3, 0.5, 0.7, 0.75, 1.0):
        point = at(benchmarks, [sent_to_small(score_N, tau) for score_N in score_BN])
        assert (point.share, point.accuracy, point.saved) == pytest.approx(counted(benchmarks, score_BN, tau))


def test_a_question_at_the_threshold_goes_to_the_large_model():
    assert sent_to_small(np.array([0.49, 0.5, 0.51]), 0.5).tolist() == [False, False, True]


def test_the_random_line_is_the_mean_over_all_ways_of_that_share():
    rng = np.random.default_rng(5)
    benchmarks = [random_questions(rng, 5)]
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
    one = random_questions(rng, 6)
    sent_N = np.array([True, False, True, True, False, False])
    drawn = np.array([0, 0, 2, 4, 5, 5])
    again = Questions(*(getattr(one, name)[drawn] for name in Questions.__slots__))
    weights_RN = np.bincount(drawn, minlength=6)[None].astype(float)
    share, accuracy, saved, gain = (float(value[0]) for value in figures(one, sent_N, weights_RN))
    point = at([again], [sent_N[drawn]])
    assert (share, accuracy, saved) == pytest.approx((point.share, point.accuracy, point.saved))
    assert gain == pytest.approx(point.accuracy - random_at([again], point.share).accuracy)


def test_a_router_that_knows_who_is_right_beats_the_larger_model():
    one = Questions(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.ones(2), np.full(2, 10.0))
    (_, point) = curve([one], [one.small_N])[1]
    assert (point.share, point.accuracy) == (0.5, 1.0)
    assert point.saved == pytest.approx(0.45)


def questions(small: list[float], large: list[float], worth: float | np.ndarray = 0.5) -> Questions:
    """``worth``: what the small model saves on a question, as a share of the large one's cost."""
    cost_N = np.linspace(20, 90, len(small))
    return Questions(np.array(small), np.array(large), cost_N * (1 - np.asarray(worth)), cost_N)


@pytest.mark.parametrize("n", [1, 5, 300])
def test_none_or_all_sent_has_the_exact_binomial_interval(n):
    one = questions([0.0] * n, [1.0] * n)
    for count in (0, n):
        exact = binomtest(count, n).proportion_ci(0.95, method="exact")
        found = distances_of_equals(one, np.full(n, count > 0))
        value = count / n
        expected = (value - exact.low, exact.high - value)
        assert found["share"] == pytest.approx(expected)
        # Questions sent to the small model are wrong and the others right.
        assert found["accuracy"] == pytest.approx(expected[::-1])


def test_only_figures_without_any_spread_get_limits():
    informative_N = np.array([True, False, True])
    assert distances_of_equals(questions([0.0, 1.0, 0.5], [1.0, 0.0, 1.0]), informative_N) == {}
    assert set(distances_of_equals(questions([0.5, 0.5, 0.25], [0.5, 0.5, 0.25]), informative_N)) == {"gain"}
    assert set(distances_of_equals(questions([0.0] * 3, [0.0] * 3), informative_N)) == {"accuracy", "gain"}
    one = questions([0.0, 1.0, 0.5], [1.0, 0.0, 1.0], np.array([0.1, 0.2, 0.3]))
    assert set(distances_of_equals(one, np.zeros(3, bool))) == {"share", "saved", "gain"}
    assert set(distances_of_equals(one, np.ones(3, bool))) == {"share", "gain"}


def test_what_could_be_saved_reaches_from_the_worst_question_seen_to_all_of_its_cost():
    q = 1 - 0.025 ** (1 / 4)
    none = np.zeros(4, bool)
    one = questions([1.0] * 4, [1.0] * 4, np.array([0.2, 0.4, -0.5, 0.1]))
    assert distances_of_equals(one, none)["saved"] == pytest.approx((0.5 * q, q))
    # At 0.9 of the cost for each: saved 0.1, and rounding makes no difference between questions.
    assert distances_of_equals(questions([1.0] * 4, [1.0] * 4, 0.1), ~none)["saved"] == pytest.approx(
        (0.1 * q, 0.9 * q)
    )


def test_gain_of_one_question_is_bounded_by_what_it_can_be():
    rng = np.random.default_rng(1)
    for share in (0.0, 0.25, 1.0):
        for ahead in (-1.0, -0.3, 0.0, 1.0):
            low, high = gain_bounds(share, ahead)
            tried = (rng.integers(0, 2, 5000) - share) * (rng.uniform(-1, 1, 5000) - ahead)
            assert (low <= tried.min(), tried.max() <= high) == (True, True)
            assert (tried.min(), tried.max()) == pytest.approx((low, high), abs=0.02), "and reached"


def test_the_interval_of_equals_covers_the_truth_as_often_as_it_says():
    """A share of the questions is of another kind, as far off as can be; the truth is
    counted over the whole population, the interval comes from eight alike questions of the first kind."""
    n, trials = 8, 4000
    rng = np.random.default_rng(2)
    kinds = [(r, small, large) for r in (0, 1) for small in (0.0, 0.4, 1.0) for large in (0.0, 1.0)]
    for seen in kinds:
        for other in kinds:
            for share in (0.1, 0.3, 0.37, 0.6):
                truth = population(seen, other, share)
                one = questions([seen[1]] * n, [seen[2]] * n)
                found = distances_of_equals(one, np.full(n, bool(seen[0])))
                values = {"share": seen[0], "accuracy": seen[1] if seen[0] else seen[2], "gain": 0.0}
                alike = ((rng.random((trials, n)) < share).sum(axis=1) == 0).mean()
                for name, value in values.items():
                    below, above = found[name]
                    missed = alike * (not value - below - 1e-12 <= truth[name] <= value + above + 1e-12)
                    assert missed <= 0.035, (name, seen, other, share)


def population(seen: tuple, other: tuple, share: float) -> dict[str, float]:
    r, small, large = (np.array(pair, dtype=float) for pair in zip(seen, other, strict=True))
    weight = np.array([1 - share, share])
    sent = float(weight @ r)
    accuracy = float(weight @ np.where(r > 0, small, large))
    random = (1 - sent) * float(weight @ large) + sent * float(weight @ small)
    return {"share": sent, "accuracy": accuracy, "gain": accuracy - random}
