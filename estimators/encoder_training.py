"""One optimizer step of the encoder on a batch of observed groups.

- Dropout is keyed by (seed, update, pass, micro-batch): nothing depends on a global stream, a resumed run
  goes on exactly, and a micro-batch can be run twice with the same noise.
- With ``ranking_reduction: pairs`` the loss is that of the whole step, however small the micro-batches.
  Outputs are computed once without a graph, the loss is differentiated with respect to them, and each
  micro-batch is then run again to pass its share on (gradient caching, Gao et al. 2021, arXiv 2101.06983):
  exact, for one more forward pass.

B: groups of a step, C: of a micro-batch, E: width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from estimators.encoder_inference import Encoder
from estimators.encoder_loss import (
    beta_binomial_nll,
    likelihood_bce,
    ranked_pairs,
    ranking_hinges,
    rate_bce,
)
from estimators.encoder_network import LIKELIHOOD, LOG_CONCENTRATION, RATE, parameter_groups
from estimators.encoder_options import EncoderOptions
from estimators.encoder_replay import ObservedGroup


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
