"""The load-balancing loss of a mixture, when the recipe asks for it (``learner.load_balancing_coef``).

Whatever the model's own config says is ignored: an auxiliary loss tuned for pretraining pulls the routing of
a finished model towards uniform. Asked for, it is the architecture's own ``load_balancing_loss_func`` (Switch
Transformer, arXiv 2101.03961, eq. 4-6) on the logits of real tokens, trained on or not, of one
micro-batch; micro-batches count by their share of the mini-batch's sequences.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depo.errors import UserError
from depo.learner.packing import MicroBatch
from depo.models.devices import base_model
from depo.models.routers import routers

ARCHITECTURES = ("qwen3_moe", "qwen2_moe", "olmoe", "mixtral")
"""Whose routers give their logits first, as ``load_balancing_loss_func`` wants them."""

FUNCTION = "load_balancing_loss_func"


class LoadBalancing:
    """Listens to the routers during a forward pass and turns their logits into the loss."""

    def __init__(self, model: nn.Module, coef: float) -> None:
        """Raises UserError for other architectures."""
        self.model = base_model(model)
        self.coef = coef
        self.function = getattr(sys.modules[type(self.model).__module__], FUNCTION, None)
        kind = self.model.config.model_type
        if kind not in ARCHITECTURES or self.function is None:
            raise UserError(
                f"learner.load_balancing_coef: {coef:g}, but there is no load-balancing loss for {kind} "
                f"models (there is for {', '.join(ARCHITECTURES)})"
            )

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """Collects each layer's router logits (B·S, E) of the forward pass inside, with their gradient."""
        logits: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: tuple[Tensor, ...]) -> None:
            logits.append(output[0])

        hooks = [router.register_forward_hook(keep) for router in routers(self.model).values()]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, logits: list[Tensor], micro: MicroBatch, share: float | Tensor) -> Tensor:
        """coef · share · loss of a micro-batch; ``share`` is its part of the mini-batch."""
        positions_S = torch.arange(micro.tokens_BS.shape[1], device=micro.lengths_B.device)
        real_BS = positions_S < micro.lengths_B.unsqueeze(1)
        if micro.shared is not None:
            logits = [layer[micro.shared.place_N] for layer in logits]
        assert self.function is not None
        value = self.function(
            tuple(layer.float() for layer in logits),
            self.model.num_experts,
            self.model.num_experts_per_tok,
            real_BS,
        )
        return self.coef * share * value
