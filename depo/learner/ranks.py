"""The learner as a group of processes: who computes which micro-batches, and what they tell each other.

All ranks run the same update on the same batch. Each computes its own micro-batches and keeps its own part of
weights and optimizer state (`depo.models.sharding`). A layer's weights are gathered whenever it computes, so
ranks go through their passes side by side: each has the same number of them, and the i-th passes of all ranks
cost about the same.

    micro-batches of an optimizer step, by cost      9  8 | 6  6 | 5  4 | 2  –
    rank 0                                           9      6      5      2
    rank 1                                              8      6      4      – (empty)

K packs of a mini-batch: see ``depo.learner.packing``.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from torch import Tensor, nn

from depo.models.sharding import shard

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place in its group; alone by default. ``device``: cpu or cuda."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    def join(cls, address: str, rank: int, count: int, device: str, timeout: float) -> Ranks:
        """Meet the others at ``address`` (host:port of rank 0). ``timeout``: seconds that any exchange may
        take; then it raises RuntimeError, as it does when another rank dies."""
        if address.startswith("127.") and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing listens to other machines
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            init_method=f"tcp://{address}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=timeout),
        )
        return cls(rank, count, device)

    def shard(self, *models: nn.Module | None) -> None:
        """Part the weights of these models over the group."""
        if self.count > 1:
            mesh = dist.init_device_mesh(self.device, (self.count,))
            for model in models:
                if model is not None:
                    shard(model, mesh)

    # ------------------------------------------------------------ work

    def dealt(
        self, cut: Callable[[int], list[np.ndarray]], budget: int, cost: Callable[[np.ndarray], int]
    ) -> list[np.ndarray]:
        """Micro-batches such that ``own`` deals each rank as many, of about the same ``cost``.
        ``cut(budget)`` gives those of at most so many tokens, made of packs. Where there are fewer packs than
        ranks, some micro-batches are empty."""
        parts = cut(budget)
        if self.count == 1:
            return parts
        wanted = -(-len(parts) // self.count) * self.count
        # Of all budgets that make no more of them, the smallest makes them most alike.
        parts = cut(bisect_left(range(budget), True, key=lambda less: len(cut(less)) <= wanted))
        while len(parts) < wanted:
            largest = max(
                (at for at in range(len(parts)) if len(parts[at]) > 1),
                default=None,
                key=lambda at: cost(parts[at]),
            )
            if largest is None:
                parts.append(np.empty(0, dtype=np.int64))
            else:
                parts[largest : largest + 1] = np.array_split(parts[largest], 2)
        return sorted(parts, key=cost, reverse=True)

    def own(self, parts: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """This rank's micro-batches of those that were dealt."""
        return parts[self.rank :: self.count]

    # ------------------------------------------------------------ results

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.count == 1:
            return value
        value = value.detach().cpu()
        dist.all_reduce(value)
        return value

    def gathered(self, values: list[Value], parts: Sequence[np.ndarray]) -> list[Value]:
        """``values`` by row of the batch, of which each rank knows those of its own ``parts``, complete."""
        if self.count == 1:
            return values
        known: list[dict[int, Value]] = [{} for _ in range(self.count)]
        dist.all_gather_object(known, {int(row): values[row] for part in self.own(parts) for row in part})
        for one in known:
            for row, value in one.items():
                values[row] = value
        return values


ALONE = Ranks()
