"""What the policy sees in a prompt: asked for once per step and new prompt, and handed to the estimator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import G, pool_of, rolled_out

from depo.recipe.schema import Batch, ThompsonSelection
from depo.selection import Selector
from depo.selection.picks import observations
from depo.types import Prompt
from estimators.base import Candidate, Context, Estimates
from estimators.mopps import MoppsEstimator


class Asked(MoppsEstimator):
    """Keeps what it was told about each candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, np.ndarray | None] = {}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        self.told |= {candidate.key: candidate.features for candidate in candidates}
        return super().predict(candidates, context)


@pytest.mark.parametrize("min_window", [0, 100], ids=["open", "closed"])
def test_every_candidate_is_looked_at_once_a_step(min_window: int) -> None:
    looked: list[str] = []

    def look(prompts: Sequence[Prompt]) -> np.ndarray:
        looked.extend(prompt.key for prompt in prompts)
        return np.array([[float(int(prompt.key[:4], 16)), len(looked)] for prompt in prompts])

    settings = ThompsonSelection(min_window=min_window, window=100, candidates=20, revisit_after=None)
    selector = Selector(settings, Batch(prompts=8, group_size=G), 0, look)
    pool = pool_of(60)
    for step in range(1, 8):
        looked.clear()
        estimator, groups = Asked(), []
        while picks := selector.pick(pool, estimator, Context(G, step), groups):
            groups += rolled_out(picks, step)
        assert len(set(looked)) == len(looked)
        assert set(looked) == estimator.told.keys()
        assert all(features is not None for features in estimator.told.values())
        for observation in observations(groups, step):
            assert observation.features is not None
            assert observation.features[0] == int(observation.key[:4], 16)
        selector.observe(groups)


def test_without_a_look_nothing_is_told() -> None:
    selector = Selector(ThompsonSelection(min_window=0), Batch(prompts=4, group_size=G), 0)
    estimator = Asked()
    picks = selector.pick(pool_of(20), estimator, Context(G, 1), [])
    assert set(estimator.told.values()) == {None}
    assert {pick.features for pick in picks} == {None}
