"""The policy's own view of a prompt, from one prefill: what it expects before it has written a word.

Features, F = 2 + H: mean negative log-probability of the prompt's tokens (nats; the log of its perplexity),
entropy of the first token to come (nats), and the hidden state that predicts it (H,). A linear model on such
states foretells success on a problem better than its text does (e.g. arXiv 2207.05221, section 5), and a
prefill costs a small share of a group of rollouts.

Shapes: N prompts, B of a micro-batch, S tokens of a prompt, T = S − 1 predicted ones, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from depo.learner.logprobs import decoder_states, head_logprobs
from depo.learner.microbatches import collate, split_by_tokens
from depo.policy.precision import base_model


@torch.no_grad()
def prompt_features(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, tokens_per_batch: int, pad_token_id: int
) -> np.ndarray:
    """(N, F) float32, in the order of ``prompts``, none of which may be empty."""
    arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    lengths_N = np.array([len(array) for array in arrays])
    if len(arrays) and lengths_N.min() < 1:
        raise ValueError(f"prompt {int(lengths_N.argmin())} has no tokens")
    head = base_model(model).get_output_embeddings()
    device = head.weight.device
    # Every token after the first is predicted: to the collator they are a completion of the first.
    first, rest = [array[:1] for array in arrays], [array[1:] for array in arrays]
    features: list[np.ndarray] = [np.empty(0)] * len(arrays)
    for rows in split_by_tokens(np.arange(len(arrays)), lengths_N, tokens_per_batch):
        micro = collate(rows, first, rest, pad_token_id, device)
        hidden_BSH = decoder_states(model, micro.tokens_BS)
        last_BH = hidden_BSH[torch.arange(len(rows)), torch.from_numpy(lengths_N[rows] - 1)]
        _, entropy_B = head_logprobs(
            head, last_BH, torch.zeros(len(rows), dtype=torch.long, device=device), 1.0
        )
        for b, row in enumerate(rows):
            length = int(lengths_N[row])
            surprise = 0.0
            if length > 1:
                logprobs_T, _ = head_logprobs(
                    head, hidden_BSH[b, : length - 1], micro.tokens_BS[b, 1:length], 1.0
                )
                surprise = -float(logprobs_T.mean())
            features[row] = np.concatenate(
                [[surprise, float(entropy_B[b])], last_BH[b].float().cpu().numpy()]
            )
    width = 2 + head.weight.shape[1]
    return np.array(features, dtype=np.float32).reshape(len(arrays), width)
