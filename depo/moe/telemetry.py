"""Expert load, router entropy and routing agreement, and the alarm for a router that collapses.

Counted are the positions whose hidden state predicts a trained token, each once a step, on the device while
forward passes run anyway. What is counted is the router's *own* choice; where routes are replayed, that
choice is made on states that the replayed layers before it produced.

Shapes: M counted positions of a micro-batch, L routed layers, E experts, K chosen for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from depo.moe.routers import Router
from depo.moe.routes import ForcedRoutes

REFERENCE = 5  # first steps, whose mean is what a layer is compared with
PATIENCE = 3  # steps in a row
LOST = 0.5  # share of the experts in use above K
MARGIN = 0.5  # experts in use above K below which there is nothing to lose


class CollapseAlarm:
    """Fewer and fewer experts do all of the work. Fed once a step; its state is JSON, for the checkpoint.

    The rule, by layer: the number of experts in use (exp of the load's entropy) has lost more than half of
    what it had above its minimum K (every token to the same K experts), against its mean over the first
    ``REFERENCE`` steps, for ``PATIENCE`` steps in a row. Against the run's own beginning, because balance
    differs by model and layer and because a small batch does not reach every expert. A layer that had
    collapsed before training has nothing to lose and raises no alarm; ``routing/experts_in_use`` shows it.
    """

    def __init__(self, layers: int, top_k: int) -> None:
        self.top_k = top_k
        self.sum_L = np.zeros(layers)
        self.steps = 0
        self.below_L = np.zeros(layers, dtype=int)

    def check(self, in_use_L: Sequence[float] | np.ndarray) -> list[int]:
        """Which routed layers (by position) are collapsing after this step."""
        if self.steps < REFERENCE:
            self.sum_L += in_use_L
            self.steps += 1
            return []
        had_L = self.sum_L / REFERENCE - self.top_k
        left_L = np.asarray(in_use_L) - self.top_k
        below_L = (had_L > MARGIN) & (left_L < (1 - LOST) * had_L)
        self.below_L = np.where(below_L, self.below_L + 1, 0)
        return [int(layer) for layer in np.flatnonzero(self.below_L >= PATIENCE)]

    def state(self) -> dict[str, object]:
        return {"sum": self.sum_L.tolist(), "steps": self.steps, "below": self.below_L.tolist()}

    def restore(self, state: dict) -> None:
        self.sum_L = np.array(state["sum"], dtype=float)
        self.steps = state["steps"]
        self.below_L = np.array(state["below"], dtype=int)


class LoadTally:
    """Tokens sent to each expert, and the entropy of the routers' distributions."""

    def __init__(self, routers: Sequence[Router], device: torch.device) -> None:
        self.routers = routers
        self.load_LE = torch.zeros(len(routers), routers[0].experts, device=device)
        self.entropy_L = torch.zeros(len(routers), device=device)
        self.tokens = 0

    def add(self, index: int, logits_NE: Tensor, native_NK: Tensor, counted_M: Tensor) -> None:
        chosen = native_NK.index_select(0, counted_M).flatten()
        self.load_LE[index].scatter_add_(0, chosen, torch.ones_like(chosen, dtype=torch.float32))
        p_ME = self.routers[index].probabilities(logits_NE.index_select(0, counted_M))
        self.entropy_L[index] -= torch.special.xlogy(p_ME, p_ME).sum()
        if index == 0:
            self.tokens += len(counted_M)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """``total``: the sum over all processes that count."""
        self.load_LE, self.entropy_L = total(self.load_LE), total(self.entropy_L)
        self.tokens = int(total(torch.tensor(self.tokens)))

    def layers(self) -> dict[str, np.ndarray]:
        """By layer, arrays (L,): see ``layer_statistics``; and ``entropy``, nats, a mean over tokens."""
        load_LE = self.load_LE.double().cpu().numpy()
        entropy_L = self.entropy_L.double().cpu().numpy() / max(self.tokens, 1)
        return layer_statistics(load_LE) | {"entropy": entropy_L}


class AgreementTally:
    """Share of chosen experts that two routings of the same tokens have in common, by layer."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.common_L = torch.zeros(layers, device=device)
        self.pairs_L = torch.zeros(layers, device=device)

    def add(self, index: int, native_NK: Tensor, other: ForcedRoutes) -> None:
        """``other``'s routes count where its mask is set."""
        same_N = (native_NK.unsqueeze(-1) == other.chosen_LNK[index].unsqueeze(-2)).any(-1).sum(-1)
        mask_N = other.mask_N1.squeeze(-1)
        self.common_L[index] += (same_N * mask_N).sum()
        self.pairs_L[index] += mask_N.sum() * native_NK.shape[-1]

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """``total``: the sum over all processes that count."""
        self.common_L, self.pairs_L = total(self.common_L), total(self.pairs_L)

    def shares(self) -> np.ndarray | None:
        """(L,) in [0, 1]; None when nothing was compared."""
        common_L, pairs_L = self.common_L.double().cpu().numpy(), self.pairs_L.double().cpu().numpy()
        return common_L / pairs_L if pairs_L.all() else None


def layer_statistics(load_LE: np.ndarray) -> dict[str, np.ndarray]:
    """Of assignments counted by layer and expert, arrays (L,):

    - ``load_max``: the busiest expert's load over the mean load; 1 is perfect balance, E/K the worst
    - ``load_cv``: standard deviation over mean of the loads
    - ``dead``: share of experts that no counted token was sent to
    - ``experts_in_use``: exp of the entropy of the loads, from K (the same experts for every token) to E
    """
    mean_L1 = np.maximum(load_LE.mean(1, keepdims=True), 1e-12)
    share_LE = load_LE / np.maximum(load_LE.sum(1, keepdims=True), 1e-12)
    logs_LE = np.log(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    return {
        "load_max": load_LE.max(1) / mean_L1[:, 0],
        "load_cv": load_LE.std(1) / mean_L1[:, 0],
        "dead": (load_LE == 0).mean(1),
        "experts_in_use": np.exp(-(share_LE * logs_LE).sum(1)),
    }


def scalars(layers: dict[str, np.ndarray]) -> dict[str, float]:
    """What metrics.jsonl and TensorBoard show of the layers: the worst layer for load, means otherwise."""
    worst = {"load_max": np.max, "experts_in_use": np.min}
    return {f"routing/{name}": float(worst.get(name, np.mean)(values)) for name, values in layers.items()}
