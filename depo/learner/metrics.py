"""What an update tells about itself. Shapes: N samples of the batch, B of a micro-batch, T
trained tokens of a sample, M of the whole batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from depo.learner.corrections import Correction
from depo.learner.loss import k3
from depo.learner.packing import pad_values


class Tally:
    """Sums over the passes of one update, kept on the device until the end."""

    def __init__(self) -> None:
        self.loss: list[Tensor] = []
        self.sums: dict[str, list[Tensor]] = defaultdict(list)
        self.tokens: list[Tensor] = []
        self.norms: list[float] = []
        self.skipped = 0

    def add_loss(self, loss: Tensor) -> None:
        self.loss.append(loss)

    def add_tokens(self, mask_BT: Tensor, **values_BT: Tensor | None) -> None:
        self.tokens.append(mask_BT.sum())
        for name, value_BT in values_BT.items():
            if value_BT is not None:
                self.sums[name].append((value_BT * mask_BT).sum())

    def add_step(self, norm: float, finite: bool) -> None:
        self.norms.append(norm)
        self.skipped += not finite

    def means(self) -> dict[str, float]:
        tokens = float(torch.stack(self.tokens).sum())
        means = {name: float(torch.stack(parts).double().sum()) / tokens for name, parts in self.sums.items()}
        return means | {
            "loss": float(torch.stack(self.loss).double().sum()) / len(self.norms),
            "grad_norm": float(np.mean(self.norms)),
            "optimizer_steps": float(len(self.norms) - self.skipped),
            "skipped_steps": float(self.skipped),
        }


def mismatch(
    correction: Correction, old: Sequence[np.ndarray], engine: Sequence[np.ndarray]
) -> dict[str, float]:
    """How far learner and engine are apart on the trained tokens, and what the correction made of it."""
    lengths_N = torch.tensor([len(row) for row in old])
    mask_NT = torch.arange(int(lengths_N.max())) < lengths_N.unsqueeze(1)
    old_NT, engine_NT = pad_values(old, mask_NT).double(), pad_values(engine, mask_NT).double()
    weights_NT, cut_NT = correction(old_NT, engine_NT, mask_NT)
    difference_M = (old_NT - engine_NT)[mask_NT]
    return {
        "mismatch_kl": float(k3(difference_M).mean()),
        "mismatch_max": float(difference_M.abs().max()),
        "correction_mean": float(weights_NT[mask_NT].mean()),
        "correction_cut": float(cut_NT[mask_NT].double().mean()),
    }
