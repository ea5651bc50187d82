"""Forward passes without gradients: log-probabilities of given samples, features of prompts.

Shapes: N samples or prompts; B of a micro-batch, S tokens of the longest, T trained (or predicted) tokens, M
of all of them, N tokens that a pass computes, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from depo.learner.logprobs import chunked_logprobs, computed_states, head_logprobs, predicting, token_logprobs
from depo.learner.packing import MicroBatch, Packing, Rows, unpad_values
from depo.models.experts import keep_casts
from depo.models.precision import autocast, base_model, is_sharded
from depo.models.sharding import inside
from depo.types import TrainSample

# Padded tokens of one forward pass: enough to fill a CPU, small beside the activations of a large model.
TOKENS_PER_PASS = 8192

Values = list[np.ndarray]
"""N float32 arrays of (T,)."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Context for every forward pass that trains nothing: evaluation mode, no gradients, and the same
    autocast as training, so that log-probabilities agree. A colocated engine generates inside it."""
    was_training = model.training
    model.eval()
    try:
        casts = nullcontext() if is_sharded(model) else keep_casts()
        with torch.no_grad(), autocast(model), casts:
            yield
    finally:
        model.train(was_training)


@torch.no_grad()
def sample_logprobs(
    model: nn.Module,
    batch: Sequence[TrainSample],
    packing: Packing,
    temperature: float,
    *,
    parts: Sequence[Rows] | None = None,
    around: Callable[[MicroBatch], AbstractContextManager[None]] = lambda micro: nullcontext(),
) -> Values:
    """Log-probabilities of each sample's trained tokens, in nats.

    ``parts`` are the micro-batches (of all ranks), default those of ``packing`` for all of the batch; samples
    in none of them get an empty array. Each pass runs inside ``around``. The model is used in the mode it is
    in.
    """
    values: Values = [np.empty(0, dtype=np.float32)] * len(batch)
    parts = packing.cut(np.arange(len(batch)), batch) if parts is None else parts
    for rows in packing.ranks.own(parts):
        micro = packing.collate(rows, batch)
        with around(micro):
            logprobs_BT, _ = token_logprobs(model, micro, temperature)
        for row, row_values in zip(rows, unpad_values(logprobs_BT, micro.mask_BT), strict=True):
            values[row] = row_values
    return packing.ranks.gathered(values, parts)


def score_sequences(
    model: nn.Module,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    temperature: float = 1.0,
) -> Values:
    """Log-probabilities of the completion tokens of each (prompt ids, completion ids), in nats: float32 (T,).

    The model is used in the mode (training or evaluation) it is in.
    """
    packing = Packing(TOKENS_PER_PASS, "padded", pad_token_id, next(model.parameters()).device)
    return sample_logprobs(model, completions(sequences), packing, temperature)


def completions(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TrainSample]:
    return [TrainSample.of_completion(prompt, completion) for prompt, completion in sequences]


@torch.no_grad()
def prompt_features(model: nn.Module, prompts: Sequence[Sequence[int]], packing: Packing) -> np.ndarray:
    """The prefill probe of N prompts, one prefill each: (N, F) float32, in the order of ``prompts``,
    none of which may be empty.

    F = 2 + H: mean negative log-probability of the prompt's tokens (nats; the log of its perplexity), entropy
    of the first token to come (nats), and the hidden state that predicts it (H,). A linear model on such
    states foretells success on a problem better than its text does (e.g. arXiv 2207.05221, section 5), and a
    prefill costs a small share of a group of rollouts.
    """
    for n, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {n} has no tokens")
    head = base_model(model).get_output_embeddings()
    device = head.weight.device
    # Every token after the first is predicted: they are a completion of the first.
    batch = completions([(prompt[:1], prompt[1:]) for prompt in prompts])
    features: Values = [np.empty(0)] * len(batch)

    def features_of(micro: MicroBatch) -> Tensor:
        hidden_NH = computed_states(model, micro)
        count, width = len(micro.rows), micro.tokens_BS.shape[1]
        first_B = torch.arange(0, count * width, width, device=device)
        last_BH = hidden_NH[micro.computed_at(first_B + micro.lengths_B[:count] - 1)]
        nowhere_B = torch.zeros(len(micro.rows), dtype=torch.long, device=device)
        _, entropy_B = head_logprobs(head, last_BH, nowhere_B, 1.0)
        logprobs_M, _ = chunked_logprobs(head, *predicting(hidden_NH, micro), 1.0)
        zeros_BT = torch.zeros(micro.mask_BT.shape, device=device)
        logprobs_BT = zeros_BT.masked_scatter(micro.mask_BT, logprobs_M)
        surprise_B = -logprobs_BT.sum(1) / micro.mask_BT.sum(1).clamp(min=1)
        return torch.cat([torch.stack([surprise_B, entropy_B], dim=1), last_BH.float()], dim=1)

    parts = packing.cut(np.arange(len(batch)), batch)
    for rows in packing.ranks.own(parts):
        found_BF = inside(model, partial(features_of, packing.collate(rows, batch)))
        for row, found_F in zip(rows, found_BF.cpu().numpy(), strict=True):
            features[row] = found_F
    features = packing.ranks.gathered(features, parts)
    return np.array(features, dtype=np.float32).reshape(len(batch), 2 + head.weight.shape[1])
