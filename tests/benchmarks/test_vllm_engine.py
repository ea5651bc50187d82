"""The benchmark of a real vLLM engine: what is stored is what is shown. What it measures needs a GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

from benchmarks.vllm_engine import markdown

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "vllm_engine"


def test_the_report_follows_from_the_stored_figures_alone() -> None:
    document = json.loads(RESULT.with_suffix(".json").read_text())
    assert markdown(document) == RESULT.with_suffix(".md").read_text()


def test_the_quoted_cut_is_the_geometric_mean_over_seeds() -> None:
    seeds = json.loads(RESULT.with_suffix(".json").read_text())["mismatch"].values()
    for dtype in ("bfloat16", "float32"):
        cuts = [seed[f"{dtype}/none/mismatch_kl"] / seed[f"{dtype}/r3/mismatch_kl"] for seed in seeds]
        mean = math.exp(sum(map(math.log, cuts)) / len(cuts))
        assert (
            f"| {dtype} | native ÷ replayed | KL, geometric mean | {mean:.2f} ["
            in RESULT.with_suffix(".md").read_text()
        )
