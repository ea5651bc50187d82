"""Log-probabilities of given completions, by one forward pass each over prompt and completion together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from depo.learner.logprobs import token_logprobs
from depo.learner.microbatches import collate, pass_cost, split_by_tokens, unpad_values

# Padded tokens of one forward pass: enough to fill a CPU, small beside the activations of a large model.
TOKENS_PER_PASS = 8192


@torch.no_grad()
def score_sequences(
    model: nn.Module,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """Log-probabilities of the completion tokens of each (prompt ids, completion ids), in nats: float32 (T,).

    The model is used in the mode (training or evaluation) it is in.
    """
    prompts = [np.asarray(prompt, dtype=np.int64) for prompt, _ in sequences]
    completions = [np.asarray(completion, dtype=np.int64) for _, completion in sequences]
    lengths_N = np.array([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)], dtype=np.int64)
    device = next(model.parameters()).device
    scores: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(sequences)
    for rows in split_by_tokens(np.arange(len(sequences)), lengths_N, TOKENS_PER_PASS, pass_cost(device)):
        batch = collate(rows, prompts, completions, pad_token_id, device)
        logprobs_BT, _ = token_logprobs(model, batch, temperature)
        for row, values in zip(rows, unpad_values(logprobs_BT, batch.mask_BT), strict=True):
            scores[row] = values
    return scores
