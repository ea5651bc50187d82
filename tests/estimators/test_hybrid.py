"""The hybrid's beliefs against Bayes' rule by enumeration, and what it learns against simulated truth."""

import hashlib
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hybrid_questions import at, candidate, plain, seen
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recorded_run import auroc

from depo.estimators.hybrid import SPANS, WORTHS, HybridEstimator
from depo.estimators.mopps import MoppsEstimator

# ---------------------------------------------------------------- the rule


def certain(estimator, worth, span):
    """As if learning had left one pair (w, span) for revisits, and one w for first visits."""
    estimator.again.score_S[:] = -1e9
    estimator.again.score_S[WORTHS.index(worth) * len(SPANS) + SPANS.index(span)] = 0.0
    estimator.first.score_S[:] = -1e9
    estimator.first.score_S[WORTHS.index(worth)] = 0.0


def flat(estimator):
    estimator.population_M = np.full_like(estimator.population_M, 1 / len(estimator.population_M))


def expected_beliefs(estimator, right, wrong, rate, spread, group_size=8):
    """Mean, sd and p_informative by plain sums over the grid."""
    total = mean = square = informative = 0.0
    for weight, z, p in zip(estimator.population_M, estimator.logit_M, estimator.rate_M, strict=True):
        q = 1 / (1 + math.exp(-min(max(z, -4.0), 4.0)))
        tilt = q ** (spread + rate) * (1 - q) ** (spread - rate)
        belief = weight * tilt * p**right * (1 - p) ** wrong
        total, mean, square = total + belief, mean + belief * p, square + belief * p * p
        for k in range(1, group_size):
            informative += belief * math.comb(group_size, k) * p**k * (1 - p) ** (group_size - k)
    mean, square = mean / total, square / total
    return mean, math.sqrt(square - mean**2), informative / total


def test_a_belief_is_population_times_tilt_times_discounted_counts():
    estimator = plain()
    for step in range(1, 4):
        estimator.observe([seen(str(i), i % 9, prior=(i % 9) / 8) for i in range(90)], at(step))
    certain(estimator, 4.0, 8.0)
    counts = sum(math.exp(-(5 - step) / 8) for step in (1, 2, 3))
    asked = [candidate(str(i), prior=0.1 * i) for i in range(9)] + [candidate("new", prior=0.9)]
    deviation = estimator.regression.predict(asked) - estimator.regression.mean_2
    assert np.ptp(deviation[:, 0]) > 0.5
    found = estimator.predict(asked, at(5))
    for i in range(10):
        k = i if i < 9 else 0
        wrong = 8 - k if i < 9 else 0
        expected = expected_beliefs(estimator, counts * k, counts * wrong, *(4.0 * deviation[i]))
        got = (found.mean[i], found.sd[i], found.p_informative[i])
        assert got == pytest.approx(expected, rel=1e-6)


def test_with_a_flat_population_of_rates_it_is_the_beta_posterior():
    """On a grid of logits, Beta(1, 1) of the rate is the weight p (1 − p)."""
    estimator = plain(noise=1e-9)
    estimator.observe([seen("a", 3), seen("b", 6)], at(1))
    estimator.population_M = estimator.rate_M * (1 - estimator.rate_M)
    certain(estimator, 0.0, np.inf)
    found = estimator.predict([candidate("a"), candidate("b")], at(9))
    np.testing.assert_allclose(found.mean, [4 / 10, 7 / 10], atol=1e-3)
    np.testing.assert_allclose(found.sd, [math.sqrt(a * (10 - a) / 1100) for a in (4, 7)], atol=1e-3)


def test_before_any_visit_the_belief_is_the_population():
    estimates = plain().predict([candidate("a"), candidate("b")], at(1))
    assert estimates.mean == pytest.approx([0.5, 0.5], abs=0.03)  # symmetric but for prompts out of reach
    assert (estimates.p_all_wrong > estimates.p_all_right).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 8)), max_size=12),
    st.integers(1, 64),
    st.integers(0, 500),
)
def test_estimates_are_probabilities_that_add_up(visits, group_size, later):
    estimator = plain()
    for step, (key, k) in enumerate(visits):
        estimator.observe([seen(key, k)], at(step))
    estimates = estimator.predict([candidate(key) for key in "abcde"], at(len(visits) + later, group_size))
    total = estimates.p_informative + estimates.p_all_wrong + estimates.p_all_right
    np.testing.assert_allclose(total, 1.0 if group_size > 1 else total, atol=1e-9)
    for values in (estimates.mean, estimates.p_informative, estimates.p_all_wrong, estimates.p_all_right):
        assert ((values >= 0) & (values <= 1)).all()
    if group_size == 1:
        assert (estimates.p_informative == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 30)), min_size=1, max_size=6), st.integers(0, 7))
def test_more_successes_never_lower_the_mean(visits, k):
    step, estimator = 0, plain()
    for count, gap in visits:
        step += gap
        estimator.observe([seen("worse", count), seen("better", count)], at(step))
    estimator.observe([seen("worse", k), seen("better", k + 1)], at(step + 1))
    worse, better = estimator.predict([candidate("worse"), candidate("better")], at(step + 2)).mean
    assert better >= worse - 1e-9


def test_draws_have_the_beliefs_mean_and_spread():
    estimator = plain()
    estimator.observe([seen("a", 3), seen("b", 0), seen("c", 8)], at(1))
    estimates = estimator.predict([candidate(key) for key in "abc"] * 4000, at(5))
    drawn = estimates.sample(np.random.default_rng(0)).reshape(4000, 3)
    np.testing.assert_allclose(drawn.mean(axis=0), estimates.mean[:3], atol=0.015)
    np.testing.assert_allclose(drawn.std(axis=0), estimates.sd[:3], atol=0.015)
    assert drawn.std(axis=0).min() > 0


def test_neither_order_nor_batch_nor_splitting_of_groups_matters():
    rng = np.random.default_rng(0)
    visits, again = (
        [
            seen(str(i), int(rng.integers(9)), text=f"problem {i} of {i % 3}", features=rng.normal(size=4))
            for i in range(40)
        ]
        for _ in range(2)
    )
    asked = [
        candidate(str(i), text=f"problem {i} of {i % 3}", features=rng.normal(size=4)) for i in range(45)
    ]
    forward, backward = HybridEstimator(), HybridEstimator()
    for estimator, order in ((forward, 1), (backward, -1)):
        estimator.observe(visits[::order], at(1))
        estimator.observe(again[::order], at(2))
    together = forward.predict(asked, at(3)).p_informative
    np.testing.assert_array_equal(together, backward.predict(asked, at(3)).p_informative)
    np.testing.assert_allclose(together[::-1], forward.predict(asked[::-1], at(3)).p_informative, rtol=1e-12)
    alone = [forward.predict([one], at(3)).p_informative[0] for one in asked]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    whole, parts = plain(), plain()
    whole.observe([seen("a", 3, 8)], at(1))
    parts.observe([seen("a", 1, 4), seen("a", 2, 4)], at(1))
    assert whole.predict([candidate("a")], at(1)).mean == parts.predict([candidate("a")], at(1)).mean


# ---------------------------------------------------------------- what it learns


def simulated_pool(rng, prompts):
    """Half out of reach, a quarter mastered, a quarter between, in logits."""
    kind = rng.permutation(np.repeat([0, 1, 2], [prompts // 2, prompts // 4, prompts // 4]))
    return np.choose(kind, [np.full(prompts, -7.0), np.full(prompts, 4.0), rng.normal(0, 1, prompts)])


@pytest.mark.parametrize("group_size", [2, 8])
def test_predictions_are_calibrated_where_the_truth_is_known(group_size):
    """A pool whose pass rates wander and improve; every prediction before its outcome: the mean by deciles,
    and the sd, for E(r̂ − mean)² = E[p(1 − p)] / G + sd² with mean(1 − mean) = E[p(1 − p)] + sd²."""
    rng = np.random.default_rng(0)
    logit = simulated_pool(rng, 400)
    keys = [str(i) for i in range(400)]
    estimator = plain()
    means, sds, rates = [], [], []
    for step in range(1, 41):
        k = rng.binomial(group_size, 1 / (1 + np.exp(-logit)))
        found = estimator.predict([candidate(key) for key in keys], at(step, group_size))
        means.append(found.mean)
        sds.append(found.sd)
        rates.append(k / group_size)
        groups = [seen(key, int(count), group_size) for key, count in zip(keys, k, strict=True)]
        estimator.observe(groups, at(step, group_size))
        logit = logit + rng.normal(0.02, 0.1, 400)
    mean, sd, rate = (np.concatenate(values[5:]) for values in (means, sds, rates))
    for part in np.array_split(np.argsort(mean), 10):
        assert mean[part].mean() == pytest.approx(rate[part].mean(), abs=0.05)
    expected = mean * (1 - mean) / group_size + sd**2 * (1 - 1 / group_size)
    assert ((rate - mean) ** 2).sum() / expected.sum() == pytest.approx(1.0, abs=0.1)


def test_the_population_is_that_of_the_last_steps():
    """Of a policy that learned in five steps what it could not do in twenty. All prompts are new."""
    estimator = plain()
    for step in range(1, 26):
        groups = [seen(f"{step}-{i}", 2 if step > 20 else 0, 2) for i in range(64)]
        estimator.observe(groups, at(step, 2))
    assert estimator.predict([candidate("new")], at(26, 2)).mean[0] > 0.9


def test_the_population_is_that_of_the_pool_although_easy_prompts_were_chosen():
    """Of two kinds, told by their text, the easy one is visited nine times as often: a new text of each kind
    is still believed what its kind is."""
    rng = np.random.default_rng(1)
    estimator = HybridEstimator()
    for step in range(1, 41):
        easy = rng.random(32) < 0.9
        k = rng.binomial(8, np.where(easy, 0.9, 0.1))
        groups = [seen(f"{step}-{i}", int(k[i]), text="sum" if easy[i] else "conjecture") for i in range(32)]
        estimator.observe(groups, at(step))
    easy, hard = estimator.predict(
        [candidate("x", text="sum"), candidate("y", text="conjecture")], at(41)
    ).mean
    assert easy == pytest.approx(0.9, abs=0.05)
    assert hard == pytest.approx(0.1, abs=0.1)


def test_counts_are_forgotten_as_fast_as_the_policy_moves():
    rng = np.random.default_rng(2)
    kept = {}
    for walk in (0.0, 1.0):
        logit = rng.normal(0, 1.5, 200)
        estimator = plain()
        for step in range(1, 31):
            k = rng.binomial(8, 1 / (1 + np.exp(-logit)))
            metrics = estimator.observe([seen(str(i), int(k[i])) for i in range(200)], at(step))
            logit = 0.9 * logit + rng.normal(0, walk, 200) if walk else logit
        kept[walk] = metrics["count_kept"]
    assert kept[0.0] > 0.98
    assert kept[1.0] < 0.75


def test_a_policy_that_improves_lifts_the_prompts_not_visited_since():
    rng = np.random.default_rng(3)
    start = rng.normal(-1.5, 1.0, 300)
    estimator = plain()
    for step in range(1, 61):
        k = rng.binomial(8, 1 / (1 + np.exp(-(start + 0.05 * step))))
        # The last hundred prompts are visited in the first three steps only.
        visited = range(300) if step <= 3 else range(200)
        estimator.observe([seen(str(i), int(k[i])) for i in visited], at(step))
    before, now = (1 / (1 + np.exp(-(start[200:] + 0.05 * step))) for step in (3, 61))
    mean = estimator.predict([candidate(str(i)) for i in range(200, 300)], at(61)).mean.mean()
    assert mean - before.mean() > 0.5 * (now.mean() - before.mean()) > 0.2


def test_text_tells_prompts_apart_before_their_first_visit():
    rng = np.random.default_rng(4)
    words = {True: "triangle area", False: "prove the conjecture"}
    estimator, blind = HybridEstimator(), plain()
    for step in range(1, 31):
        easy = rng.random(16) < 0.5
        k = rng.binomial(8, np.where(easy, 0.9, 0.05))
        groups = [
            seen(f"{step}-{i}", int(k[i]), text=f"{words[bool(easy[i])]} {step} {i}") for i in range(16)
        ]
        metrics = estimator.observe(groups, at(step))
        blind.observe(groups, at(step))
    new = [candidate("x", text="triangle area 99 1"), candidate("y", text="prove the conjecture 99 1")]
    easy, hard = estimator.predict(new, at(31)).mean
    assert easy > 0.75
    assert hard < 0.25
    assert metrics["first_worth"] > 1
    assert np.ptp(blind.predict(new, at(31)).mean) < 1e-9


def test_half_solved_prompts_are_told_from_a_mixture_of_solved_and_hopeless_ones():
    """Both kinds are solved half of the time; groups of two."""
    rng = np.random.default_rng(8)
    estimator = HybridEstimator()
    for step in range(1, 41):
        half = rng.random(32) < 0.5
        k = rng.binomial(2, np.where(half, 0.5, np.where(rng.random(32) < 0.5, 0.99, 0.01)))
        kinds = ["half" if one else "either" for one in half]
        estimator.observe([seen(f"{step}-{i}", int(k[i]), 2, text=kinds[i]) for i in range(32)], at(step, 2))
    half, either = estimator.predict(
        [candidate("x", text="half"), candidate("y", text="either")], at(41, 2)
    ).p_informative
    assert half > 0.3 > 0.2 > either


def test_text_that_says_nothing_is_worth_nothing():
    rng = np.random.default_rng(5)
    estimator = HybridEstimator()
    for step in range(1, 61):
        k = rng.binomial(8, np.where(rng.random(32) < 0.5, 0.9, 0.05))
        words = [" ".join(rng.choice(list("abcdefghij"), 8)) for _ in range(32)]
        groups = [seen(f"{step}-{i}", int(k[i]), text=words[i]) for i in range(32)]
        metrics = estimator.observe(groups, at(step))
    new = [candidate(str(i), text=" ".join(rng.choice(list("abcdefghij"), 8))) for i in range(200)]
    mean = estimator.predict(new, at(61)).mean
    assert metrics["first_worth"] < 0.5
    assert mean.std() < 0.05
    assert mean.mean() == pytest.approx(0.475, abs=0.05)


@pytest.mark.parametrize("source", ["prior", "features"])
def test_recorded_pass_rates_and_the_prefill_probe_are_used_for_what_they_are_worth(source):
    rng = np.random.default_rng(6)
    estimator = plain()

    def known(logit):
        if source == "prior":
            return {"prior": float(1 / (1 + np.exp(-logit - rng.normal(0, 0.5))))}
        return {"features": np.array([rng.normal(), logit + rng.normal(0, 0.5), 1.0])}

    for step in range(1, 41):
        logit = rng.normal(0, 2, 16)
        k = rng.binomial(8, 1 / (1 + np.exp(-logit)))
        estimator.observe([seen(f"{step}-{i}", int(k[i]), **known(logit[i])) for i in range(16)], at(step))
    logit = rng.normal(0, 2, 400)
    mean = estimator.predict([candidate(str(i), **known(x)) for i, x in enumerate(logit)], at(41)).mean
    assert np.corrcoef(mean, 1 / (1 + np.exp(-logit)))[0, 1] > 0.9


def test_it_is_as_good_as_a_tuned_beta_posterior_on_a_recorded_training_run(test_data):
    """Zero-variance AUROC and mean log score, on prompts with odd hash, full feedback."""
    trace = pq.read_table(test_data / "traces/dsrsub_qwen25math15b_grpo_epochs_n8.parquet").to_pylist()
    trace = [row for row in trace if int(hashlib.sha256(row["prompt_id"].encode()).hexdigest(), 16) % 2]
    keys, k_PT = [row["prompt_id"] for row in trace], np.array([row["k_correct"][:44] for row in trace])

    def quality(estimator):
        scores, means = [], []
        for t in range(44):
            found = estimator.predict([candidate(key) for key in keys], at(t + 1))
            scores.append(1 - found.p_informative)
            means.append(np.clip(found.mean, 1e-6, 1 - 1e-6))
            groups = [seen(key, int(k)) for key, k in zip(keys, k_PT[:, t], strict=True)]
            estimator.observe(groups, at(t + 1))
        k, mean = k_PT.T.ravel(), np.concatenate(means)
        log_score = (k * np.log(mean) + (8 - k) * np.log1p(-mean)).mean() / 8
        return auroc(np.concatenate(scores), (k == 0) | (k == 8)), log_score

    found, tuned = quality(plain()), quality(MoppsEstimator(0.5, 0.5, discount=0.9))
    assert found[0] > max(0.896, tuned[0] - 0.001)
    assert found[1] > tuned[1]
