"""Log-probabilities of given completions, by one forward pass each over prompt and completion together.

The policy's own view of a prompt, from one prefill: what it expects before it has written a word.

Features, F = 2 + H: mean negative log-probability of the prompt's tokens (nats; the log of its perplexity),
entropy of the first token to come (nats), and the hidden state that predicts it (H,). A linear model on such
states foretells success on a problem better than its text does (e.g. arXiv 2207.05221, section 5), and a
prefill costs a small share of a group of rollouts.

Shapes: N prompts, B of a micro-batch, S tokens of a prompt, T = S − 1 predicted ones, H hidden size.

How likely a policy is to give several answers to each of many prompts; a prompt is read once for all of
them.

Shapes: N answers in all; in one pass U prompts, S tokens of the longest, R answers, T tokens of the longest,
M tokens of all R answers together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from depo.learner.logprobs import chunked_logprobs, decoder_states, head_logprobs, predicting, token_logprobs
from depo.learner.packing import collate, pass_cost, split_by_tokens, unpad_values
from depo.models.devices import base_model

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


Tokens = tuple[int, ...]


Prompts = dict[Tokens, list[int]]
"""Each prompt's tokens → which of the N answers are to it."""


@torch.no_grad()
def answer_logprobs(
    model: nn.Module,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    temperature: float,
    tokens_per_batch: int,
    pad_token_id: int,
) -> np.ndarray:
    """Log-probability of each (prompt ids, answer ids), in nats: (N,) float64. Neither may be empty.

    Answers to one prompt share a pass, however many they are.
    """
    for row, (prompt, answer) in enumerate(sequences):
        if not (len(prompt) and len(answer)):
            raise ValueError(f"sequence {row} has no {'answer' if len(prompt) else 'prompt'}")
    answers = [tuple(answer) for _, answer in sequences]
    rows_of: Prompts = {}
    for row, (prompt, _) in enumerate(sequences):
        rows_of.setdefault(tuple(prompt), []).append(row)
    logprobs_N = np.empty(len(sequences))
    for part in passes(rows_of, answers, tokens_per_batch):
        rows = [row for rows in part.values() for row in rows]
        logprobs_N[rows] = one_pass(model, part, answers, temperature, pad_token_id)
    return logprobs_N


def passes(rows_of: Prompts, answers: Sequence[Tokens], budget: int) -> list[Prompts]:
    """Passes of at most ``budget`` tokens: answers × longest prompt and answer. Long prompts come first."""
    parts: list[Prompts] = []
    rows = widest = 0
    for prompt in sorted(rows_of, key=len, reverse=True):
        width = len(prompt) + max(len(answers[row]) for row in rows_of[prompt])
        more = len(rows_of[prompt])
        if not parts or (rows + more) * max(widest, width) > budget:
            parts.append({})
            rows = widest = 0
        parts[-1][prompt] = rows_of[prompt]
        rows, widest = rows + more, max(widest, width)
    return parts


def one_pass(
    model: nn.Module, rows_of: Prompts, answers: Sequence[Tokens], temperature: float, pad_token_id: int
) -> np.ndarray:
    """(R,), in the order of ``rows_of``."""
    base = base_model(model)
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    device = head.weight.device
    # Prompts are padded on the left, answers on the right: the one goes on from the other's last column.
    tokens_US, real_US = padded(list(rows_of), pad_token_id, device, left=True)
    answers_RT, real_RT = padded([answers[row] for rows in rows_of.values() for row in rows], 0, device)
    counts_U = torch.tensor([len(rows) for rows in rows_of.values()], device=device)
    prompt_R = torch.arange(len(rows_of), device=device).repeat_interleave(counts_U)
    cache = DynamicCache(config=base.config)
    hidden_RTH = decoder(
        input_ids=tokens_US,
        attention_mask=real_US.long(),
        position_ids=(real_US.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[prompt_R, -1:]
    if answers_RT.shape[1] > 1:
        cache.reorder_cache(prompt_R)
        fed_RT = answers_RT[:, :-1]
        mask = torch.cat([real_US[prompt_R], torch.ones_like(fed_RT, dtype=torch.bool)], dim=1)
        later_RTH = decoder(
            input_ids=fed_RT,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(-1) - 1)[:, -fed_RT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden_RTH = torch.cat([hidden_RTH, later_RTH], dim=1)
    logprobs_M, _ = chunked_logprobs(head, hidden_RTH[real_RT], answers_RT[real_RT], temperature)
    zeros_RT = torch.zeros(real_RT.shape, dtype=torch.float64, device=device)
    return zeros_RT.masked_scatter(real_RT, logprobs_M.double()).sum(1).cpu().numpy()


def padded(
    rows: Sequence[Tokens], pad_token_id: int, device: torch.device, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Tokens as one tensor, and which of it are not padding (bool)."""
    width = max(map(len, rows))
    tokens = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    real = np.zeros(tokens.shape, dtype=bool)
    for r, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        tokens[r, place], real[r, place] = row, True
    return torch.from_numpy(tokens).to(device), torch.from_numpy(real).to(device)
