"""Each prompt once: the completions of a group behind one copy of their prompt.

The sequences of a group begin with the same tokens, and under causal attention these have the same states in
all of them. So a pass may compute rows

    prompt, completion 1, completion 2, …

in which a completion's tokens see the prompt and what precedes them in their own completion, at the positions
they have when it stands alone. Here the prompt is what stands before the first trained token, and all that
follows it, masked tool output included, is the completion. Log-probabilities and gradients are those of the
plain layout up to rounding; of 8 answers as long as their prompt, 7 of 16 tokens need not be computed. A
row's attention costs the square of its length, so rows are kept short (`SHARED_TOKENS`): where completions
are long there is nothing to share.

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

from depo.recipe.schema.learner import SHARED_TOKENS
from depo.types import TrainSample

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


def packs(rows: np.ndarray, batch: Sequence[TrainSample], limit: int) -> list[np.ndarray]:
    """Rows of the batch that share a row of a pass of at most ``limit`` tokens, prompts in order of their
    first row. Those share that have the same tokens before their first trained one, and the same routes where
    any are recorded there. A sequence that is longer has a row to itself."""
    by_prompt: dict[tuple[bytes, bytes], list[list[int]]] = {}
    lengths: dict[tuple[bytes, bytes], int] = {}
    for row in np.asarray(rows).tolist():
        sample, start = batch[row], batch[row].start
        tokens, routes = len(sample) - start, b""
        if sample.routes is not None:  # what is recorded beyond the tokens that follow the prompt
            routes = sample.routes[: max(0, len(sample.routes) - (tokens - 1))].tobytes()
        prompt = sample.token_ids[:start].tobytes(), routes
        if prompt not in by_prompt or lengths[prompt] + tokens > limit:
            by_prompt.setdefault(prompt, []).append([])
            lengths[prompt] = start
        by_prompt[prompt][-1].append(row)
        lengths[prompt] += tokens
    return [np.array(pack) for packed in by_prompt.values() for pack in packed]


def packed_length(pack: np.ndarray, batch: Sequence[TrainSample]) -> int:
    """Tokens of the row that these sequences share."""
    start = batch[pack[0]].start
    return start + sum(len(batch[row]) - start for row in pack)


def share_prompts(
    rows: np.ndarray,
    batch: Sequence[TrainSample],
    limit: int,
    width: int,
    pad_token_id: int,
    device: torch.device,
) -> SharedPrompts | None:
    """The layout of these rows of the batch, see ``packs``; ``width`` is that of the plain one. None where no
    two share."""
    together = packs(rows, batch, limit)
    if len(together) == len(rows):
        return None
    longest = max(packed_length(pack, batch) for pack in together)
    tokens_RW = np.full((len(together), longest), pad_token_id, dtype=np.int64)
    positions_RW = np.zeros((len(together), longest), dtype=np.int64)
    part_RW = np.full((len(together), longest), -1)  # 0: prompt; 1, 2, …: what follows it; -1: padding
    place_BS = np.zeros((len(rows), width), dtype=np.int64)
    order = {int(row): b for b, row in enumerate(rows)}
    for r, pack in enumerate(together):
        start = end = batch[pack[0]].start
        tokens_RW[r, :end], positions_RW[r, :end] = batch[pack[0]].token_ids[:end], np.arange(end)
        part_RW[r, :end] = 0
        for part, row in enumerate(pack.tolist(), start=1):
            own = np.arange(start, len(batch[row]))
            at = slice(end, end + len(own))
            tokens_RW[r, at], positions_RW[r, at], part_RW[r, at] = batch[row].token_ids[start:], own, part
            place_BS[order[row], :start] = r * longest + np.arange(start)
            place_BS[order[row], own] = r * longest + np.arange(at.start, at.stop)
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
def why_not_shared(
    decoder: nn.Module, pad_token_id: int, device: torch.device, longest: int = SHARED_TOKENS
) -> str | None:
    """Why this model's states are not the same in both layouts; None where they are.

    They are not where attention cannot be told who sees whom (linear attention, flash kernels): such a model
    is asked, not guessed at. Where attention reaches back only so far, short rows would not show it: the mask
    of this layout takes the place of the model's own. ``longest``: tokens of the longest sequence in a pass
    in which any two share a prompt. What goes wrong in the plain layout too is raised, as is a lack of
    memory.
    """
    kernel = decoder.config._attn_implementation
    if kernel not in MASKED_ATTENTION:  # given a mask that it does not know, it may fail for good, on a GPU
        return f"attention {kernel} takes no mask"
    window = attention_window(decoder)
    if window < longest:
        return f"attention reaches back {window:g} tokens only, and a pass may have {longest}"
    prompt = [1, 2, 3, 4, 1]
    made_up = [TrainSample.of_completion(prompt, rest) for rest in ([2, 3, 1], [3, 2, 4, 4], [1])]
    width = max(map(len, made_up))
    shared = share_prompts(np.arange(len(made_up)), made_up, SHARED_TOKENS, width, pad_token_id, device)
    assert shared is not None
    tokens = [torch.from_numpy(sample.token_ids).long()[None].to(device) for sample in made_up]
    alone = [decoder(input_ids=tokens_1S, use_cache=False).last_hidden_state[0] for tokens_1S in tokens]
    try:
        found_BSH = shared_states(decoder, shared, len(made_up))
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # both are RuntimeErrors
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # a mask of four dimensions is refused
        if "alloc" in str(error):  # the CPU's lack of memory has no type of its own
            raise
        return f"the model takes no mask of its layout ({' '.join(str(error).split())[:100]})"
    for found_SH, alone_SH in zip(found_BSH, alone, strict=True):
        difference = (found_SH[: len(alone_SH)] - alone_SH).abs().max()
        rounded = torch.is_autocast_enabled(device.type) or alone_SH.dtype != torch.float32
        tolerance = LOW_PRECISION_TOLERANCE if rounded else TOLERANCE
        if not difference <= tolerance * alone_SH.abs().max():
            return "the model's states depend on the layout (as those of linear attention do)"
    return None
