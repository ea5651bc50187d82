"""What the selector remembers of the prompts it has visited: when last, how often, with what.

Memory grows with visited prompts only. Prompts never visited have waited since the start of the run and are
expected to take what the others take on average.

Also how well the pool is covered. The effective-group ratio alone is a misleading headline: picking the same
few prompts again and again makes it high, while prompts that have become learnable wait unvisited.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from depo.types import Group, Prompt

# Weight of the newest group in a prompt's expected length. Lengths drift with the policy, and a group's own
# mean is already over G completions.
NEWEST = 0.5

FEW_VISITS = 3
"""A prompt that was visited less often than this counts as starved once it is informative."""

PERCENTILES = (50, 90, 99)

REST_AFTER = 2
"""Groups in a row with fewer than two verdicts after which a prompt rests."""


@dataclass(slots=True)
class Visited:
    """One prompt: last step, expected tokens of a completion, number of visits, whether the latest group with
    at least two verdicts was informative (None: there was none), and how many groups without came after
    it."""

    step: int
    tokens: float
    count: int
    informative: bool | None = None
    unscorable: int = 0

    def rests_at(self, step: int) -> bool:
        """k groups in a row without two verdicts: 2^k steps of rest after the latest, from ``REST_AFTER`` on.
        A few of them may be bad luck; a prompt that cannot be verified is tried ever less often."""
        return self.unscorable >= REST_AFTER and step - self.step <= 2**self.unscorable


class Visits:
    """What is known of each visited prompt, by key. ``fewest_trials``: verdicts without which a group says
    nothing."""

    def __init__(self, fewest_trials: int = 2) -> None:
        self.fewest_trials = fewest_trials
        self._visited: dict[str, Visited] = {}
        # Counted as they change: a step must not cost more the more prompts there are.
        self._last: Counter[int] = Counter()  # prompts by their last step
        self._informative, self._starved = 0, 0
        self._unscorable: set[str] = set()  # whose latest group had too few verdicts

    def record(self, groups: Sequence[Group], step: int) -> None:
        """Note that these groups were rolled out in ``step``. A group with too few verdicts is a
        visit, but says nothing about whether the prompt is informative."""
        for group in groups:
            if not group.rollouts:
                continue
            key = group.pick.prompt.key
            tokens = sum(len(rollout.token_ids) for rollout in group.rollouts) / len(group.rollouts)
            visited = self._visited.setdefault(key, Visited(step, tokens, 0))
            self._count(key, visited, -1)
            visited.step = max(visited.step, step)  # steps may be observed out of order
            visited.tokens = NEWEST * tokens + (1 - NEWEST) * visited.tokens
            visited.count += 1
            if group.trials >= self.fewest_trials:
                visited.informative = group.informative
                visited.unscorable = 0
            else:
                visited.unscorable += 1
            self._count(key, visited, 1)

    def _count(self, key: str, visited: Visited, by: int) -> None:
        """Take what is known of this prompt into the counts, or out of them."""
        if not visited.count:
            return
        self._last[visited.step] += by
        if not self._last[visited.step]:
            del self._last[visited.step]
        self._informative += by * bool(visited.informative)
        self._starved += by * (bool(visited.informative) and visited.count < FEW_VISITS)
        if visited.unscorable and by > 0:
            self._unscorable.add(key)
        else:
            self._unscorable.discard(key)

    def count(self, key: str) -> int:
        """Visits of this prompt so far."""
        return self._visited[key].count if key in self._visited else 0

    def counts(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Visits so far (N,) int64."""
        return np.array([self.count(prompt.key) for prompt in prompts], dtype=np.int64)

    def waited(self, prompts: Sequence[Prompt], step: int) -> np.ndarray:
        """Steps since the last visit, or since the start (N,) int64."""
        last = [self._visited[p.key].step if p.key in self._visited else 0 for p in prompts]
        return step - np.array(last, dtype=np.int64)

    def tokens(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Expected completion tokens of one rollout (N,), at least 1."""
        visited = self._visited
        mean = math.fsum(one.tokens for one in visited.values()) / max(len(visited), 1)
        expected_N = np.array([visited[p.key].tokens if p.key in visited else mean for p in prompts])
        return np.maximum(expected_N, 1.0)

    def expected(self, prompt: Prompt) -> float | None:
        """Tokens of one rollout; None before the first visit."""
        return self._visited[prompt.key].tokens if prompt.key in self._visited else None

    def since(self, step: int) -> set[str]:
        """Keys of the prompts visited in ``step`` or later."""
        return {key for key, one in self._visited.items() if one.step >= step}

    def resting(self, step: int) -> set[str]:
        """Keys of the prompts that rest at ``step`` because nothing could be verified of them."""
        return {key for key in self._unscorable if self._visited[key].rests_at(step)}

    def coverage(self, step: int) -> dict[str, float]:
        """Figures after ``step``; {} before the first visit.

        ``starvation``: share of the prompts whose latest group was informative that were visited fewer than
        three times (left out while no prompt is informative). ``since_visit_pXX``: percentiles, over visited
        prompts, of the steps since their last visit.
        """
        if not self._visited:
            return {}
        figures = {
            "prompts_visited": float(len(self._visited)),
            "prompts_informative": float(self._informative),
        }
        if self._informative:
            figures["starvation"] = self._starved / self._informative
        return figures | since_visit(step - np.repeat(list(self._last), list(self._last.values())))

    def state_dict(self) -> dict[str, Any]:
        """JSON: per key [last step, expected tokens, visits, informative or null, unscorable groups since].
        States without the last are read as well."""
        return {key: list(astuple(one)) for key, one in self._visited.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._visited = {key: Visited(*values) for key, values in state.items()}
        self._last, self._informative, self._starved, self._unscorable = Counter(), 0, 0, set()
        for key, visited in self._visited.items():
            self._count(key, visited, 1)


def since_visit(since_V: np.ndarray) -> dict[str, float]:
    """Percentiles of the steps since the last visit, (V,) with V ≥ 1, by linear interpolation."""
    return {
        f"since_visit_p{percent}": float(value)
        for percent, value in zip(PERCENTILES, np.percentile(since_V, PERCENTILES), strict=True)
    }
