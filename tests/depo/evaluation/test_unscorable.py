"""Samples without a verdict: what is measured on the rest must not look better than it is.

500 problems of every difficulty, 64 samples each; 2 in 1,000 of the wrong ones time out, as hard ones do.
"""

from __future__ import annotations

import numpy as np
import pytest

from depo.evaluation.in_training import named_measures
from depo.evaluation.report import estimator_blocks, largest_k, left_out
from depo.evaluation.results import measured
from depo.recipe.schema.evaluation import Suite
from depo.report.document import Paragraph

PROBLEMS, N = 500, 64
KS = [1, 2, 4, 8, 16, 32, 64]


def problems(timeouts: float) -> list[dict]:
    rng = np.random.default_rng(0)
    correct_N = rng.binomial(N, rng.beta(0.3, 0.7, PROBLEMS))
    lost_N = np.random.default_rng(1).binomial(N - correct_N, timeouts)
    return [
        {"key": str(i), "samples": N, "n": int(N - lost), "correct": int(correct), "classes": None}
        | {"truncated": 0, "unparseable": 0, "tokens": 5.0}
        for i, (correct, lost) in enumerate(zip(correct_N, lost_N, strict=True))
    ]


@pytest.fixture
def found() -> dict[float, dict]:
    return {
        timeouts: measured(problems(timeouts), "b", KS, [640], 100, 0) | {"problems": PROBLEMS}
        for timeouts in (0.0, 0.002)
    }


def test_coverage_is_of_nearly_all_problems(found) -> None:
    whole, gaps = found[0.0], found[0.002]
    assert gaps["left_out"]["64"] > 25, "else there is nothing to see"
    assert gaps["left_out"]["coverage"] <= 0.01 * PROBLEMS
    assert whole["left_out"]["coverage"] == 0
    assert gaps["coverage"]["curve"][0][1] == pytest.approx(whole["coverage"]["curve"][0][1], abs=0.01)
    assert gaps["coverage"]["extrapolated"][0][1] == pytest.approx(
        whole["coverage"]["extrapolated"][0][1], abs=0.01
    )


def test_the_headline_is_of_nearly_all_problems_and_the_others_are_told(found) -> None:
    assert largest_k({"benchmarks": {"b": found[0.0]}}) == "64"
    assert largest_k({"benchmarks": {"b": found[0.002]}}) == "32"
    assert left_out("b", found[0.0]) == []
    (line,) = left_out("b", found[0.002])
    assert f"{found[0.002]['left_out']['64']} at k = 64" in line


def test_policies_of_a_run_are_compared_on_the_same_problems() -> None:
    """The hard problem has two verdicts of four. Left out, pass@4 would be 1."""
    suite = Suite.model_validate(
        {"name": "s", "sampling": {"n": 4, "temperature": 1.0}, "benchmarks": {"b": {"source": "b.jsonl"}}}
    )
    rows = [
        {"benchmark": "b", "key": key, "correct": correct}
        for key, verdicts in (("easy", [True] * 4), ("hard", [False, None, None, False]))
        for correct in verdicts
    ]
    found = named_measures(suite, ["b"], rows)
    assert found["s/b/pass@4"] == 0.5
    assert found["s/b/pass@2"] == found["s/b/avg"] == 0.5


def test_an_estimator_without_any_verdict_is_not_graded() -> None:
    nothing = dict.fromkeys(("mae", "bias", "spearman"))
    (said,) = estimator_blocks({"estimator": nothing | {"type": "hybrid", "why_not": "", "without": ""}})
    assert said == Paragraph("Difficulty estimator: not graded; no problem has a verdict.")
