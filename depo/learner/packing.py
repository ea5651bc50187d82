"""How a batch becomes passes: mini-batches (one optimizer step each) by group, and of each mini-batch
micro-batches (one forward and backward pass each) under a budget of tokens.

Shapes: N samples of the batch, B of a micro-batch, S tokens of the longest sample, T trained tokens of the
sample that has most, M of all B, K packs: of one sample, or of several that share the computation of their
prompt.

A micro-batch holds its samples padded on the right. A pass computes them packed into one row instead,
without padding and each prompt once (``depo.learner.layout``), where the model can. Where it cannot, no
attention mask is needed: under causal attention no token sees the padding behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depo.learner.layout import Layout, PackedRow, pack_length, packed_row, packs, split_by_tokens
from depo.learner.ranks import ALONE, Ranks
from depo.recipe.schema.learner import CUDA_PASS_TOKENS, PASS_TOKENS
from depo.rng import generator
from depo.types import TrainSample

Rows = np.ndarray
"""Indices of samples of the batch."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """``rows`` (B,) index the batch. ``tokens_BS`` are whole samples of ``lengths_B`` tokens. The trained
    tokens of a sample stand at ``places_BT`` of its row, in order; ``mask_BT`` (bool) is False on padding.
    ``packed``: the row that a pass computes in place of ``tokens_BS``."""

    rows: Rows
    tokens_BS: Tensor
    lengths_B: Tensor
    places_BT: Tensor
    mask_BT: Tensor
    packed: PackedRow | None = None

    @property
    def computed(self) -> int:
        """Tokens that a pass computes, padding included."""
        return (self.tokens_BS if self.packed is None else self.packed.tokens_1N).numel()

    @property
    def predicting_M(self) -> Tensor:
        """Flat positions, of B·S, whose hidden state predicts a trained token."""
        rows_M, _ = self.mask_BT.nonzero(as_tuple=True)
        return rows_M * self.tokens_BS.shape[1] + self.places_BT[self.mask_BT] - 1

    def computed_at(self, flat_M: Tensor) -> Tensor:
        """Which of the computed tokens are at these flat positions, of B·S."""
        return flat_M if self.packed is None else self.packed.token_BS.flatten()[flat_M]


@dataclass(frozen=True, slots=True)
class Packing:
    """``budget``: tokens of a pass, padding included. ``ranks``: who computes passes."""

    budget: int
    layout: Layout
    pad_token_id: int
    device: torch.device
    ranks: Ranks = ALONE

    def cut(self, rows: Rows, batch: Sequence[TrainSample]) -> list[Rows]:
        """Micro-batches of these rows, for all ranks; rows that share a prompt's computation are not
        parted."""
        packed, limit = self.layout != "padded", self.budget
        if self.ranks.count > 1:  # large packs would leave some ranks with less than others
            limit = min(limit, sum(len(batch[row]) for row in rows) // (2 * self.ranks.count))
        together = self.together(rows, batch, limit)
        packs_K = np.arange(len(together))
        lengths_K = np.array([pack_length(pack, batch) for pack in together], dtype=np.int64)

        def cut(budget: int) -> list[np.ndarray]:
            return split_by_tokens(packs_K, lengths_K, budget, pass_cost(self.device), packed)

        def cost(part: np.ndarray) -> int:
            return int(lengths_K[part].sum() if packed else len(part) * lengths_K[part].max(initial=0))

        parts = self.ranks.dealt(cut, self.budget, cost)
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
        packed = None
        if self.layout != "padded":
            packed = packed_row(
                rows, batch, self.together(rows, batch, self.budget), self.layout, self.device
            )
        return MicroBatch(
            rows=np.asarray(rows),
            tokens_BS=torch.from_numpy(tokens_BS).to(self.device),
            lengths_B=torch.tensor(lengths, device=self.device),
            places_BT=torch.from_numpy(places_BT).to(self.device),
            mask_BT=torch.from_numpy(mask_BT).to(self.device),
            packed=packed,
        )

    def padding(self, parts: Sequence[Rows], batch: Sequence[TrainSample]) -> float:
        """Share of the tokens computed for these micro-batches that is padding."""
        if self.layout != "padded":
            return 0.0
        lengths = [[len(batch[row]) for row in rows] for rows in parts if len(rows)]
        return 1.0 - sum(map(sum, lengths)) / sum(len(part) * max(part) for part in lengths)

    def together(self, rows: Rows, batch: Sequence[TrainSample], limit: int) -> list[Rows]:
        """Which of these rows share the computation of their prompt, of at most ``limit`` tokens."""
        if self.layout == "padded":
            return [np.array([row]) for row in rows]
        return packs(rows, batch, limit)


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
