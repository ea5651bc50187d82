"""How a batch is cut: into mini-batches (one optimizer step each) by group, and those into micro-batches
(one forward and backward pass each) by length, under a budget of padded tokens.

Shapes: N sequences of the batch, B of a micro-batch, S tokens of a whole sequence, T completion tokens. Rows
are right padded. Under causal attention no token sees the padding behind it, so no attention mask is needed.
What a pass computes may be laid out otherwise, with each prompt once: see ``depo.learner.shared_prompts``.

How rows of a batch become passes: packed where they share a prompt, cut under a budget of tokens, padded.

Shapes: K packs, of one row or of several that share a prompt's computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depo.learner.shared_prompts import SharedPrompts, packed_length, packs, share_prompts
from depo.rng import generator

# What a forward and backward pass costs beyond its tokens, expressed in tokens. For a 1.4 M-parameter MoE on
# one CPU core, cutting by 64 to 128 was fastest, 2 to 3 % ahead of 256 and 10 % ahead of 512. On a GPU
# launching a pass's kernels takes the time of many more tokens; that figure is an estimate, not measured.
PASS_TOKENS, CUDA_PASS_TOKENS = 128, 1024


def pass_cost(device: torch.device) -> int:
    """What a pass costs there beyond its tokens, in tokens."""
    return CUDA_PASS_TOKENS if device.type == "cuda" else PASS_TOKENS


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """``rows`` (B,) index the batch. ``tokens_BS`` are prompt and completion; ``prompt_lengths_B`` says where
    the completion starts; ``mask_BT`` (bool) is True on completion tokens. ``shared``: the same with each
    prompt once, where passes are to compute that."""

    rows: np.ndarray
    tokens_BS: Tensor
    prompt_lengths_B: Tensor
    mask_BT: Tensor
    shared: SharedPrompts | None = None

    @property
    def computed(self) -> int:
        """Tokens that a pass computes, padding included."""
        return (self.tokens_BS if self.shared is None else self.shared.tokens_RW).numel()


def split_groups(group_N: np.ndarray, count: int, run_seed: int, step: int, epoch: int) -> list[np.ndarray]:
    """Rows of each mini-batch, ascending. Groups are shuffled, never split, and spread evenly.

    With fewer groups than ``count`` there are as many mini-batches as groups.
    """
    groups = np.unique(group_N)
    generator(run_seed, "minibatch", step, index=epoch).shuffle(groups)
    parts = np.array_split(groups, min(count, len(groups)))
    return [np.flatnonzero(np.isin(group_N, part)) for part in parts]


def split_by_tokens(
    rows: np.ndarray, lengths_N: np.ndarray, budget: int, cost: int = PASS_TOKENS
) -> list[np.ndarray]:
    """Cut rows into micro-batches of similar length whose rows × longest stays within ``budget`` tokens.

    Longest first, ties in row order, so the cut is deterministic and a pass that does not fit into memory
    fails at once. A micro-batch also ends where its padding would cost more than another pass does:
    ``cost`` tokens, see ``pass_cost``. A row longer than the budget gets a micro-batch of its own.
    """
    order = rows[np.argsort(-lengths_N[rows], kind="stable")]
    parts = []
    start = padding = 0
    for end, row in enumerate(order):
        longest = int(lengths_N[order[start]])
        padding += longest - int(lengths_N[row])
        if end > start and ((end + 1 - start) * longest > budget or padding > cost):
            parts.append(order[start:end])
            start, padding = end, 0
    return [*parts, order[start:]] if len(order) else []


def collate(
    rows: np.ndarray,
    prompt_ids: Sequence[np.ndarray],
    completion_ids: Sequence[np.ndarray],
    pad_token_id: int,
    device: torch.device,
    share: int = 0,
) -> MicroBatch:
    """Pad the given rows of the batch and put them on the device; ``share``: with each
    prompt once, in rows of at most so many tokens."""
    prompt_lengths = [len(prompt_ids[row]) for row in rows]
    completion_lengths = [len(completion_ids[row]) for row in rows]
    longest = max(p + c for p, c in zip(prompt_lengths, completion_lengths, strict=True))
    tokens_BS = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    mask_BT = np.zeros((len(rows), max(completion_lengths)), dtype=bool)
    for b, row in enumerate(rows):
        end = prompt_lengths[b] + completion_lengths[b]
        tokens_BS[b, : prompt_lengths[b]] = prompt_ids[row]
        tokens_BS[b, prompt_lengths[b] : end] = completion_ids[row]
        mask_BT[b, : completion_lengths[b]] = True
    shared = None
    if share:
        shared = share_prompts(rows, prompt_ids, completion_ids, share, longest, pad_token_id, device)
    return MicroBatch(
        rows=rows,
        tokens_BS=torch.from_numpy(tokens_BS).to(device),
        prompt_lengths_B=torch.tensor(prompt_lengths, device=device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
        shared=shared,
    )


def pad_values(rows: np.ndarray, values: Sequence[np.ndarray], mask_BT: Tensor) -> Tensor:
    """Per-token float values of the given rows as (B, T), 0 on padding."""
    padded_BT = np.zeros(mask_BT.shape, dtype=np.float32)
    for b, row in enumerate(rows):
        padded_BT[b, : len(values[row])] = values[row]
    return torch.from_numpy(padded_BT).to(mask_BT.device)


def unpad_values(values_BT: Tensor, mask_BT: Tensor) -> list[np.ndarray]:
    """The inverse of ``pad_values``: B float32 arrays of (T,)."""
    lengths = mask_BT.sum(1).tolist()
    rows = values_BT.detach().float().cpu().numpy()
    return [row[:length].copy() for row, length in zip(rows, lengths, strict=True)]


Rows = np.ndarray


Tokens = Sequence[np.ndarray]
"""Of each row of the batch, its prompt's or its completion's."""


@dataclass(frozen=True, slots=True)
class Packing:
    """``budget``: tokens of a pass, padding included. ``share``: a prompt is computed once for as many of its
    completions as fit into a row of so many tokens; 0: for each of them."""

    budget: int
    share: int
    pad_token_id: int
    device: torch.device

    def cut(self, rows: Rows, prompt_ids: Tokens, completion_ids: Tokens) -> list[Rows]:
        """Micro-batches of these rows; rows that share a prompt's computation are not parted."""
        together, lengths_K = self.packed(rows, prompt_ids, completion_ids)
        parts = split_by_tokens(np.arange(len(together)), lengths_K, self.budget, pass_cost(self.device))
        return [np.concatenate([together[k] for k in part]) for part in parts]

    def collate(self, rows: Rows, prompt_ids: Tokens, completion_ids: Tokens) -> MicroBatch:
        """One micro-batch, padded and on the device."""
        return collate(rows, prompt_ids, completion_ids, self.pad_token_id, self.device, self.share)

    def padding(self, parts: Sequence[Rows], prompt_ids: Tokens, completion_ids: Tokens) -> float:
        """Share of the tokens computed for these micro-batches that is padding."""
        lengths = [self.packed(rows, prompt_ids, completion_ids)[1] for rows in parts]
        return 1.0 - sum(int(k.sum()) for k in lengths) / sum(len(k) * int(k.max()) for k in lengths)

    def packed(self, rows: Rows, prompt_ids: Tokens, completion_ids: Tokens) -> tuple[list[Rows], np.ndarray]:
        """Which of these rows are computed together, and the tokens (K,) that each such pack takes."""
        together = [np.array([row]) for row in rows]
        if self.share:
            together = packs(rows, prompt_ids, completion_ids, self.share)
        lengths = [packed_length(pack, prompt_ids, completion_ids) for pack in together]
        return together, np.array(lengths, dtype=np.int64)
