"""Read and force a model's routing for the length of a ``with`` block, by forward hooks on its routers.

Nothing of the model is copied, replaced or left behind, so that `peft`, FSDP2 and any implementation of the
experts see the stock modules. Without forced routes a hook returns nothing: outputs are the stock model's,
bit by bit. With them the router's own choice is still computed first; what is exchanged is the indices, and
the weights are taken from the *current* logits by the architecture's formula, so that gradients reach the
router.

Gradient checkpointing runs a layer once more during ``backward``, which therefore has to happen inside the
block: outside of it the second run would take other experts than the first, which torch notices and refuses.

Shapes: N flat tokens (batch times length), E experts, K chosen for a token, L routed layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from depo.moe.routers import Router
from depo.moe.routes import ForcedRoutes, compact_dtype

Observe = Callable[[int, Tensor, Tensor], None]
"""(which router, logits (N, E) detached, native choice (N, K)), once a router and forward pass."""


class RouterHook:
    """One block's state. ``forced`` may be exchanged between forward passes of the block."""

    def __init__(
        self, routers: Sequence[Router], forced: ForcedRoutes | None, observe: Observe | None
    ) -> None:
        self.routers = routers
        self.forced = forced
        self.observe = observe
        self.observed: set[int] = set()

    def hook(self, index: int) -> Callable:
        router = self.routers[index]

        def on_forward(
            module: nn.Module, args: tuple, output: tuple[Tensor, Tensor, Tensor]
        ) -> tuple[Tensor, Tensor, Tensor] | None:
            logits_NE, _, native_NK = output
            if self.observe is not None and index not in self.observed:
                # A second run of the same pass is gradient checkpointing's.
                self.observed.add(index)
                self.observe(index, logits_NE.detach(), native_NK)
            if self.forced is None:
                return None
            chosen_NK = torch.where(self.forced.mask_N1, self.forced.chosen_LNK[index], native_NK)
            weights_NK = router.weights(logits_NE, chosen_NK)
            return logits_NE, weights_NK, chosen_NK

        return on_forward

    def next_pass(self, forced: ForcedRoutes | None = None) -> None:
        """Another forward pass in the same block, with routes of its own."""
        self.forced = forced
        self.observed.clear()


@contextmanager
def hooked(
    routers: Sequence[Router], forced: ForcedRoutes | None = None, observe: Observe | None = None
) -> Iterator[RouterHook]:
    """Force routes and tell ``observe`` what the routers would have chosen, inside the block."""
    hook = RouterHook(routers, forced, observe)
    with ExitStack() as stack:
        for index, router in enumerate(routers):
            handle = router.module.register_forward_hook(hook.hook(index))
            stack.callback(handle.remove)
        yield hook


class Recorder:
    """An ``observe`` that keeps the native choice of every router of one forward pass."""

    def __init__(self, routers: Sequence[Router]) -> None:
        self.compact = compact_dtype(routers[0].experts)
        # torch stacks no uint16: two bytes are two bytes.
        self.dtype = torch.uint8 if self.compact is np.uint8 else torch.int16
        self.chosen: list[Tensor] = [torch.empty(0)] * len(routers)
        self.shape = (len(routers), routers[0].top_k)

    def __call__(self, index: int, logits_NE: Tensor, native_NK: Tensor) -> None:
        self.chosen[index] = native_NK.to(self.dtype)

    def routes(self) -> np.ndarray:
        """The last pass's choices (L, N, K), compact, on the CPU."""
        return torch.stack(self.chosen).cpu().numpy().view(self.compact)
