"""A histogram of difficulty recovered from binomial counts, also where selection has biased the sample."""

import numpy as np

from estimators.first_visits import Population
from estimators.logit_grid import LogitGrid, normalised

GRID = LogitGrid(noise=1e-6)
FLAT = np.ones(len(GRID))


def names(n):
    return [str(i) for i in range(n)]


def share_above(histogram_M, logit=0.0):
    return float(histogram_M[1:][GRID.points_L > logit].sum())


def test_recovers_two_humps_from_counts():
    rng = np.random.default_rng(0)
    rate_N = np.where(rng.random(4000) < 0.7, 0.02, 0.9)
    population = Population(FLAT, weight=4.0, window=20_000)
    for part_n in np.array_split(rng.binomial(8, rate_N), 8):
        trials = np.full(len(part_n), 8)
        ones_NM = np.ones((len(part_n), len(GRID)))
        population.observe(names(len(part_n)), GRID.likelihood(part_n, trials), ones_NM)
    histogram_M = population.histogram_M
    assert abs(share_above(histogram_M) - 0.3) < 0.03
    rates_M = GRID.rates()
    middle = histogram_M[(rates_M > 0.2) & (rates_M < 0.7)].sum()
    assert middle < 0.02  # nothing lives between the humps, though half-right groups do occur
    assert abs(histogram_M @ rates_M - (0.7 * 0.02 + 0.3 * 0.9)) < 0.01


def test_without_any_visit_it_is_the_base_and_few_visits_move_it_little():
    base_M = normalised(np.linspace(1, 2, len(GRID)))
    population = Population(base_M, weight=4.0, window=1000)
    np.testing.assert_allclose(population.histogram_M, base_M)
    population.observe(["a"], GRID.likelihood(np.array([8]), np.array([8])), np.ones((1, len(GRID))))
    assert share_above(population.histogram_M) > share_above(base_M)
    assert share_above(population.histogram_M, 9.0) < 0.5


def test_a_sample_that_selection_has_biased_is_put_right():
    """A hint, right in 9 of 10 cases, says which prompts are hard (30 %); those hinted at are visited five
    times as often. A tilt that states the hint's worth, a likelihood ratio of 9, undoes that."""
    rng = np.random.default_rng(1)
    hard_N = rng.random(20_000) < 0.3
    hint_N = np.where(rng.random(20_000) < 0.9, hard_N, ~hard_N)
    visited_N = rng.random(20_000) < np.where(hint_N, 0.5, 0.1)
    counts_N = rng.binomial(8, np.where(hard_N, 0.05, 0.8))[visited_N]
    likelihood_NM = GRID.likelihood(counts_N, np.full(len(counts_N), 8))
    logit_hard, logit_easy = np.log(0.05 / 0.95), np.log(0.8 / 0.2)
    slope = np.log(9) / (logit_easy - logit_hard)
    sign_N1 = np.where(hint_N[visited_N], -1.0, 1.0)[:, None]
    tilt_NM = np.exp(sign_N1 * slope * np.append(-4.0, GRID.points_L.clip(-4, 4)))
    aware, naive = (Population(FLAT, weight=4.0, window=20_000) for _ in range(2))
    for rows in np.array_split(np.arange(len(counts_N)), 10):
        aware.observe(names(len(rows)), likelihood_NM[rows], tilt_NM[rows])
        naive.observe(names(len(rows)), likelihood_NM[rows], np.ones_like(tilt_NM[rows]))
    assert share_above(naive.histogram_M) < 0.45  # 44 % of the visited prompts are easy, 70 % of all
    assert abs(share_above(aware.histogram_M) - 0.7) < 0.05


def test_older_visits_fade():
    trials = np.full(500, 8)
    ones_NM = np.ones((500, len(GRID)))
    population = Population(FLAT, weight=4.0, window=200)
    population.observe(names(500), GRID.likelihood(np.zeros(500), trials), ones_NM)
    population.observe(names(500), GRID.likelihood(np.full(500, 8), trials), ones_NM)
    assert share_above(population.histogram_M) > 0.85


def test_first_visits_are_seen_anew_in_the_light_of_later_ones():
    """A prompt that failed 8 times: who knows, while it is the only one; hopeless once all others failed."""
    population = Population(FLAT, weight=4.0, window=100)
    failed_M, ones_M = GRID.likelihood(np.zeros(1), np.full(1, 8)), np.ones((1, len(GRID)))
    population.observe(["a"], failed_M, ones_M)
    before = float((population.posteriors() @ GRID.rates())[0])
    population.observe(names(60), failed_M.repeat(60, axis=0), ones_M.repeat(60, axis=0))
    assert population.keys[0] == "a"
    assert float((population.posteriors() @ GRID.rates())[0]) < before / 2
    population.observe(names(60), failed_M.repeat(60, axis=0), ones_M.repeat(60, axis=0))
    assert len(population.keys) == len(population.posteriors()) == 100
    assert "a" not in population.keys
