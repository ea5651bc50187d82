"""The probe's verdicts as a trace, replayed by depo's own selector: what would each estimator and rule save?

A prompt's rollouts are cut into visits of G. No rollout is in two visits, so nothing that an estimator has
seen comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depo.evaluation.evaluator import Row
from depo.files import file_aside
from depo.replay.censored import censored_feedback
from depo.replay.comparison import build_estimator, over_seeds, parse_spec, selection_block
from depo.replay.parquet import read_parquet
from depo.types import Prompt

TRACE = "trace.parquet"
ESTIMATORS = ("hybrid", "mopps", "spo", "dps", "greso")
RULES = ("thompson", "optimistic", "window", "threshold", "skip", "gumbel", "prioritized", "greedy")
PAIRS = [(name, RULES[0]) for name in ESTIMATORS] + [(ESTIMATORS[0], rule) for rule in RULES[1:]]
"""The first of both are a recipe's defaults."""

BUDGET, AUDIT, SEEDS = 0.25, 0.05, 5
FEWEST = 30  # informative groups that tell pairs apart, at least


def write_trace(prompts: Sequence[Prompt], rows: Sequence[Row], n: int, path: Path) -> None:
    """A training trace as ``depo replay`` reads it: visits of 4 rollouts with a verdict, of 2 where a prompt
    has fewer than 8. Prompts that lack a verdict for that are left out."""
    size = 4 if n >= 8 else 2
    visits = n // size
    verdicts: dict[str, list[bool]] = {prompt.key: [] for prompt in prompts}
    for row in rows:
        if row["correct"] is not None:
            verdicts[row["key"]].append(row["correct"])
    whole = [prompt for prompt in prompts if len(verdicts[prompt.key]) >= visits * size]
    counts = [np.reshape(verdicts[one.key][: visits * size], (visits, size)).sum(axis=1) for one in whole]
    columns = {
        "prompt_id": [one.key for one in whole],
        "question": [one.text for one in whole],
        "n": [size] * len(whole),
        "k_correct": [count.tolist() for count in counts],
    }
    with file_aside(path) as aside:
        pq.write_table(pa.table(columns), aside)


def replayed(path: Path, seed: int) -> dict[str, Any]:
    """``pairs``: for each (estimator, rule) the informative share of its picks and the ``saved`` share of
    rollouts, as [value, low, high] over seeds; ``uniform``: the informative share of all groups. ``why_not``
    says why nothing was replayed."""
    if not pq.read_metadata(path).num_rows:
        return {"why_not": "no prompt has two groups with verdicts"}
    trace, size = read_parquet(path, None, {}, None, None, seed)
    later_NT = trace.informative_NT[:, 1:]
    if later_NT.sum() < FEWEST:
        return {"why_not": f"{later_NT.sum()} groups of {size} were informative, it takes {FEWEST}"}
    uniform = float(later_NT.mean())
    found = []
    for estimator, rule in PAIRS:
        factory = partial(build_estimator, parse_spec(estimator, "estimator"))
        block = selection_block(parse_spec(rule, "rule"), len(trace.prompts), AUDIT)
        figures = over_seeds(
            [censored_feedback(trace, factory, block, BUDGET, size, seed + more) for more in range(SEEDS)]
        )
        share = [figures["effective_ratio"], *(figures["intervals"]["effective_ratio"] or (None, None))]
        saved = [1 - uniform / value if value else None for value in share]
        found.append({"estimator": estimator, "rule": rule, "informative": share, "saved": saved})
    prompts, visits = trace.trials_NT.shape
    figures = {"group_size": size, "visits": visits, "prompts": prompts, "uniform": uniform}
    return {**figures, "pairs": found, "why_not": ""}
