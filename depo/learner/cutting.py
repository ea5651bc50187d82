"""How rows of a batch become passes: packed where they share a prompt, cut under a budget of tokens, padded.

Shapes: K packs, of one row or of several that share a prompt's computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from depo.learner.microbatches import MicroBatch, collate, pass_cost, split_by_tokens
from depo.learner.shared_prompts import packed_length, packs

Rows = np.ndarray
Tokens = Sequence[np.ndarray]
"""Of each row of the batch, its prompt's or its completion's."""


@dataclass(frozen=True, slots=True)
class Cutting:
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
