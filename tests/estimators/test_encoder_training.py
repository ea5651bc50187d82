"""The encoder's losses against closed forms, lgamma, and loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from depo.estimators.encoder_options import encoder_options
from depo.estimators.encoder_training import (
    ObservedGroup,
    Pass,
    beta_binomial_nll,
    likelihood_bce,
    loss_of,
    ranked_pairs,
    ranking_hinges,
    rate_bce,
)

EVERYTHING = Pass(dropout=False, rates=True, ranking=True)


def floats(*values):
    return torch.tensor(values, dtype=torch.float32)


def groups_of(*counts, logprob=math.nan):
    return [ObservedGroup(str(i), "", k, n, logprob) for i, (k, n) in enumerate(counts)]


def test_the_rate_loss_is_cross_entropy_with_the_observed_rate():
    logit, k, n = 0.7, 3, 8
    p = 1 / (1 + math.exp(-logit))
    expected = -(k / n * math.log(p) + (1 - k / n) * math.log(1 - p))
    assert float(rate_bce(floats(logit), floats(k), floats(n))[0]) == pytest.approx(expected)


def test_the_likelihood_loss_aims_at_exp_of_the_mean_logprob_and_leaves_unknown_rows_out():
    logit, logprob = -0.2, -0.6
    p, target = 1 / (1 + math.exp(-logit)), math.exp(logprob)
    expected = -(target * math.log(p) + (1 - target) * math.log(1 - p))
    both = likelihood_bce(floats(logit, 9.0), floats(logprob, math.nan))
    assert float(both) == pytest.approx(expected)
    unknown = floats(1.0, 2.0).requires_grad_()
    likelihood_bce(unknown, floats(math.nan, math.nan)).backward()
    assert unknown.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("logit", "s"), [(0.0, 2.0), (1.5, 0.3), (-4.0, 40.0), (0.3, 148.0)])
def test_the_beta_binomial_matches_lgamma_and_sums_to_one(logit, s):
    m = 1 / (1 + math.exp(-logit))
    a, b = s * m, s * (1 - m)
    for n in (1, 2, 8):
        k = torch.arange(n + 1, dtype=torch.float32)
        nll = beta_binomial_nll(
            torch.full_like(k, logit), torch.full_like(k, math.log(s)), k, torch.full_like(k, n)
        )
        expected = [
            -(
                math.log(math.comb(n, j))
                + math.lgamma(a + j)
                + math.lgamma(b + n - j)
                - math.lgamma(a + b + n)
                - math.lgamma(a)
                - math.lgamma(b)
                + math.lgamma(a + b)
            )
            for j in range(n + 1)
        ]
        np.testing.assert_allclose(nll.numpy(), expected, rtol=1e-4, atol=1e-5)
        assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_the_beta_binomial_keeps_a_gradient_where_the_sigmoid_saturates():
    logit, log_s = floats(-60.0, 60.0).requires_grad_(), floats(0.5, 0.5).requires_grad_()
    beta_binomial_nll(logit, log_s, floats(8.0, 0.0), floats(8.0, 8.0)).sum().backward()
    assert logit.grad[0] < -0.5 < 0.5 < logit.grad[1]
    assert torch.isfinite(log_s.grad).all()


def test_informative_group_sizes_are_each_their_own_likelihood():
    k, n = floats(1.0, 5.0), floats(2.0, 16.0)
    logit, log_s = floats(0.3, -0.4), floats(1.0, 0.2)
    apart = [
        beta_binomial_nll(logit[i : i + 1], log_s[i : i + 1], k[i : i + 1], n[i : i + 1]) for i in (0, 1)
    ]
    torch.testing.assert_close(beta_binomial_nll(logit, log_s, k, n), torch.cat(apart))


def pairs_by_hand(counts, min_gap, confident):
    pairs = set()
    for i, (ki, ni) in enumerate(counts):
        for j, (kj, nj) in enumerate(counts):
            gap = ki / ni - kj / nj
            needed = min_gap
            if confident:
                variances = [
                    ((k + 0.5) / (n + 1)) * (1 - (k + 0.5) / (n + 1)) / n for k, n in ((ki, ni), (kj, nj))
                ]
                needed = max(needed, 1 / min(ni, nj), math.sqrt(sum(variances)))
            if gap > needed + 1e-6:
                pairs.add((i, j))
    return pairs


@pytest.mark.parametrize("confident", [False, True])
def test_ranked_pairs_are_those_of_a_loop(confident):
    rng = np.random.default_rng(0)
    counts = [(int(rng.integers(n + 1)), int(n)) for n in rng.choice([4, 8, 16], 40)]
    easier, harder = ranked_pairs(
        floats(*[k for k, _ in counts]), floats(*[n for _, n in counts]), 0.05, confident
    )
    found = set(zip(easier.tolist(), harder.tolist(), strict=True))
    assert found == pairs_by_hand(counts, 0.05, confident)
    assert found


def test_one_rollouts_luck_is_a_pair_in_the_paper_and_none_when_confident():
    one_apart = floats(3.0, 4.0), floats(8.0, 8.0)
    assert ranked_pairs(*one_apart, 0.05, False)[0].tolist() == [1]
    assert ranked_pairs(*one_apart, 0.05, True)[0].tolist() == []
    far_apart = floats(1.0, 6.0), floats(8.0, 8.0)
    assert ranked_pairs(*far_apart, 0.05, True)[0].tolist() == [1]


def test_the_hinge_by_hand():
    """Scores 0.9, 0.6, 0.7 of prompts with rates 1, 1/2, 0. Pairs easier > harder and margin − difference:
    (1, 1/2): 0.5 − 0.3 = 0.2; (1, 0): 0.5 − 0.2 = 0.3; (1/2, 0): 0.5 + 0.1 = 0.6."""
    score = floats(0.9, 0.6, 0.7)
    pairs = ranked_pairs(floats(8.0, 4.0, 0.0), floats(8.0, 8.0, 8.0), 0.05, False)
    assert sorted(ranking_hinges(score, *pairs, 0.5).tolist()) == pytest.approx([0.2, 0.3, 0.6])


def test_the_papers_loss_is_the_weighted_sum_of_its_three_parts():
    options = encoder_options("paper", {"model": "m"})
    outputs = torch.tensor([[2.0, 0.5, 0.0], [-1.0, -0.5, 0.0], [0.3, 0.1, 0.0]])
    groups = groups_of((8, 8), (1, 8), (1, 8), logprob=-0.5)

    def cross_entropy(logit, target):
        p = 1 / (1 + math.exp(-logit))
        return -(target * math.log(p) + (1 - target) * math.log(1 - p))

    p = [1 / (1 + math.exp(-logit)) for logit in (2.0, -1.0, 0.3)]
    hinges = [max(0.0, 0.5 - (p[0] - p[1])), max(0.0, 0.5 - (p[0] - p[2]))]  # equal rates are no pair
    rates = (cross_entropy(2.0, 1.0) + cross_entropy(-1.0, 1 / 8) + cross_entropy(0.3, 1 / 8)) / 3
    distilled = sum(cross_entropy(logit, math.exp(-0.5)) for logit in (0.5, -0.5, 0.1)) / 3
    expected = rates + 0.5 * distilled + 3 * sum(hinges) / 3
    assert float(loss_of(outputs, groups, EVERYTHING, options)) == pytest.approx(expected, rel=1e-5)


def test_the_rankings_weight_grows_with_the_batch_in_the_paper_only():
    """Many copies of one pair at the same scores: the mean over pairs does not care, the sum per row does."""
    for reduction, ratio in (("micro_batch", 8.0), ("pairs", 1.0)):
        options = encoder_options(
            "paper", {"model": "m", "ranking_reduction": reduction, "distillation_weight": 0.0}
        )
        losses = []
        for copies in (1, 8):
            outputs = torch.zeros(2 * copies, 3)
            groups = groups_of(*[(8, 8), (0, 8)] * copies)
            ranking = Pass(dropout=False, rates=False, ranking=True)
            losses.append(float(loss_of(outputs, groups, ranking, options)))
        assert losses[1] / losses[0] == pytest.approx(ratio)
