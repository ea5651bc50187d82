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

from depo.learner.logprobs import chunked_logprobs, decoder_states, head_logprobs, predicting
from depo.learner.microbatches import collate, pass_cost, split_by_tokens
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
    for rows in split_by_tokens(np.arange(len(arrays)), lengths_N, tokens_per_batch, pass_cost(device)):
        micro = collate(rows, first, rest, pad_token_id, device)
        hidden_BSH = decoder_states(model, micro.tokens_BS)
        last_BH = hidden_BSH[torch.arange(len(rows)), torch.from_numpy(lengths_N[rows] - 1)]
        nowhere_B = torch.zeros(len(rows), dtype=torch.long, device=device)
        _, entropy_B = head_logprobs(head, last_BH, nowhere_B, 1.0)
        logprobs_M, _ = chunked_logprobs(head, *predicting(hidden_BSH, micro), 1.0)
        zeros_BT = torch.zeros(micro.mask_BT.shape, device=device)
        logprobs_BT = zeros_BT.masked_scatter(micro.mask_BT, logprobs_M)
        surprise_B = -logprobs_BT.sum(1) / micro.mask_BT.sum(1).clamp(min=1)
        found_BF = torch.cat([torch.stack([surprise_B, entropy_B], dim=1), last_BH.float()], dim=1)
        for row, found_F in zip(rows, found_BF.cpu().numpy(), strict=True):
            features[row] = found_F
    width = 2 + head.weight.shape[1]
    return np.array(features, dtype=np.float32).reshape(len(arrays), width)
