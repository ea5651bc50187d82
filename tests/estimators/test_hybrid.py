"""The hybrid's beliefs against Bayes' rule by enumeration, and what it learns against simulated truth."""

import math

import numpy as np
import pytest
from hybrid_questions import at, candidate, plain, seen
from hypothesis import given, settings
from hypothesis import strategies as st

from estimators.hybrid import HybridEstimator

# ---------------------------------------------------------------- beliefs


def test_before_any_visit_the_belief_is_the_population():
    estimates = plain().predict([candidate("a"), candidate("b")], at(1))
    assert estimates.mean == pytest.approx([0.5, 0.5], abs=0.03)  # symmetric but for prompts out of reach
    assert (estimates.p_all_wrong > estimates.p_all_right).all()


def test_a_visit_is_bayes_rule():
    """By enumeration over the grid with math.comb, from the population that the visits have left."""
    estimator = plain(noise=1e-9)
    estimator.observe([seen("a", 1), seen("b", 6), seen("c", 0), seen("d", 0)], at(1))
    prior = estimator.population.histogram_M
    rates = [1e-9] + [1 / (1 + math.exp(-z)) for z in estimator.grid.points_L]
    estimates = estimator.predict([candidate("a"), candidate("b")], at(1))
    for i, k in enumerate((1, 6)):
        weight = [w * math.comb(8, k) * p**k * (1 - p) ** (8 - k) for w, p in zip(prior, rates, strict=True)]
        total = sum(weight)
        mean = sum(w * p for w, p in zip(weight, rates, strict=True)) / total
        informative = 0.0  # an informative group has 1 … 7 successes
        for j in range(1, 8):
            informative += sum(
                w * math.comb(8, j) * p**j * (1 - p) ** (8 - j) for w, p in zip(weight, rates, strict=True)
            )
        variance = sum(w * (p - mean) ** 2 for w, p in zip(weight, rates, strict=True)) / total
        assert estimates.mean[i] == pytest.approx(mean, rel=1e-5)
        assert estimates.p_informative[i] == pytest.approx(informative / total, rel=1e-5)
        assert estimates.sd[i] == pytest.approx(math.sqrt(variance), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 30)), min_size=1, max_size=6), st.integers(0, 7))
def test_more_successes_never_lower_the_mean(visits, k):
    """Two prompts with the same history, one of which does better by one at the last visit."""
    step = 0
    estimator = plain(drift=False)
    for count, gap in visits:
        step += gap
        estimator.observe([seen("worse", count), seen("better", count)], at(step))
    estimator.observe([seen("worse", k), seen("better", k + 1)], at(step + 1))
    worse, better = estimator.predict([candidate("worse"), candidate("better")], at(step + 2)).mean
    assert better >= worse - 1e-9


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


def test_draws_have_the_beliefs_mean_and_spread():
    estimator = plain()
    estimator.observe([seen("a", 3), seen("b", 0), seen("c", 8)], at(1))
    estimates = estimator.predict([candidate(key) for key in "abc"] * 4000, at(5))
    drawn = estimates.sample(np.random.default_rng(0)).reshape(4000, 3)
    np.testing.assert_allclose(drawn.mean(axis=0), estimates.mean[:3], atol=0.015)
    np.testing.assert_allclose(drawn.std(axis=0), estimates.sd[:3], atol=0.015)
    assert drawn.std(axis=0).min() > 0


def test_uncertainty_grows_with_the_time_since_the_last_visit():
    estimator = plain()
    estimator.observe([seen("a", 4)], at(1))
    sd = [float(estimator.predict([candidate("a")], at(step)).sd[0]) for step in (1, 10, 100)]
    assert sd[0] < sd[1] < sd[2]


def test_neither_order_nor_splitting_of_groups_matters():
    rng = np.random.default_rng(0)
    visits = [seen(str(i), int(rng.integers(9)), text=f"problem {i} of {i % 3}") for i in range(40)]
    again = [seen(str(i), int(rng.integers(9)), text=f"problem {i} of {i % 3}") for i in range(40)]
    asked = [candidate(str(i), text=f"problem {i} of {i % 3}") for i in range(45)]
    forward, backward = HybridEstimator(), HybridEstimator()
    for estimator, order in ((forward, 1), (backward, -1)):
        estimator.observe(visits[::order], at(1))
        estimator.observe(again[::order], at(2))
    np.testing.assert_allclose(
        forward.predict(asked, at(3)).p_informative, backward.predict(asked, at(3)).p_informative, atol=1e-6
    )
    whole, parts = plain(), plain()
    whole.observe([seen("a", 3, 8)], at(1))
    parts.observe([seen("a", 1, 4), seen("a", 2, 4)], at(1))
    assert whole.predict([candidate("a")], at(1)).mean == parts.predict([candidate("a")], at(1)).mean


# ---------------------------------------------------------------- what it learns


def simulated_pool(rng, prompts):
    """Half out of reach, a quarter mastered, a quarter between, in logits."""
    kind = rng.permutation(np.repeat([0, 1, 2], [prompts // 2, prompts // 4, prompts // 4]))
    return np.choose(kind, [np.full(prompts, -7.0), np.full(prompts, 4.0), rng.normal(0, 1, prompts)])


def test_predictions_are_calibrated_where_the_truth_is_known():
    """A pool whose pass rates wander and improve; every prediction before its outcome, G = 8."""
    rng = np.random.default_rng(0)
    logit = simulated_pool(rng, 400)
    keys = [str(i) for i in range(400)]
    estimator = plain()
    predicted, informative = [], []
    for step in range(1, 41):
        k = rng.binomial(8, 1 / (1 + np.exp(-logit)))
        predicted.append(estimator.predict([candidate(key) for key in keys], at(step)).p_informative)
        informative.append((k > 0) & (k < 8))
        estimator.observe([seen(key, int(count)) for key, count in zip(keys, k, strict=True)], at(step))
        logit = logit + rng.normal(0.02, 0.1, 400)
    predicted, informative = np.concatenate(predicted[5:]), np.concatenate(informative[5:])
    for part in np.array_split(np.argsort(predicted), 10):
        assert predicted[part].mean() == pytest.approx(informative[part].mean(), abs=0.04)


def test_ability_follows_a_policy_that_improves_and_lifts_prompts_not_visited_since():
    rng = np.random.default_rng(1)
    start = rng.normal(-1.5, 1.0, 300)
    keys = [str(i) for i in range(300)]
    drifting, still = plain(), plain(drift=False)
    for step in range(1, 61):
        k = rng.binomial(8, 1 / (1 + np.exp(-(start + 0.03 * step))))
        # The last hundred prompts are visited in the first three steps only.
        visited = range(300) if step <= 3 else range(200)
        groups = [seen(keys[i], int(k[i])) for i in visited]
        for estimator in (drifting, still):
            estimator.observe(groups, at(step))
    assert drifting.ability == pytest.approx(0.03 * 60, abs=0.3)
    truth = 1 / (1 + np.exp(-(start[200:] + 0.03 * 61)))
    asked = [candidate(key) for key in keys[200:]]
    error = {
        name: abs(float((estimator.predict(asked, at(61)).mean - truth).mean()))
        for name, estimator in (("drifting", drifting), ("still", still))
    }
    assert error["drifting"] < 0.06
    assert error["still"] > 2 * error["drifting"]


def test_prompts_hard_for_a_policy_that_has_come_far_are_believed_hard():
    """After ten logits of progress a grid that stayed where it was would end at a rate of 0.5."""
    rng = np.random.default_rng(7)
    start = rng.uniform(-13.0, 1.0, 400)
    estimator = plain(ability_step=0.1)
    for step in range(1, 161):
        logit = start + 0.075 * step
        picked = rng.choice(np.flatnonzero(np.abs(logit) < 2.5), 32, replace=False)
        k = rng.binomial(8, 1 / (1 + np.exp(-logit)))
        metrics = estimator.observe([seen(str(i), int(k[i])) for i in picked], at(step))
    assert metrics["ability"] == pytest.approx(12.0, abs=2.0)
    late = [f"late {i}" for i in range(40)]
    for step in range(161, 167):
        estimator.observe([seen(key, int(rng.binomial(8, 0.04))) for key in late], at(step))
    estimates = estimator.predict([candidate(key) for key in late], at(167))
    assert estimates.mean.mean() == pytest.approx(0.04, abs=0.02)


def test_where_the_grid_is_placed_changes_no_prediction(monkeypatch):
    rng = np.random.default_rng(8)
    start = rng.normal(-1.0, 1.0, 80)
    often, never = plain(), plain()
    for step in range(1, 61):
        k = rng.binomial(8, 1 / (1 + np.exp(-(start + 0.04 * step))))
        groups = [seen(str(i), int(k[i])) for i in range(80)]
        for estimator, far in ((often, 0.5), (never, np.inf)):
            monkeypatch.setattr("estimators.hybrid.FAR", far)
            metrics = estimator.observe(groups, at(step))
            assert metrics["ability"] == pytest.approx(estimator.origin + estimator.ability)
    assert never.origin == 0 < often.origin
    asked = [candidate(str(i)) for i in range(90)]
    for name in ("mean", "p_informative", "sd"):
        np.testing.assert_allclose(
            getattr(often.predict(asked, at(61)), name),
            getattr(never.predict(asked, at(61)), name),
            atol=0.01,
        )


def test_text_tells_prompts_apart_before_their_first_visit():
    rng = np.random.default_rng(2)
    words = {True: "triangle area", False: "prove the conjecture"}
    estimator, blind = HybridEstimator(), plain()
    for step in range(1, 31):
        easy = rng.random(16) < 0.5
        k = rng.binomial(8, np.where(easy, 0.9, 0.05))
        groups = [
            seen(f"{step}-{i}", int(k[i]), text=f"{words[bool(easy[i])]} {step} {i}") for i in range(16)
        ]
        estimator.observe(groups, at(step))
        blind.observe(groups, at(step))
    new = [candidate("x", text="triangle area 99 1"), candidate("y", text="prove the conjecture 99 1")]
    easy, hard = estimator.predict(new, at(31)).mean
    assert easy > 0.75
    assert hard < 0.25
    assert estimator.worth.mean > 1
    assert np.ptp(blind.predict(new, at(31)).mean) == 0


def test_text_that_says_nothing_is_worth_nothing():
    rng = np.random.default_rng(3)
    estimator = HybridEstimator()
    for step in range(1, 61):
        k = rng.binomial(8, np.where(rng.random(32) < 0.5, 0.9, 0.05))
        words = [" ".join(rng.choice(list("abcdefghij"), 8)) for _ in range(32)]
        estimator.observe([seen(f"{step}-{i}", int(k[i]), text=words[i]) for i in range(32)], at(step))
    new = [candidate(str(i), text=" ".join(rng.choice(list("abcdefghij"), 8))) for i in range(200)]
    mean = estimator.predict(new, at(61)).mean
    assert mean.std() < 0.05
    assert mean.mean() == pytest.approx(0.475, abs=0.05)


@pytest.mark.parametrize("source", ["prior", "features"])
def test_recorded_pass_rates_and_policy_features_are_used_for_what_they_are_worth(source):
    rng = np.random.default_rng(4)
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


def test_without_history_a_visited_prompt_is_a_stranger_again():
    estimator = plain(history=False)
    estimator.observe([seen("a", 8), seen("b", 0), seen("c", 0)], at(1))
    estimates = estimator.predict([candidate("a"), candidate("new")], at(2))
    assert estimates.mean[0] == estimates.mean[1] < 0.5


def test_beats_a_beta_posterior_on_a_recorded_training_run(test_data):
    """Zero-variance AUROC on prompts with odd hash, full feedback; `depo replay` adds the intervals."""
    import hashlib

    import pandas as pd

    from estimators.mopps import MoppsEstimator

    trace = pd.read_parquet(test_data / "traces" / "dsrsub_qwen25math15b_grpo_epochs_n8.parquet")
    odd = [int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2 == 1 for key in trace.prompt_id.astype(str)]
    trace = trace[odd]
    keys = trace.prompt_id.astype(str).tolist()
    counts = np.array([list(k)[:44] for k in trace.k_correct])

    def auroc(estimator):
        scores = []
        for t in range(44):
            scores.append(estimator.predict([candidate(key) for key in keys], at(t + 1)).p_informative)
            groups = [seen(key, int(k)) for key, k in zip(keys, counts[:, t], strict=True)]
            estimator.observe(groups, at(t + 1))
        score, informative = np.array(scores).T.ravel(), ((counts > 0) & (counts < 8)).ravel()
        below = np.searchsorted(np.sort(score[~informative]), score[informative])
        upto = np.searchsorted(np.sort(score[~informative]), score[informative], side="right")
        return float((below + upto).mean() / 2 / (~informative).sum())

    assert auroc(plain()) > auroc(MoppsEstimator(0.5, 0.5, discount=0.9)) > 0.88
