"""The probe's verdicts as a trace, replayed by depo's own selector: what would each estimator and rule save?

A prompt's rollouts are cut into visits of G. No rollout is in two visits, so nothing that an estimator has seen
comes again, and the first visit is one where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""The first of both are the defaults: each estimator with the default rule, each rule with the default
estimator."""

BUDGET, AUDIT, SEEDS = 0.25, 0.05, 5
FEWEST = 30  # informative groups


def write_trace(prompts: Sequence[Prompt], rows: Sequence[Row], n: int, path: Path) -> bool:
    """A training trace as ``depo replay`` reads it: visits of 4 rollouts with a verdict, of 2 where there are
    fewer than 8. False, and nothing written, where that gives no two visits."""
    size = 4 if n >= 8 else 2
    visits = n // size
    verdicts: dict[str, list[bool]] = {prompt.key: [] for prompt in prompts}
    for row in rows:
        if row["correct"] is not None:
            verdicts[row["key"]].append(row["correct"])
    whole = [prompt for prompt in prompts if len(verdicts[prompt.key]) >= visits * size]
    if visits < 2 or not whole:
        return False
    counts = [np.reshape(verdicts[one.key][: visits * size], (visits, size)).sum(axis=1) for one in whole]
    columns = {
        "prompt_id": [one.key for one in whole],
        "question": [one.text for one in whole],
        "n": [size] * len(whole),
        "k_correct": [count.tolist() for count in counts],
    }
    with file_aside(path) as aside:
        pq.write_table(pa.table(columns), aside)
    return True


def replayed(path: Path, seed: int) -> dict[str, Any]:
    """``pairs``: for each (estimator, rule) the informative share of its picks and the ``saved`` share of
    rollouts, as [value, low, high] over seeds; ``uniform``: the informative share of all groups. ``why_not``
    says why nothing was replayed."""
    if not path.is_file():
        return {"why_not": "it takes two groups of a prompt: 4 rollouts or more"}
    trace, size = read_parquet(path, None, {}, None, None, seed)
    later_NT = trace.informative_NT[:, 1:]
    if later_NT.sum() < FEWEST:
        return {
            "why_not": f"{int(later_NT.sum())} groups of {size} were informative; {FEWEST} are the least that "
            "tell estimators apart"
        }
    uniform = float(later_NT.mean())
    pairs = [(name, RULES[0]) for name in ESTIMATORS] + [(ESTIMATORS[0], rule) for rule in RULES[1:]]
    found = []
    for estimator, rule in pairs:
        factory = partial(build_estimator, parse_spec(estimator, "estimator"))
        block = selection_block(parse_spec(rule, "rule"), len(trace.prompts), AUDIT)
        figures = over_seeds(
            [censored_feedback(trace, factory, block, BUDGET, size, seed + s) for s in range(SEEDS)]
        )
        share = [figures["effective_ratio"], *(figures["intervals"]["effective_ratio"] or (None, None))]
        saved = [1 - uniform / value if value else None for value in share]
        found.append({"estimator": estimator, "rule": rule, "informative": share, "saved": saved})
    return {
        "group_size": size,
        "visits": int(trace.trials_NT.shape[1]),
        "prompts": len(trace.prompts),
        "uniform": uniform,
        "pairs": found,
        "why_not": "",
    }


def best(replay: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The pair that saves most; None where none was replayed."""
    return max(replay.get("pairs", []), key=lambda pair: pair["informative"][0], default=None)
