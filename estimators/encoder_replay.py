"""The groups an encoder learns from: the new ones of a fit, and older ones drawn again. H: groups kept."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estimators.base import Observation
from estimators.counts import tally


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """k of n, and the policy's mean token log-probability (nats, NaN where unknown)."""

    key: str
    text: str
    successes: int
    trials: int
    mean_logprob: float


def gathered(observations: Sequence[Observation]) -> list[ObservedGroup]:
    """One group a prompt, ordered by key, so that the order of observations does not matter.

    Counts of one prompt are added up, log-probabilities averaged by trials over those that are known. Groups
    without a scorable rollout are left out. Raises ValueError for impossible counts, and for a mean
    log-probability above 0 (float noise aside).
    """
    counts = tally(observations)
    texts: dict[str, str] = {}
    logprobs: dict[str, list[tuple[float, int]]] = {key: [] for key in counts}
    for observation in observations:
        if observation.mean_logprob > 1e-3:
            raise ValueError(
                f"prompt {observation.key}: a mean token log-probability cannot exceed 0, "
                f"found {observation.mean_logprob}"
            )
        texts[observation.key] = observation.text
        if observation.trials and not math.isnan(observation.mean_logprob):
            logprobs[observation.key].append((observation.mean_logprob, observation.trials))
    return [
        ObservedGroup(key, texts[key], *counts[key], weighted_mean(logprobs[key])) for key in sorted(counts)
    ]


def weighted_mean(values: Sequence[tuple[float, int]]) -> float:
    """NaN for no values. ``fsum``, so that order does not matter."""
    weight = sum(trials for _, trials in values)
    return math.fsum(value * trials for value, trials in values) / weight if weight else math.nan


class Replay:
    """The last ``memory`` groups, and uniform draws from them."""

    def __init__(self, memory: int) -> None:
        self._groups: deque[ObservedGroup] = deque(maxlen=memory)

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, groups: Sequence[ObservedGroup]) -> None:
        self._groups.extend(groups)

    def draw(self, n: int, rng: np.random.Generator) -> list[ObservedGroup]:
        """n different groups, or all there are."""
        rows = rng.choice(len(self._groups), size=min(n, len(self._groups)), replace=False)
        return [self._groups[row] for row in rows]

    def state(self) -> tuple[list[list[str]], np.ndarray]:
        """[key, text] of each group, and (H, 3) float64: successes, trials, mean log-probability."""
        numbers = [(group.successes, group.trials, group.mean_logprob) for group in self._groups]
        return (
            [[group.key, group.text] for group in self._groups],
            np.array(numbers, dtype=np.float64).reshape(-1, 3),
        )

    def restore(self, texts: Sequence[Sequence[str]], numbers_H3: np.ndarray) -> None:
        self._groups.clear()
        for (key, text), (successes, trials, logprob) in zip(texts, numbers_H3.tolist(), strict=True):
            self._groups.append(ObservedGroup(key, text, int(successes), int(trials), logprob))
