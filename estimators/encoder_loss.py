"""The encoder's three losses (arXiv 2602.06375), and the beta-binomial likelihood that may replace the first.

B: groups in a batch, R: ranked pairs. Counts are float tensors (B,).
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, relu


def rate_bce(logit_B: torch.Tensor, successes_B: torch.Tensor, trials_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (B,) between the predicted rate, sigmoid(logit), and the observed k/n."""
    return binary_cross_entropy_with_logits(logit_B, successes_B / trials_B, reduction="none")


def beta_binomial_nll(
    logit_B: torch.Tensor,
    log_concentration_B: torch.Tensor,
    successes_B: torch.Tensor,
    trials_B: torch.Tensor,
) -> torch.Tensor:
    """−log P(k of n), (B,), for p ~ Beta(s·m, s·(1−m)) with m = sigmoid(logit) and log s given.

    Rising factorials instead of differences of log-gammas, which cancel in float32 for large s; the first
    factors from logsigmoid, so that saturated logits keep a gradient.
    """
    s_B = log_concentration_B.exp()
    a_B, b_B = s_B * logit_B.sigmoid(), s_B * (-logit_B).sigmoid()
    failures_B = trials_B - successes_B
    n = torch.arange(1, int(trials_B.max()) if len(trials_B) else 1, device=logit_B.device)  # (n_max − 1,)
    log_p_B = (successes_B > 0) * (log_concentration_B + logsigmoid(logit_B))
    log_p_B = log_p_B + (failures_B > 0) * (log_concentration_B + logsigmoid(-logit_B))
    log_p_B = log_p_B - (trials_B > 0) * log_concentration_B
    log_p_B = log_p_B + ((n < successes_B[:, None]) * (a_B[:, None] + n).log()).sum(1)
    log_p_B = log_p_B + ((n < failures_B[:, None]) * (b_B[:, None] + n).log()).sum(1)
    log_p_B = log_p_B - ((n < trials_B[:, None]) * (s_B[:, None] + n).log()).sum(1)
    log_ways_B = torch.lgamma(trials_B + 1) - torch.lgamma(successes_B + 1) - torch.lgamma(failures_B + 1)
    return -(log_ways_B + log_p_B)


def likelihood_bce(logit_B: torch.Tensor, mean_logprob_B: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy () between sigmoid(logit) and exp(mean token log-probability), over the rows whose
    log-probability is known; NaN means unknown, and 0 is returned when all are."""
    known_B = ~mean_logprob_B.isnan()
    if not known_B.any():
        return logit_B.sum() * 0.0
    target = mean_logprob_B[known_B].exp().clamp(max=1.0)
    return binary_cross_entropy_with_logits(logit_B[known_B], target)


def ranked_pairs(
    successes_B: torch.Tensor, trials_B: torch.Tensor, min_gap: float, confident: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (R,) of the easier and (R,) of the harder member of each pair that is to be ranked.

    A pair counts when its observed rates differ by more than ``min_gap``; when ``confident``, also by more
    than one rollout's worth (1/n of the smaller group) and than the standard error of the difference, with
    rates taken as (k + 1/2)/(n + 1) so that groups all right or all wrong have one too.
    """
    rate_B = successes_B / trials_B
    gap_BB = rate_B[:, None] - rate_B[None, :]
    needed_BB = torch.full_like(gap_BB, min_gap)
    if confident:
        smoothed_B = (successes_B + 0.5) / (trials_B + 1)
        variance_B = smoothed_B * (1 - smoothed_B) / trials_B
        error_BB = (variance_B[:, None] + variance_B[None, :]).sqrt()
        one_rollout_BB = 1 / torch.minimum(trials_B[:, None], trials_B[None, :])
        needed_BB = torch.maximum(needed_BB, torch.maximum(error_BB, one_rollout_BB))
    # Rates are ratios of small integers: a gap that equals what is needed must not pass by rounding.
    easier_R, harder_R = torch.nonzero(gap_BB > needed_BB + 1e-6, as_tuple=True)
    return easier_R, harder_R


def ranking_hinges(
    score_B: torch.Tensor, easier_R: torch.Tensor, harder_R: torch.Tensor, margin: float
) -> torch.Tensor:
    """max(0, margin − (score of the easier − score of the harder)) of each pair, (R,)."""
    return relu(margin - (score_B[easier_R] - score_B[harder_R]))
