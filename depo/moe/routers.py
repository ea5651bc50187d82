"""The routers of a mixture of experts, and how each architecture turns chosen experts into weights.

A router of transformers 5 returns (logits, weights, indices). Between the three lies a formula that differs
by architecture; ``weights`` repeats it for indices of one's own, from the current logits, with gradients:

    softmax        p = softmax(logits); weights p[chosen], divided by their sum where the config says so
    mixtral        as softmax, always divided by their sum
    deepseek_v2    p[chosen] · scale
    sigmoid        s = sigmoid(logits); weights s[chosen], divided by their sum where the config says so,
                   · scale; a correction bias and expert groups limit which experts are *chosen*, not what
                   they weigh (DeepSeek-V3, arXiv 2412.19437, eq. 12-16)

Shapes: N tokens, E experts, K chosen experts of a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depo.errors import UserError
from depo.models.precision import base_model, routers

Weights = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(router, logits (N, E), indices (N, K)) → weights (N, K), as the router itself computes them."""


def softmax_weights(router: nn.Module, logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
    weights_NK = logits_NE.softmax(dim=-1, dtype=torch.float).gather(1, chosen_NK)
    if router.norm_topk_prob:
        weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
    return weights_NK.to(logits_NE.dtype)


def mixtral_weights(router: nn.Module, logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
    weights_NK = logits_NE.float().softmax(dim=-1).gather(1, chosen_NK)
    return weights_NK / weights_NK.sum(dim=-1, keepdim=True)


def deepseek_v2_weights(router: nn.Module, logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
    return logits_NE.softmax(dim=-1, dtype=torch.float32).gather(1, chosen_NK) * router.routed_scaling_factor


def sigmoid_weights(router: nn.Module, logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
    weights_NK = logits_NE.sigmoid().gather(1, chosen_NK)
    if router.norm_topk_prob:
        weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + 1e-20)
    return weights_NK * router.routed_scaling_factor


KNOWN: dict[str, tuple[str, Weights]] = {
    "Qwen3MoeTopKRouter": ("qwen3_moe", softmax_weights),
    "Qwen2MoeTopKRouter": ("qwen2_moe", softmax_weights),
    "OlmoeTopKRouter": ("olmoe", softmax_weights),
    "Qwen3NextTopKRouter": ("qwen3_next", softmax_weights),
    "FlexOlmoTopKRouter": ("flex_olmo", softmax_weights),
    "MixtralTopKRouter": ("mixtral", mixtral_weights),
    "DeepseekV2TopkRouter": ("deepseek_v2", deepseek_v2_weights),
    "DeepseekV3TopkRouter": ("deepseek_v3", sigmoid_weights),
    "Glm4MoeTopkRouter": ("glm4_moe", sigmoid_weights),
    "Dots1TopkRouter": ("dots1", sigmoid_weights),
}
"""Router classes of transformers, with the ``model_type`` they belong to."""

LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Router:
    """One router. ``layer`` is the index of its decoder layer, counted over dense ones too."""

    module: nn.Module
    layer: int
    formula: Weights

    @property
    def experts(self) -> int:
        return int(self.module.num_experts)

    @property
    def top_k(self) -> int:
        return int(self.module.top_k)

    def weights(self, logits_NE: Tensor, chosen_NK: Tensor) -> Tensor:
        """What the chosen experts weigh by the current logits: (N, K), gradients included."""
        return self.formula(self.module, logits_NE, chosen_NK)

    def probabilities(self, logits_NE: Tensor) -> Tensor:
        """The router's distribution over experts, float32 (N, E): softmax, or sigmoid scores by their sum."""
        if self.formula is not sigmoid_weights:
            return logits_NE.softmax(dim=-1, dtype=torch.float32)
        scores_NE = logits_NE.float().sigmoid()
        return scores_NE / scores_NE.sum(-1, keepdim=True)


def find_routers(model: nn.Module) -> list[Router]:
    """The known routers of a model (inside its `peft` wrapper), in the order of layers; empty if none."""
    found = []
    for name, module in routers(model).items():
        known = KNOWN.get(type(module).__name__)
        if known is None or not type(module).__module__.startswith("transformers."):
            continue
        number = LAYER.search(f".{name}.")
        if number is not None:
            found.append(Router(module, int(number[1]), known[1]))
    found.sort(key=lambda router: router.layer)
    return found


def known_routers(model: nn.Module, key: str) -> list[Router]:
    """The model's routers, at least one; weights are not looked at. Raises UserError, naming the recipe's
    ``key``, for a dense model and for routers that are not known."""
    found = find_routers(model)
    kind = base_model(model).config.model_type
    names = ", ".join(dict.fromkeys(name for name, _ in KNOWN.values()))
    if not found:
        raise UserError(f"{key}: {kind} is a dense model or one whose router is not known; known are {names}")
    if len({(router.experts, router.top_k) for router in found}) > 1:
        raise UserError(f"{key}: the layers of this {kind} differ in experts or in how many work for a token")
    return found


def require_routers(model: nn.Module, key: str) -> list[Router]:
    """``known_routers``, each checked against its formula. Raises UserError as that does, and for routers
    that compute something else by now."""
    found = known_routers(model, key)
    kind = base_model(model).config.model_type
    for router in found:
        if not formula_holds(router):
            raise UserError(
                f"{key}: the router of {kind} (layer {router.layer}) weighs experts in another way than the "
                "transformers release this project was written for"
            )
    return found


@torch.no_grad()
def formula_holds(router: Router) -> bool:
    """Whether the router's own weights are those of its formula, on a few made-up states."""
    weight = router.module.weight
    hidden_NH = torch.linspace(-1, 1, 4 * weight.shape[1], device=weight.device, dtype=weight.dtype)
    logits_NE, weights_NK, chosen_NK = router.module(hidden_NH.view(4, -1).sin())
    return torch.allclose(router.weights(logits_NE, chosen_NK), weights_NK, rtol=1e-3, atol=1e-6)
