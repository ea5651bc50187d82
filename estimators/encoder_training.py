"""One optimizer step of the encoder on a batch of observed groups: its losses, its replay, its gradient.

- Three losses (arXiv 2602.06375), and a beta-binomial likelihood that may replace the first.
- Dropout is keyed by (seed, update, pass, micro-batch): nothing depends on a global stream, a resumed run
  goes on exactly, and a micro-batch can be run twice with the same noise.
- With ``ranking_reduction: pairs`` the loss is that of the whole step, however small the micro-batches.
  Outputs are computed once without a graph, the loss is differentiated with respect to them, and each
  micro-batch is then run again to pass its share on (gradient caching, Gao et al. 2021, arXiv 2101.06983):
  exact, for one more forward pass.
- Replay: older groups are drawn again beside the new ones of a fit.

B: groups of a step, C: of a micro-batch, R: ranked pairs, H: groups kept, E: width of the embedding. Counts
are float tensors (B,).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, relu

from depo.estimators.base import Observation, tally
from depo.estimators.encoder_inference import Encoder
from depo.estimators.encoder_network import LIKELIHOOD, LOG_CONCENTRATION, RATE, parameter_groups
from depo.estimators.encoder_options import EncoderOptions


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


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """k of n, and the policy's mean token log-probability (nats, NaN where unknown)."""

    key: str
    text: str
    successes: int
    trials: int
    mean_logprob: float


def gathered(observations: Sequence[Observation]) -> list[ObservedGroup]:
    """One group a prompt, ordered by key, so that the order of observations does not matter.

    Counts of one prompt are added up, log-probabilities averaged by trials over those that are known. Groups
    without a scorable rollout are left out. Raises ValueError for impossible counts, and for a mean
    log-probability above 0 (float noise aside).
    """
    counts = tally(observations)
    texts: dict[str, str] = {}
    logprobs: dict[str, list[tuple[float, int]]] = {key: [] for key in counts}
    for observation in observations:
        if observation.mean_logprob > 1e-3:
            raise ValueError(
                f"prompt {observation.key}: a mean token log-probability cannot exceed 0, "
                f"found {observation.mean_logprob}"
            )
        texts[observation.key] = observation.text
        if observation.trials and not math.isnan(observation.mean_logprob):
            logprobs[observation.key].append((observation.mean_logprob, observation.trials))
    return [
        ObservedGroup(key, texts[key], *counts[key], weighted_mean(logprobs[key])) for key in sorted(counts)
    ]


def weighted_mean(values: Sequence[tuple[float, int]]) -> float:
    """NaN for no values. ``fsum``, so that order does not matter."""
    weight = sum(trials for _, trials in values)
    return math.fsum(value * trials for value, trials in values) / weight if weight else math.nan


class Replay:
    """The last ``memory`` groups, and uniform draws from them."""

    def __init__(self, memory: int) -> None:
        self._groups: deque[ObservedGroup] = deque(maxlen=memory)

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, groups: Sequence[ObservedGroup]) -> None:
        self._groups.extend(groups)

    def draw(self, n: int, rng: np.random.Generator) -> list[ObservedGroup]:
        """n different groups, or all there are."""
        rows = rng.choice(len(self._groups), size=min(n, len(self._groups)), replace=False)
        return [self._groups[row] for row in rows]

    def state(self) -> tuple[list[list[str]], np.ndarray]:
        """[key, text] of each group, and (H, 3) float64: successes, trials, mean log-probability."""
        numbers = [(group.successes, group.trials, group.mean_logprob) for group in self._groups]
        return (
            [[group.key, group.text] for group in self._groups],
            np.array(numbers, dtype=np.float64).reshape(-1, 3),
        )

    def restore(self, texts: Sequence[Sequence[str]], numbers_H3: np.ndarray) -> None:
        self._groups.clear()
        for (key, text), (successes, trials, logprob) in zip(texts, numbers_H3.tolist(), strict=True):
            self._groups.append(ObservedGroup(key, text, int(successes), int(trials), logprob))


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass of a step: with dropout or without, and what its loss holds."""

    dropout: bool
    rates: bool
    ranking: bool


PASSES = {
    "on": [Pass(dropout=True, rates=True, ranking=True)],
    "off": [Pass(dropout=False, rates=True, ranking=True)],
    "ranking_off": [
        Pass(dropout=True, rates=True, ranking=False),
        Pass(dropout=False, rates=False, ranking=True),
    ],
}


class Trainer:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.options = encoder.options
        self.optimizer = torch.optim.AdamW(
            parameter_groups(encoder.network, self.options), weight_decay=self.options.weight_decay
        )
        self.updates = 0

    def step(self, groups: Sequence[ObservedGroup]) -> float:
        """One AdamW step, and one of AdaGrad for the words; returns the loss before it."""
        whole = self.options.ranking_reduction == "pairs"
        if whole:  # any order will do: little padding
            groups = sorted(groups, key=lambda group: (len(group.text), group.key))
        size = self.options.micro_batch
        parts = [list(groups[start : start + size]) for start in range(0, len(groups), size)]
        self.encoder.network.zero_grad(set_to_none=True)
        loss = 0.0
        for number, each in enumerate(PASSES[self.options.dropout]):
            if whole and len(parts) > 1:
                loss += self._backward_as_one(parts, each, number)
            else:
                loss += self._backward_apart(parts, each, number, len(groups))
        self.optimizer.step()
        if self.encoder.network.words is not None:
            self.encoder.network.words.step(self.options.words_rate)
        self.updates += 1
        self.encoder.average.update(self.updates)
        return loss

    def _backward_apart(self, parts: list[list[ObservedGroup]], each: Pass, number: int, total: int) -> float:
        """Each micro-batch by itself, weighted by its share of the groups."""
        summed = 0.0
        for index, part in enumerate(parts):
            outputs_C3 = self._outputs(part, each, (number, index))
            loss = loss_of(outputs_C3, part, each, self.options) * (len(part) / total)
            loss.backward()
            summed += float(loss.detach())
        return summed

    def _backward_as_one(self, parts: list[list[ObservedGroup]], each: Pass, number: int) -> float:
        """All micro-batches as if they were one."""
        with torch.no_grad():
            outputs = [self._outputs(part, each, (number, index)) for index, part in enumerate(parts)]
        outputs_B3 = torch.cat(outputs).requires_grad_()
        loss = loss_of(outputs_B3, [group for part in parts for group in part], each, self.options)
        (slope_B3,) = torch.autograd.grad(loss, outputs_B3)
        for index, (part, slope_C3) in enumerate(
            zip(parts, slope_B3.split([len(part) for part in parts]), strict=True)
        ):
            self._outputs(part, each, (number, index)).backward(slope_C3)
        return float(loss.detach())

    def _outputs(self, part: Sequence[ObservedGroup], each: Pass, place: tuple[int, int]) -> torch.Tensor:
        """(C, 3) outputs of one micro-batch."""
        encoder, network = self.encoder, self.encoder.network
        texts, keys = [group.text for group in part], [group.key for group in part]
        if self.options.frozen:
            embedding_CE = encoder.tensor(encoder.embeddings(texts, keys))
        network.train(each.dropout)
        with keyed_noise((self.options.seed, self.updates, *place)):
            if not self.options.frozen:
                ids = encoder.tokenizer.ids(texts)
                ids_CT, mask_CT = encoder.tokenizer.padded(ids, max(map(len, ids)))
                with encoder.autocast():
                    embedding_CE = network.embed(encoder.tensor(ids_CT), encoder.tensor(mask_CT))
            return network.judge(embedding_CE, encoder.words(texts, keys))


def loss_of(
    outputs_B3: torch.Tensor, groups: Sequence[ObservedGroup], each: Pass, options: EncoderOptions
) -> torch.Tensor:
    """The weighted sum () of the losses that this pass holds."""
    successes_B = outputs_B3.new_tensor([group.successes for group in groups])
    trials_B = outputs_B3.new_tensor([group.trials for group in groups])
    logprob_B = outputs_B3.new_tensor([group.mean_logprob for group in groups])
    rate_B = outputs_B3[:, RATE]
    loss = outputs_B3.sum() * 0.0
    if each.rates:
        if options.likelihood == "beta_binomial":
            loss = (
                loss
                + beta_binomial_nll(rate_B, outputs_B3[:, LOG_CONCENTRATION], successes_B, trials_B).mean()
            )
        else:
            loss = loss + rate_bce(rate_B, successes_B, trials_B).mean()
        loss = loss + options.distillation_weight * likelihood_bce(outputs_B3[:, LIKELIHOOD], logprob_B)
    if each.ranking and options.ranking_weight:
        score_B = rate_B if options.ranking_score == "logit" else rate_B.sigmoid()
        pairs = ranked_pairs(
            successes_B, trials_B, options.ranking_min_gap, options.ranking_gap == "confident"
        )
        hinges_R = ranking_hinges(score_B, *pairs, options.ranking_margin)
        divisor = len(groups) if options.ranking_reduction == "micro_batch" else max(len(hinges_R), 1)
        loss = loss + options.ranking_weight * hinges_R.sum() / divisor
    return loss


@contextmanager
def keyed_noise(key: tuple[int, ...]) -> Iterator[None]:
    """torch's global generators, seeded by ``key`` inside and put back after."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
