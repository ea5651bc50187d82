"""How a batch becomes passes: mini-batches (one optimizer step each) by group, and of each mini-batch
micro-batches (one forward and backward pass each) by length, under a budget of padded tokens.

Shapes: N samples of the batch, B of a micro-batch, S tokens of the longest sample, T trained tokens of the
sample that has most, K packs: of one sample, or of several that share the computation of their prompt.

Samples are padded on the right. Under causal attention no token sees the padding behind it, so no attention
mask is needed. A pass may compute another layout, with each prompt once: see ``depo.learner.shared_prompts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depo.learner.ranks import ALONE, Ranks
from depo.learner.shared_prompts import SharedPrompts, packed_length, packs, share_prompts
from depo.recipe.schema.learner import CUDA_PASS_TOKENS, PASS_TOKENS
from depo.rng import generator
from depo.types import TrainSample

Rows = np.ndarray
"""Indices of samples of the batch."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """``rows`` (B,) index the batch. ``tokens_BS`` are whole samples of ``lengths_B`` tokens. The trained
    tokens of a sample stand at ``places_BT`` of its row, in order; ``mask_BT`` (bool) is False on padding.
    ``shared``: the same with each prompt once, where passes are to compute that."""

    rows: Rows
    tokens_BS: Tensor
    lengths_B: Tensor
    places_BT: Tensor
    mask_BT: Tensor
    shared: SharedPrompts | None = None

    @property
    def computed(self) -> int:
        """Tokens that a pass computes, padding included."""
        return (self.tokens_BS if self.shared is None else self.shared.tokens_RW).numel()


@dataclass(frozen=True, slots=True)
class Packing:
    """``budget``: tokens of a pass, padding included. ``share``: a prompt is computed once for as many of its
    completions as fit into a row of so many tokens; 0: for each of them. ``ranks``: who computes passes."""

    budget: int
    share: int
    pad_token_id: int
    device: torch.device
    ranks: Ranks = ALONE

    def cut(self, rows: Rows, batch: Sequence[TrainSample]) -> list[Rows]:
        """Micro-batches of these rows, for all ranks; rows that share a prompt's computation are not
        parted."""
        together, lengths_K = self.packed(rows, batch)
        packs_K, cost = np.arange(len(together)), pass_cost(self.device)
        parts = self.ranks.dealt(
            lambda budget: split_by_tokens(packs_K, lengths_K, budget, cost), self.budget, lengths_K
        )
        none = np.empty(0, dtype=np.int64)
        return [np.concatenate([none, *(together[k] for k in part)]) for part in parts]

    def collate(self, rows: Rows, batch: Sequence[TrainSample]) -> MicroBatch:
        """One micro-batch, padded and on the device. One without rows is a token that is not trained on."""
        if not len(rows):
            token_11 = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            nowhere_00 = token_11[:0, :0]
            return MicroBatch(rows, token_11, token_11[0] + 1, nowhere_00, nowhere_00.bool())
        lengths = [len(batch[row]) for row in rows]
        tokens_BS = np.full((len(rows), max(lengths)), self.pad_token_id, dtype=np.int64)
        places = [np.flatnonzero(batch[row].loss_mask) for row in rows]
        places_BT = np.zeros((len(rows), max(map(len, places))), dtype=np.int64)
        mask_BT = np.zeros(places_BT.shape, dtype=bool)
        for b, row in enumerate(rows):
            tokens_BS[b, : lengths[b]] = batch[row].token_ids
            places_BT[b, : len(places[b])] = places[b]
            mask_BT[b, : len(places[b])] = True
        shared = None
        if self.share:
            shared = share_prompts(rows, batch, self.share, max(lengths), self.pad_token_id, self.device)
        return MicroBatch(
            rows=np.asarray(rows),
            tokens_BS=torch.from_numpy(tokens_BS).to(self.device),
            lengths_B=torch.tensor(lengths, device=self.device),
            places_BT=torch.from_numpy(places_BT).to(self.device),
            mask_BT=torch.from_numpy(mask_BT).to(self.device),
            shared=shared,
        )

    def padding(self, parts: Sequence[Rows], batch: Sequence[TrainSample]) -> float:
        """Share of the tokens computed for these micro-batches that is padding."""
        lengths = [self.packed(rows, batch)[1] for rows in parts if len(rows)]
        return 1.0 - sum(int(k.sum()) for k in lengths) / sum(len(k) * int(k.max()) for k in lengths)

    def packed(self, rows: Rows, batch: Sequence[TrainSample]) -> tuple[list[Rows], np.ndarray]:
        """Which of these rows are computed together, and the tokens (K,) that each such pack takes."""
        together = packs(rows, batch, self.share) if self.share else [np.array([row]) for row in rows]
        return together, np.array([packed_length(pack, batch) for pack in together], dtype=np.int64)


def pass_cost(device: torch.device) -> int:
    """What a pass costs there beyond its tokens, in tokens."""
    return CUDA_PASS_TOKENS if device.type == "cuda" else PASS_TOKENS


def split_groups(group_N: np.ndarray, count: int, run_seed: int, step: int, epoch: int) -> list[Rows]:
    """Rows of each mini-batch, ascending. Groups are shuffled, never split, and spread evenly.

    With fewer groups than ``count`` there are as many mini-batches as groups.
    """
    groups = np.unique(group_N)
    generator(run_seed, "minibatch", step, index=epoch).shuffle(groups)
    parts = np.array_split(groups, min(count, len(groups)))
    return [np.flatnonzero(np.isin(group_N, part)) for part in parts]


def split_by_tokens(rows: Rows, lengths_N: np.ndarray, budget: int, cost: int = PASS_TOKENS) -> list[Rows]:
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


def pad_values(values: Sequence[np.ndarray], mask_BT: Tensor) -> Tensor:
    """Float values of each sample's trained tokens, B arrays of (T,), as (B, T); 0 on padding."""
    padded_BT = np.zeros(mask_BT.shape, dtype=np.float32)
    for b, row in enumerate(values):
        padded_BT[b, : len(row)] = row
    return torch.from_numpy(padded_BT).to(mask_BT.device)


def unpad_values(values_BT: Tensor, mask_BT: Tensor) -> list[np.ndarray]:
    """The inverse of ``pad_values``: B float32 arrays of (T,)."""
    lengths = mask_BT.sum(1).tolist()
    rows = values_BT.detach().float().cpu().numpy()
    return [row[:length].copy() for row, length in zip(rows, lengths, strict=True)]
