"""The benchmark of a real vLLM engine: what it measures needs a GPU, how it adds seeds up does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.vllm_engine import report
from depo.report.document import Figure, Table, plain

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "vllm_engine.json"


def test_the_quoted_cut_is_the_geometric_mean_over_seeds() -> None:
    result = json.loads(RESULT.read_text())
    tables = [block for block in report(result).walk() if isinstance(block, Table)]
    rows = [[*map(plain, row[:2]), row[-1]] for table in tables for row in table.rows]
    for dtype in ("bfloat16", "float32"):
        seeds = result["mismatch"].values()
        cuts = [seed[f"{dtype}/none/mismatch_kl"] / seed[f"{dtype}/r3/mismatch_kl"] for seed in seeds]
        (shown,) = (value for *names, value in rows if names == [dtype, "native ÷ replayed"])
        assert shown.value == pytest.approx(math.exp(sum(map(math.log, cuts)) / len(cuts)))
        assert shown.low < shown.value < shown.high


def test_the_picture_shows_the_mismatch_of_each_seed_by_routing() -> None:
    result = json.loads(RESULT.read_text())
    (figure,) = (block for block in report(result).walk() if isinstance(block, Figure))
    panels = {axes.get_title(): axes for axes in figure.draw().axes}
    for dtype in ("bfloat16", "float32"):
        shown = [list(line.get_ydata()) for line in panels[f"trainer in {dtype}"].lines]
        assert shown == [
            [seed[f"{dtype}/{replay}/mismatch_kl"] for replay in ("none", "r3")]
            for seed in result["mismatch"].values()
        ]
