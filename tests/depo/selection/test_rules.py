"""Each rule on beliefs written down by hand. N: candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from depo.estimators.base import Candidate, Context, Estimates, Observation
from depo.estimators.greso import GresoEstimator
from depo.estimators.moments import informative_probability
from depo.selection import Considered, Rule
from depo.selection.rules import (
    BUILT_IN,
    Greedy,
    Gumbel,
    Optimistic,
    Prioritized,
    Skip,
    Thompson,
    Threshold,
    Window,
    build_rule,
    top,
)


def view(
    informative: Sequence[float],
    mean: Sequence[float] | None = None,
    tokens: Sequence[float] | None = None,
    visits: Sequence[int] | None = None,
) -> Considered:
    informative_N = np.array(informative, dtype=np.float64)
    mean_N = np.full(len(informative_N), 0.5) if mean is None else np.array(mean, dtype=np.float64)
    rest_N = (1 - informative_N) / 2
    estimates = Estimates(mean_N, np.zeros_like(mean_N), informative_N, rest_N, rest_N, lambda rng: mean_N)
    tokens_N = np.ones(len(informative_N)) if tokens is None else np.array(tokens, dtype=float)
    visits_N = np.zeros(len(informative_N), dtype=int) if visits is None else np.array(visits)
    return Considered(estimates, 8, lambda: tokens_N, lambda: visits_N)


def chosen(rule: Rule, seen: Considered, n: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return top(rule(seen, rng), n, rng).tolist()


def shares(rule: Rule, seen: Considered, n: int, draws: int = 2000) -> np.ndarray:
    """How often each candidate is among the n chosen (N,)."""
    counts = np.zeros(len(seen.estimates.mean))
    for seed in range(draws):
        counts[chosen(rule, seen, n, seed)] += 1
    return counts / draws


def test_thompson_orders_as_mopps_does_by_the_distance_of_the_draw_from_one_half() -> None:
    """MoPPS, eq. for the target 0.5: the draws p̂ nearest to it. Distances: 0.4, 0.05, 0.2, 0.5, 0.1."""
    seen = view([0.5] * 5, mean=[0.1, 0.55, 0.3, 1.0, 0.6])  # the stand-in's draw is its mean
    assert chosen(Thompson(draws=1), seen, 5, 0) == [1, 4, 2, 0, 3]
    scores = Thompson(draws=1)(seen, np.random.default_rng(0))
    np.testing.assert_array_equal(scores, informative_probability(seen.estimates.mean, 8))


def test_window_draws_uniformly_among_the_means_inside() -> None:
    seen = view([0.9, 0.1, 0.9, 0.1, 0.9], mean=[0.149, 0.15, 0.5, 0.85, 0.851])
    np.testing.assert_allclose(shares(Window(), seen, 1), [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.04)


def test_window_with_too_few_inside_is_filled_up_with_the_nearest() -> None:
    seen = view([0.5] * 5, mean=[0.0, 0.5, 0.875, 0.1875, 1.0])  # outside by 1/4, –, 1/8, 1/16, 1/4
    rule = Window(low=0.25, high=0.75)
    assert chosen(rule, seen, 3, 0) == [1, 3, 2]
    assert shares(rule, seen, 4)[[0, 4]] == pytest.approx([0.5, 0.5], abs=0.04)


def test_threshold_draws_uniformly_among_those_above_it_and_fills_up_from_the_top() -> None:
    seen = view([0.3, 0.99, 0.2, 0.29, 0.6])
    np.testing.assert_allclose(shares(Threshold(), seen, 1), [1 / 3, 1 / 3, 0, 0, 1 / 3], atol=0.04)
    assert chosen(Threshold(), seen, 5, 0)[3:] == [3, 2]


def test_greedy_takes_the_highest_and_breaks_ties_at_random() -> None:
    seen = view([0.3, 0.9, 0.2, 0.9, 0.6])
    np.testing.assert_allclose(shares(Greedy(), seen, 1), [0, 0.5, 0, 0.5, 0], atol=0.04)
    assert sorted(chosen(Greedy(), seen, 3, 0)) == [1, 3, 4]


def test_skip_goes_through_the_candidates_in_order_and_keeps_each_with_p_informative() -> None:
    """One place. First candidate kept with 1/2; else the second, certain."""
    assert shares(Skip(), view([0.5, 1.0, 1.0]), 1) == pytest.approx([0.5, 0.5, 0], abs=0.04)
    assert chosen(Skip(), view([1.0] * 6), 4, 0) == [0, 1, 2, 3]


def test_skip_with_too_few_kept_is_filled_up_with_the_highest_skipped() -> None:
    assert chosen(Skip(), view([0.0, 1.0, 1e-9, 1e-12]), 3, 0) == [1, 2, 3]


def test_skip_on_streak_beliefs_keeps_prompts_as_greso_does() -> None:
    """p_easy = p_hard = 1/2: a prompt with z zero-variance groups behind it is kept with 2^−z."""
    estimator = GresoEstimator(adjustment=0.0)
    context = Context(8, 1)
    for visit in range(3):
        estimator.observe([Observation(f"{z}", "", 0, 8, 1) for z in range(visit + 1, 4)], context)
    candidates = [Candidate(f"{z}", "") for z in range(4)]
    seen = Considered(
        estimator.predict(candidates, context), 8, lambda: np.ones(4), lambda: np.zeros(4, dtype=int)
    )
    rng = np.random.default_rng(0)
    kept = np.mean([Skip()(seen, rng) > 1 for _ in range(4000)], axis=0)
    np.testing.assert_allclose(kept, [1, 1 / 2, 1 / 4, 1 / 8], atol=0.03)


def test_per_token_thompson_prefers_the_shorter_of_two_that_teach_alike() -> None:
    """2p(1 − p)/tokens: 0.5/10, 0.5/4, 0.32/2."""
    seen = view([0.5] * 3, mean=[0.5, 0.5, 0.2], tokens=[10, 4, 2])
    assert chosen(Thompson(draws=1, per_token=True), seen, 3, 0) == [2, 1, 0]
    assert chosen(Thompson(draws=1), seen, 3, 0)[2] == 2


def test_gumbel_draws_in_proportion_to_signal_per_token() -> None:
    """Temperature 1, one place: p_informative / tokens = 0.4/1, 0.8/4, 0.2/1, 0/1."""
    seen = view([0.4, 0.8, 0.2, 0.0], tokens=[1, 4, 1, 1])
    expected = np.array([0.4, 0.2, 0.2, 0.0]) / 0.8
    np.testing.assert_allclose(shares(Gumbel(temperature=1.0), seen, 1), expected, atol=0.04)


def test_gumbel_draws_without_replacement_as_successive_draws_would() -> None:
    """Two places, weights w = (3, 2, 1)/6: P(i among both) = w_i + Σ_j w_j · w_i / (1 − w_j)."""
    w = np.array([3, 2, 1]) / 6
    expected = w + [sum(w[j] * w[i] / (1 - w[j]) for j in range(3) if j != i) for i in range(3)]
    np.testing.assert_allclose(shares(Gumbel(temperature=1.0), view(w), 2), expected, atol=0.04)


def test_low_temperature_makes_gumbel_take_the_best() -> None:
    seen = view([0.4, 0.8, 0.2], tokens=[1, 4, 1])
    assert all(chosen(Gumbel(temperature=0.01), seen, 1, seed) == [0] for seed in range(50))


def test_prioritized_draws_in_proportion_to_the_deviation_of_a_verdict_and_a_floor() -> None:
    """√(p(1 − p)) + 0.05 at p = 0.5, 0.9 and 0: 0.55, 0.35, 0.05."""
    seen = view([0.5] * 3, mean=[0.5, 0.9, 0.0])
    expected = np.array([0.55, 0.35, 0.05]) / 0.95
    np.testing.assert_allclose(shares(Prioritized(), seen, 1), expected, atol=0.04)


def test_those_marked_last_come_last_whatever_their_score() -> None:
    last_N = np.array([False, True, False, True])
    picked = top(np.array([0.1, 0.9, 0.2, 0.8]), 4, np.random.default_rng(0), last_N).tolist()
    assert picked == [2, 0, 1, 3]


@pytest.mark.parametrize("rule", sorted(BUILT_IN))
def test_no_candidates_give_no_scores(rule: str) -> None:
    assert chosen(build_rule(rule), view([]), 3, 0) == []


def torn(prompts: int, visits: list[int] | None = None) -> Considered:
    """Beliefs that are at p = 0.5 (G = 8: p_informative 127/128) or at p = 0 with equal chance."""
    seen = view([127 / 256] * prompts, visits=visits)
    draws = Estimates(
        seen.estimates.mean,
        seen.estimates.sd,
        seen.estimates.p_informative,
        seen.estimates.p_all_wrong,
        seen.estimates.p_all_right,
        lambda rng: np.where(rng.random(prompts) < 0.5, 0.5, 0.0),
    )
    return Considered(draws, 8, seen.tokens, seen.visits)


def test_thompson_takes_the_mean_of_its_draws() -> None:
    """Of four draws j are at p = 0.5 with the chances of a fair coin: 1, 4, 6, 4, 1 of 16."""
    scores_N = Thompson(draws=4)(torn(4000), np.random.default_rng(0))
    values, counts = np.unique(np.round(scores_N * 128 / 127 * 4, 9), return_counts=True)
    np.testing.assert_array_equal(values, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(counts / 4000, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)


def test_optimistic_takes_the_best_draw_for_prompts_hardly_known_and_the_belief_for_others() -> None:
    """The best of three draws is 127/128 in 7 of 8 cases, else 0; p_informative is about 1/2."""
    seen = torn(2000, visits=[0, 5] * 1000)
    rule = Optimistic(draws=3, sure_after=3)
    scores_N = rule(seen, np.random.default_rng(0))
    assert np.all(scores_N[1::2] == 127 / 256)
    new_N = scores_N[::2]
    assert set(np.round(new_N, 6)) == {0.0, round(127 / 128, 6)}
    assert abs((new_N > 0).mean() - 7 / 8) < 0.04


def test_headroom_prefers_the_harder_of_two_that_are_as_informative() -> None:
    """2p (1 − p)^(1 + h): with h = 1 highest at 1/3, with h = 0 the same for p and 1 − p."""
    rates = [0.9, 0.1, 0.5, 1 / 3]
    pairs = replace(view([0.5] * 4, mean=rates), group_size=2)
    assert chosen(Thompson(draws=1, headroom=1.0), pairs, 4, 0) == [3, 2, 1, 0]
    assert chosen(Thompson(draws=1), pairs, 2, 0) == [2, 3]
    assert shares(Thompson(draws=1), pairs, 3)[:2] == pytest.approx([0.5, 0.5], abs=0.05)
