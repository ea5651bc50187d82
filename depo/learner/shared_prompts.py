"""Each prompt once: the completions of a group behind one copy of their prompt.

The sequences of a group begin with the same tokens, and under causal attention these have the same states in
all of them. So a pass may compute rows

    prompt, completion 1, completion 2, …

in which a completion's tokens see the prompt and what precedes them in their own completion, at the positions
they have when it stands alone. Log-probabilities and gradients are those of the plain layout up to rounding;
of 8 answers as long as their prompt, 7 of 16 tokens need not be computed. A row's attention costs the square
of its length, so rows are kept short (`SHARED_TOKENS`): where completions are long there is nothing to share.

Shapes: B sequences of a micro-batch, S tokens of the longest, R rows, W tokens of the longest row, H hidden
size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SHARED_TOKENS = 256


MASKED_ATTENTION = ("eager", "sdpa")  # implementations that take any mask


TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 0.05  # of the largest state


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """``tokens_RW`` at ``positions_RW``; ``hidden_R1WW`` is added to attention scores: 0 where a token
    (second last axis) sees another (last), the lowest number where it does not. ``place_N`` (B·S,): which of
    the R·W tokens is at a position of the plain layout; the first one for its padding."""

    tokens_RW: Tensor
    positions_RW: Tensor
    hidden_R1WW: Tensor
    place_N: Tensor


def packs(
    rows: np.ndarray,
    prompt_ids: Sequence[np.ndarray],
    completion_ids: Sequence[np.ndarray],
    limit: int,
) -> list[np.ndarray]:
    """Rows of the batch that share a row of a pass of at most ``limit`` tokens, prompts in order of their
    first row. A sequence that is longer has a row to itself."""
    by_prompt: dict[bytes, list[list[int]]] = {}
    lengths: dict[bytes, int] = {}
    for row in np.asarray(rows).tolist():
        prompt, tokens = prompt_ids[row].tobytes(), len(completion_ids[row])
        if prompt not in by_prompt or lengths[prompt] + tokens > limit:
            by_prompt.setdefault(prompt, []).append([])
            lengths[prompt] = len(prompt_ids[row])
        by_prompt[prompt][-1].append(row)
        lengths[prompt] += tokens
    return [np.array(pack) for packed in by_prompt.values() for pack in packed]


def packed_length(
    pack: np.ndarray, prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray]
) -> int:
    """Tokens of the row that these sequences share."""
    return len(prompt_ids[pack[0]]) + sum(len(completion_ids[row]) for row in pack)


def share_prompts(
    rows: np.ndarray,
    prompt_ids: Sequence[np.ndarray],
    completion_ids: Sequence[np.ndarray],
    limit: int,
    width: int,
    pad_token_id: int,
    device: torch.device,
) -> SharedPrompts | None:
    """The layout of these rows of the batch, see ``packs``; ``width`` is that of the plain one. None where no
    two share."""
    together = packs(rows, prompt_ids, completion_ids, limit)
    if len(together) == len(rows):
        return None
    longest = max(packed_length(pack, prompt_ids, completion_ids) for pack in together)
    tokens_RW = np.full((len(together), longest), pad_token_id, dtype=np.int64)
    positions_RW = np.zeros((len(together), longest), dtype=np.int64)
    part_RW = np.full((len(together), longest), -1)  # 0: prompt; 1, 2, …: completions; -1: padding
    place_BS = np.zeros((len(rows), width), dtype=np.int64)
    order = {int(row): b for b, row in enumerate(rows)}
    for r, pack in enumerate(together):
        prompt = prompt_ids[pack[0]]
        end = len(prompt)
        tokens_RW[r, :end], positions_RW[r, :end], part_RW[r, :end] = prompt, np.arange(end), 0
        for part, row in enumerate(pack.tolist(), start=1):
            completion = completion_ids[row]
            at = slice(end, end + len(completion))
            own = len(prompt) + np.arange(len(completion))
            tokens_RW[r, at], positions_RW[r, at], part_RW[r, at] = completion, own, part
            place_BS[order[row], : len(prompt)] = r * longest + np.arange(len(prompt))
            place_BS[order[row], own] = r * longest + end + np.arange(len(completion))
            end = at.stop
    part = torch.from_numpy(part_RW).to(device)
    same_part = part[:, :, None] == part[:, None, :]
    of_prompt = (part == 0)[:, None, :]
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    sees_RWW = (same_part | of_prompt) & causal
    lowest = torch.finfo(torch.float32).min
    hidden_RWW = torch.zeros(sees_RWW.shape, device=device).masked_fill(~sees_RWW, lowest)
    return SharedPrompts(
        tokens_RW=torch.from_numpy(tokens_RW).to(device),
        positions_RW=torch.from_numpy(positions_RW).to(device),
        hidden_R1WW=hidden_RWW[:, None],
        place_N=torch.from_numpy(place_BS).to(device).flatten(),
    )


def shared_states(decoder: nn.Module, shared: SharedPrompts, sequences: int) -> Tensor:
    """Final hidden states in the plain layout, (B, S, H)."""
    states_RWH = decoder(
        input_ids=shared.tokens_RW,
        position_ids=shared.positions_RW,
        attention_mask=shared.hidden_R1WW,
        use_cache=False,
    ).last_hidden_state
    return states_RWH.flatten(0, 1)[shared.place_N].unflatten(0, (sequences, -1))


def attention_window(decoder: nn.Module) -> float:
    """How many tokens the attention of every layer sees by the model's config; infinity: all of them."""
    settings = decoder.config.get_text_config()
    layers = getattr(settings, "layer_types", None)
    if layers and not any("sliding" in kind or "chunked" in kind for kind in layers):
        return math.inf
    windows = [getattr(settings, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window), default=math.inf)


@torch.no_grad()
def can_share(
    decoder: nn.Module, pad_token_id: int, device: torch.device, longest: int = SHARED_TOKENS
) -> bool:
    """Whether this model's states are the same in both layouts. They are not where attention cannot be told
    who sees whom (linear attention, flash kernels): such a model is asked, not guessed at. Where
    attention reaches back only so far, short rows would not show it: the mask of this layout takes the place
    of the model's own. ``longest``: tokens of the longest sequence in a pass in which any two share a prompt.
    """
    if decoder.config._attn_implementation not in MASKED_ATTENTION:
        return False  # a kernel given a mask that it does not know may fail for good, on a GPU
    if attention_window(decoder) < longest:
        return False
    prompt = np.array([1, 2, 3, 4, 1])
    completions = [np.array([2, 3, 1]), np.array([3, 2, 4, 4]), np.array([1])]
    width = len(prompt) + max(map(len, completions))
    prompts = [prompt] * len(completions)
    shared = share_prompts(
        np.arange(len(completions)), prompts, completions, SHARED_TOKENS, width, pad_token_id, device
    )
    assert shared is not None
    try:
        found_BSH = shared_states(decoder, shared, len(completions))
    except (ValueError, TypeError, RuntimeError):
        return False
    for found_SH, completion in zip(found_BSH, completions, strict=True):
        tokens = torch.from_numpy(np.concatenate([prompt, completion]))[None].to(device)
        alone_SH = decoder(input_ids=tokens, use_cache=False).last_hidden_state[0]
        difference = (found_SH[: len(alone_SH)] - alone_SH).abs().max()
        rounded = torch.is_autocast_enabled(device.type) or alone_SH.dtype != torch.float32
        tolerance = LOW_PRECISION_TOLERANCE if rounded else TOLERANCE
        if not difference <= tolerance * alone_SH.abs().max():
            return False
    return True
