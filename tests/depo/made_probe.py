"""A probe whose pass rates are known: completions are drawn, no model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from depo.evaluation.answers import Votes
from depo.evaluation.evaluator import LoadedBenchmark, Row
from depo.evaluation.results import figures
from depo.probe.command import NAME, suggestion
from depo.probe.figures import probe_figures
from depo.probe.replayed import TRACE, replayed, write_trace
from depo.recipe.schema import ExactReward
from depo.recipe.schema.evaluation import Suite
from depo.types import Prompt

MISLABELLED = "p0"
"""Its gold answer is wrong: 6 of 8 completions agree on another."""


def made_suite(n: int) -> Suite:
    return Suite.model_validate(
        {
            "name": NAME,
            "reward": {"type": "exact"},
            "sampling": {"n": n, "temperature": 1.0, "max_new_tokens": 64},
            "extrapolate": [],
            "benchmarks": {NAME: {"source": {"type": "file", "path": "sums.jsonl"}}},
        }
    )


def made_rows(rate_N: np.ndarray, n: int) -> tuple[list[Prompt], list[Row]]:
    """Easy problems have short texts, so that there is something to be learned from a text. Every eighth
    completion is cut. All wrong answers differ but those to `MISLABELLED`."""
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(f"p{i}", f"{'add ' if rate > 0.5 else 'multiply twice '}{i} and {i + 1}", (1, 2), f"right {i}")
        for i, rate in enumerate(rate_N)
    ]
    rows: list[Row] = []
    for i, prompt in enumerate(prompts):
        for index in range(n):
            right = bool(rng.random() < rate_N[i])
            wrong = f"other {index}" if i != 0 or index >= 6 else "7"
            text = prompt.reference if right else wrong
            rows.append(row(prompt.key, index, text, right, "length" if index % 8 == 7 else "stop"))
    return prompts, rows


def row(key: str, index: int, completion: str, correct: bool | None, reason: str = "stop") -> dict[str, Any]:
    return {
        "key": key,
        "sample_index": index,
        "completion": completion,
        "tokens": 3,
        "finish_reason": reason,
        "correct": correct,
        "unparseable": not completion,
    }


def made_probe(prompts: list[Prompt], rows: list[Row], n: int, directory: Path) -> dict[str, Any]:
    """What ``depo probe`` stores."""
    suite = made_suite(n)
    with Votes(suite.verification) as votes:
        found = figures(LoadedBenchmark(NAME, prompts, ExactReward(), "sums.jsonl: all"), rows, suite, votes)
    document = {
        "model": {"name": "toy"},
        "suite": suite.model_dump(mode="json"),
        "benchmarks": {NAME: found},
        "provenance": {
            "command": "depo probe",
            "seeds": [0],
            "machine": {"processor": "a", "cores": 2, "gpus": []},
            "versions": {"python": "3"},
            "date": "2020-01-01",
            "commit": None,
        },
    }
    result = probe_figures(document, suite, prompts, rows)
    write_trace(prompts, rows, n, directory / TRACE)
    result["replay"] = replayed(directory / TRACE, suite.seed)
    return result | suggestion(result, suite, 20, 120)
