"""What one prefill tells of a prompt: asked for once per step and new prompt, and handed to the estimator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import G, pool_of, rolled_out

from depo.estimators.base import Candidate, Context, Estimates
from depo.estimators.mopps import MoppsEstimator
from depo.selection import SelectionSettings, Selector
from depo.selection.picks import observations
from depo.selection.rules import Thompson
from depo.types import Prompt


class Asked(MoppsEstimator):
    """Keeps what it was told about each candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, np.ndarray | None] = {}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        self.told |= {candidate.key: candidate.features for candidate in candidates}
        return super().predict(candidates, context)


@pytest.mark.parametrize("min_window", [0, 100], ids=["open", "closed"])
def test_every_candidate_is_probed_once_a_step(min_window: int) -> None:
    probed: list[str] = []

    def probe(prompts: Sequence[Prompt]) -> np.ndarray:
        probed.extend(prompt.key for prompt in prompts)
        return np.array([[float(int(prompt.key[:4], 16)), len(probed)] for prompt in prompts])

    settings = SelectionSettings(
        8, refill=True, min_window=min_window, window=100, candidates=20, revisit_after=None
    )
    selector = Selector(settings, Thompson(), 0, probe)
    pool = pool_of(60)
    for step in range(1, 8):
        probed.clear()
        estimator, groups = Asked(), []
        open_step = selector.begin(Context(G, step))
        while picks := selector.pick(open_step, pool, estimator, groups):
            groups += rolled_out(picks, step)
        assert len(set(probed)) == len(probed)
        assert set(probed) == estimator.told.keys()
        assert all(features is not None for features in estimator.told.values())
        for observation in observations(groups, step):
            assert observation.features is not None
            assert observation.features[0] == int(observation.key[:4], 16)
        selector.observe(open_step, groups)


def test_without_a_probe_nothing_is_told() -> None:
    selector = Selector(SelectionSettings(4, min_window=0), Thompson(), 0)
    estimator = Asked()
    picks = selector.pick(selector.begin(Context(G, 1)), pool_of(20), estimator)
    assert set(estimator.told.values()) == {None}
    assert {pick.features for pick in picks} == {None}
