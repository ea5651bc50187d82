"""The published estimators on a recorded training run, on the prompts that no setting was tuned on."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from depo.estimators.base import Candidate, Context, Estimator, Observation
from depo.estimators.dps import DpsEstimator
from depo.estimators.greso import GresoEstimator

VISITS = 44


def auroc(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    _, rank_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    mid_rank_N = (np.cumsum(count) - (count - 1) / 2)[rank_N]
    above, below = positive_N.sum(), (~positive_N).sum()
    return float((mid_rank_N[positive_N].sum() - above * (above + 1) / 2) / (above * below))


@pytest.mark.parametrize(
    ("estimator", "floor"),
    [(GresoEstimator(), 0.80), (DpsEstimator(), 0.88), (DpsEstimator(1.0, 1.0, 0.0), 0.87)],
    ids=["greso", "dps", "dps-as-published"],
)
def test_zero_variance_groups_are_told_apart(test_data: Path, estimator: Estimator, floor: float) -> None:
    """Full feedback: every prompt is predicted, then observed, at each of its visits 0 … 43."""
    path = test_data / "traces/dsrsub_qwen25math15b_grpo_epochs_n8.parquet"
    rows = [
        row
        for row in pq.read_table(path, columns=["prompt_id", "k_correct"]).to_pylist()
        if int(hashlib.sha256(row["prompt_id"].encode()).hexdigest(), 16) % 2
    ]
    candidates = [Candidate(row["prompt_id"], "?") for row in rows]
    scores, zero_variance = [], []
    for visit in range(VISITS):
        step = visit + 1
        context = Context(group_size=8, step=step)
        scores.append(1 - estimator.predict(candidates, context).p_informative)
        k_P = [int(row["k_correct"][visit]) for row in rows]
        zero_variance.append([k in (0, 8) for k in k_P])
        groups = [Observation(c.key, c.text, k, 8, step) for c, k in zip(candidates, k_P, strict=True)]
        estimator.observe(groups, context)
    assert auroc(np.concatenate(scores), np.concatenate(zero_variance)) >= floor
