"""What vLLM returns of its routing, as the record that rollouts carry. Without torch.

T completion tokens, L routed layers, K experts chosen for a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def from_vllm(
    routed_experts: np.ndarray | None, prompt_tokens: int, tokens: int, layers: Sequence[int]
) -> np.ndarray:
    """vLLM's ``CompletionOutput.routed_experts`` as the record of a completion: (T − 1, L, K).

    vLLM gives (prompt + T − 1, hidden layers, K), dense layers included, prompt tokens first. ``layers`` are
    the decoder layers that have a router. Raises RuntimeError when it gave something else.
    """
    expected = prompt_tokens + tokens - 1
    if routed_experts is None:
        raise RuntimeError("vLLM returned no routed_experts; learner.routing_replay r3 needs them")
    fits = routed_experts.ndim == 3 and len(routed_experts) == expected
    if not fits or routed_experts.shape[1] <= max(layers):
        raise RuntimeError(
            f"vLLM returned routed_experts of shape {routed_experts.shape} for {prompt_tokens} prompt and "
            f"{tokens} completion tokens; expected ({expected}, {max(layers) + 1} layers or more, experts)"
        )
    return np.ascontiguousarray(routed_experts[prompt_tokens:, list(layers)])
