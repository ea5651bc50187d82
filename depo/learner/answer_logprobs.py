"""How likely a policy is to give several answers to each of many prompts; a prompt is read once for all of
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

from depo.learner.logprobs import chunked_logprobs
from depo.policy.precision import base_model

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
