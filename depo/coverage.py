"""Which prompts are being left behind.

The effective-group ratio alone is a misleading headline: picking the same few prompts again and again makes
it high, while prompts that have become learnable wait unvisited. So these figures stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depo.types import Group

SCHEMA_VERSION = 1
FEW_VISITS = 3
"""A prompt that was visited less often than this counts as starved once it is informative."""
PERCENTILES = (50, 90, 99)


class Coverage:
    """Remembers of each visited prompt: number of visits, step of the last one, and whether the latest group
    with at least two verdicts was mixed. Memory grows with the visited prompts only."""

    def __init__(self) -> None:
        self._visits: dict[str, int] = {}
        self._last_step: dict[str, int] = {}
        self._informative: dict[str, bool] = {}

    def visits(self, key: str) -> int:
        """Groups of this prompt observed so far."""
        return self._visits.get(key, 0)

    def observe(self, groups: Sequence[Group], step: int) -> None:
        """Note the finished groups of ``step``. A group with fewer than two verdicts is a visit, but says
        nothing about whether the prompt is informative."""
        for group in groups:
            key = group.pick.prompt.key
            self._visits[key] = self._visits.get(key, 0) + 1
            self._last_step[key] = step
            if group.trials >= 2:
                self._informative[key] = group.has_signal

    def metrics(self, step: int) -> dict[str, float]:
        """Figures after ``step``; {} before the first visit.

        ``starvation``: share of the prompts whose latest group was mixed that were visited fewer than
        three times (left out while no prompt is informative). ``since_visit_pXX``: percentiles, over visited
        prompts, of the steps since their last visit.
        """
        if not self._visits:
            return {}
        informative = [key for key, mixed in self._informative.items() if mixed]
        since_V = step - np.fromiter(self._last_step.values(), dtype=np.int64)
        figures = {
            "prompts_visited": float(len(self._visits)),
            "prompts_informative": float(len(informative)),
        }
        if informative:
            starved = sum(self._visits[key] < FEW_VISITS for key in informative)
            figures["starvation"] = starved / len(informative)
        return figures | since_visit(since_V)

    def state_dict(self) -> dict[str, Any]:
        """JSON: per prompt key [visits, last step, was the latest graded group mixed, or null]."""
        return {
            "schema_version": SCHEMA_VERSION,
            "prompts": {
                key: [visits, self._last_step[key], self._informative.get(key)]
                for key, visits in self._visits.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"coverage state has schema_version {state['schema_version']}, expected {SCHEMA_VERSION}"
            )
        self._visits = {key: int(visits) for key, (visits, _, _) in state["prompts"].items()}
        self._last_step = {key: int(step) for key, (_, step, _) in state["prompts"].items()}
        self._informative = {
            key: bool(mixed) for key, (_, _, mixed) in state["prompts"].items() if mixed is not None
        }


def since_visit(since_V: np.ndarray) -> dict[str, float]:
    """Percentiles of the steps since the last visit, (V,) with V ≥ 1, by linear interpolation."""
    return {
        f"since_visit_p{percent}": float(value)
        for percent, value in zip(PERCENTILES, np.percentile(since_V, PERCENTILES), strict=True)
    }
