"""The layout of a pass: all tokens of its sequences in one row, without padding, each prompt once.

The sequences of a group begin with the same tokens, and under causal attention these have the same states in
all of them. So a pass computes a row

    prompt, completion 1, completion 2, …, next prompt, its completion 1, …

in which every token has the position that it has in its own sequence, and attends to that sequence alone
(`depo.models.attention`). Here the prompt is what stands before the first trained token, and all that follows
it, masked tool output included, is the completion. Log-probabilities and gradients are those of padded
sequences up to rounding; of 8 answers as long as their prompt, 7 of 16 tokens need not be computed.

Shapes: B sequences of a micro-batch, S tokens of the longest, N tokens of the row, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from depo.models.attention import Sequences
from depo.recipe.schema.learner import PASS_TOKENS
from depo.types import TrainSample

Layout = Literal["padded", "packed", "varlen"]
"""Sequences padded to the longest; in a row, attention in padded blocks; in a row, attention by a kernel for
any lengths."""

COPIES = 8
"""Of what a pass keeps of a token for its backward pass, about an eighth is attention's: that much a shared
prompt costs once more for each further completion."""

BLOCK_PADDING = 8
"""A block of attention's may have as much padding as an eighth of what all of them hold."""

TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 0.05  # of the largest state


@dataclass(frozen=True, slots=True)
class PackedRow:
    """``tokens_1N`` at ``positions_1N`` of their sequences. ``token_BS``: which of them is at a position of
    the padded layout; the first one for its padding."""

    tokens_1N: Tensor
    positions_1N: Tensor
    token_BS: Tensor
    sequences: Sequences


def packs(rows: np.ndarray, batch: Sequence[TrainSample], limit: int) -> list[np.ndarray]:
    """Rows of the batch that share the computation of their prompt, as many as fit into ``limit`` tokens;
    prompts in order of their first row. Those share that have the same tokens before their first trained one,
    and the same routes where any are recorded there. A sequence that is longer stands alone."""
    by_prompt: dict[tuple[bytes, bytes], list[list[int]]] = {}
    lengths: dict[tuple[bytes, bytes], int] = {}
    for row in np.asarray(rows).tolist():
        sample, start = batch[row], batch[row].start
        tokens, routes = len(sample) - start, b""
        if sample.routes is not None:  # what is recorded beyond the tokens that follow the prompt
            routes = sample.routes[: max(0, len(sample.routes) - (tokens - 1))].tobytes()
        prompt = sample.token_ids[:start].tobytes(), routes
        if prompt not in by_prompt or lengths[prompt] + tokens + start // COPIES > limit:
            by_prompt.setdefault(prompt, []).append([])
            lengths[prompt] = start - start // COPIES
        by_prompt[prompt][-1].append(row)
        lengths[prompt] += tokens + start // COPIES
    return [np.array(pack) for packed in by_prompt.values() for pack in packed]


def pack_length(pack: np.ndarray, batch: Sequence[TrainSample]) -> int:
    """Tokens that these sequences count as, copies of their prompt for attention included."""
    start = batch[pack[0]].start
    return start + sum(len(batch[row]) - start for row in pack) + (len(pack) - 1) * (start // COPIES)


def split_by_tokens(
    rows: np.ndarray, lengths_N: np.ndarray, budget: float, cost: float = PASS_TOKENS, packed: bool = False
) -> list[np.ndarray]:
    """Cut rows into parts of similar length of at most ``budget`` tokens: rows × longest, or their sum where
    they are ``packed``.

    Longest first, ties in row order, so the cut is deterministic and a pass that does not fit into memory
    fails at once. A part also ends where its padding would cost more than another one does: ``cost`` tokens.
    A row longer than the budget stands alone.
    """
    order = rows[np.argsort(-lengths_N[rows], kind="stable")]
    parts = []
    start = tokens = 0
    for end, row in enumerate(order):
        tokens += int(lengths_N[row])
        padded = (end + 1 - start) * int(lengths_N[order[start]])
        full = tokens > budget if packed else padded > budget or padded - tokens > cost
        if end > start and full:
            parts.append(order[start:end])
            start, tokens = end, int(lengths_N[row])
    return [*parts, order[start:]] if len(order) else []


def packed_row(
    rows: np.ndarray,
    batch: Sequence[TrainSample],
    together: Sequence[np.ndarray],
    layout: Layout,
    device: torch.device,
) -> PackedRow:
    """The row of these samples, of which those ``together`` share their prompt: see ``packs``."""
    to_device = partial(torch.as_tensor, device=device)
    lengths_B = np.array([len(batch[row]) for row in rows])
    token_BS = np.zeros((len(rows), lengths_B.max()), dtype=np.int64)
    tokens, positions, count = [], [], 0
    of_row = {int(row): b for b, row in enumerate(rows)}
    for pack in together:
        prompt, start = count, batch[pack[0]].start
        tokens.append(batch[pack[0]].token_ids[:start])
        positions.append(np.arange(start))
        count += start
        for row in pack.tolist():
            own = np.arange(start, len(batch[row]))
            token_BS[of_row[row], :start] = prompt + np.arange(start)
            token_BS[of_row[row], own] = count + own - start
            tokens.append(batch[row].token_ids[start:])
            positions.append(own)
            count += len(own)
    return PackedRow(
        tokens_1N=to_device(np.concatenate(tokens).astype(np.int64)[None]),
        positions_1N=to_device(np.concatenate(positions)[None]),
        token_BS=to_device(token_BS),
        sequences=taken_apart(token_BS, lengths_B, count, layout, device),
    )


def taken_apart(
    token_BS: np.ndarray, lengths_B: np.ndarray, count: int, layout: Layout, device: torch.device
) -> Sequences:
    """The sequences of a row of ``count`` tokens as attention takes them."""
    order, total = np.arange(len(lengths_B)), int(lengths_B.sum())
    if layout == "varlen":
        blocks = [order[b : b + 1] for b in order]
    else:
        blocks = split_by_tokens(order, lengths_B, float("inf"), max(PASS_TOKENS, total // BLOCK_PADDING))
    widths = [int(lengths_B[block[0]]) for block in blocks]
    token_M = np.concatenate(
        [token_BS[block, :width].ravel() for block, width in zip(blocks, widths, strict=True)]
    )
    real_M = np.concatenate(
        [
            (np.arange(width) < lengths_B[block, None]).ravel()
            for block, width in zip(blocks, widths, strict=True)
        ]
    )
    place_N = np.empty(count, dtype=np.int64)
    place_N[token_M[real_M][::-1]] = np.flatnonzero(real_M)[::-1]  # of several places the first
    ends = np.concatenate([[0], lengths_B.cumsum()]).astype(np.int32)
    return Sequences(
        token_M=torch.as_tensor(token_M, device=device),
        place_N=torch.as_tensor(place_N, device=device),
        blocks=tuple((len(block), width) for block, width in zip(blocks, widths, strict=True)),
        ends=torch.as_tensor(ends, device=device) if layout == "varlen" else None,
        longest=int(lengths_B.max()),
    )


def packed_states(decoder: nn.Module, row: PackedRow) -> Tensor:
    """Final hidden states of the row's tokens, (N, H)."""
    states_1NH = decoder(
        input_ids=row.tokens_1N,
        position_ids=row.positions_1N,
        # Four dimensions: the model makes no mask of its own. Attention does not look at it.
        attention_mask=torch.zeros(1, 1, 1, 1, device=row.tokens_1N.device),
        use_cache=False,
        sequences=row.sequences,
    ).last_hidden_state
    return states_1NH[0]


@torch.no_grad()
def why_not_packed(decoder: nn.Module, layout: Layout, device: torch.device) -> str | None:
    """Why this model's states in ``layout`` are not those of padded sequences; None where they are.

    They are not where something else than attention looks at other tokens, or goes by a token's place. Such a
    model is asked, not guessed at. What goes wrong with sequences one by one too is raised, as is a lack of
    memory.
    """
    prompts = [[1, 2, 3, 4, 1]] * 3 + [[2, 4]]
    completions = [[2, 3, 1], [3, 2, 4, 4], [1], [3, 1]]
    made_up = [TrainSample.of_completion(*one) for one in zip(prompts, completions, strict=True)]
    rows = np.arange(len(made_up))
    row = packed_row(rows, made_up, packs(rows, made_up, 100), layout, device)
    tokens = [torch.from_numpy(sample.token_ids).long()[None].to(device) for sample in made_up]
    alone = [decoder(input_ids=tokens_1S, use_cache=False).last_hidden_state[0] for tokens_1S in tokens]
    try:
        found_BSH = packed_states(decoder, row)[row.token_BS]
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # both are RuntimeErrors
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # an argument or a kernel that is refused
        if "alloc" in str(error):  # the CPU's lack of memory has no type of its own
            raise
        return f"the model takes no packed sequences ({' '.join(str(error).split())[:100]})"
    for found_SH, alone_SH in zip(found_BSH, alone, strict=True):
        difference = (found_SH[: len(alone_SH)] - alone_SH).abs().max()
        rounded = torch.is_autocast_enabled(device.type) or alone_SH.dtype != torch.float32
        tolerance = LOW_PRECISION_TOLERANCE if rounded else TOLERANCE
        if not difference <= tolerance * alone_SH.abs().max():
            return "the model's states depend on the layout"
    return None


def best_layout(decoder: nn.Module, device: torch.device) -> tuple[Layout, str | None]:
    """The fastest layout that gives this model's states on this device, and what speaks against a faster
    one."""
    dtype = next(decoder.parameters()).dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    reason = None
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        reason = why_not_packed(decoder, "varlen", device)
        if reason is None:
            return "varlen", None
        reason = f"attention pads sequences to about the same length: varlen attention: {reason}"
    unpacked = why_not_packed(decoder, "packed", device)
    return ("packed", reason) if unpacked is None else ("padded", padded_because(unpacked))


def padded_because(reason: str) -> str:
    return f"sequences are padded and each prompt is computed once for each of its completions: {reason}"
