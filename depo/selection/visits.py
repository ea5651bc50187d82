"""What the selector remembers of the prompts it has visited: when last, how often, how long the completions.

Memory grows with visited prompts only. Prompts never visited have waited since the start of the run and are
expected to take what the others take on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from depo.types import Group, Prompt

# Weight of the newest group in a prompt's expected length. Lengths drift with the policy, and a group's own
# mean is already over G completions.
NEWEST = 0.5


class Visits:
    """Last step, expected completion tokens and number of visits per visited prompt."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float, int]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def __contains__(self, key: str) -> bool:
        return key in self._last

    def record(self, groups: Sequence[Group], step: int) -> None:
        """Note that these groups were rolled out in ``step``."""
        for group in groups:
            if not group.rollouts:
                continue
            key = group.pick.prompt.key
            tokens = sum(len(rollout.token_ids) for rollout in group.rollouts) / len(group.rollouts)
            count = 1
            if key in self._last:
                _, expected, before = self._last[key]
                tokens = NEWEST * tokens + (1 - NEWEST) * expected
                count += before
            self._last[key] = (step, tokens, count)

    def waited(self, prompts: Sequence[Prompt], step: int) -> np.ndarray:
        """Steps since the last visit, or since the start (N,) int64."""
        never = (0, 0.0, 0)
        return np.array([step - self._last.get(prompt.key, never)[0] for prompt in prompts], dtype=np.int64)

    def tokens(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Expected completion tokens of one rollout (N,), at least 1."""
        mean = math.fsum(tokens for _, tokens, _ in self._last.values()) / max(len(self._last), 1)
        unknown = (0, mean, 0)
        expected_N = np.array([self._last.get(prompt.key, unknown)[1] for prompt in prompts])
        return np.maximum(expected_N, 1.0)

    def counts(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Visits so far (N,) int64."""
        never = (0, 0.0, 0)
        return np.array([self._last.get(prompt.key, never)[2] for prompt in prompts], dtype=np.int64)

    def since(self, step: int) -> set[str]:
        """Keys of the prompts visited in ``step`` or later."""
        return {key for key, (last, _, _) in self._last.items() if last >= step}

    def state_dict(self) -> dict[str, Any]:
        return {
            "keys": list(self._last),
            "steps": [step for step, _, _ in self._last.values()],
            "tokens": [tokens for _, tokens, _ in self._last.values()],
            "counts": [count for _, _, count in self._last.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        columns = zip(state["keys"], state["steps"], state["tokens"], state["counts"], strict=True)
        self._last = {key: (int(step), float(tokens), int(count)) for key, step, tokens, count in columns}
