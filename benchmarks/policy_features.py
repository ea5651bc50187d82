"""What the prefill probe of a prompt adds to its text, on a single pass over the data.

1. The quickstart's policy is warm-started, and a pool is graded (25 % mastered, 25 % learnable,
   50 % impossible).
2. It is trained by GRPO on one pass over that pool, uniformly. No prompt comes twice: history says
   nothing, and an estimator has only what it knows of a prompt beforehand.
3. The arms differ in what `hybrid` is told: nothing, the text, one prefill by the policy, both. Selection
   being uniform and every draw keyed, all arms of a seed see the same rollouts (checked): they are paired.

Graded are the groups after the first quarter of the pass. Intervals: bootstrap over prompts.

    python -m benchmarks policy_features --out benchmarks/results/policy_features
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report import coded, made_by, write_result
from depo.errors import DONE
from depo.report.calibration import auroc, brier_skill
from depo.report.document import Document, Number, Paragraph, Table
from depo.report.provenance import provenance_blocks

ARMS = {
    "nothing": ("none", "false"),
    "text": ("ngrams", "false"),
    "policy": ("none", "true"),
    "text and policy": ("ngrams", "true"),
}

POOL, BATCH = 4000, 32
RESAMPLES = 1000
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"


def train(arm: str, seed: int, directory: Path) -> float:
    """One run; estimator seconds per step: what `select` (prefills included) and `estimate` took."""
    text, prefill_probe = ARMS[arm]
    overrides = [
        f"seed={seed}",
        f"steps={POOL // BATCH}",
        "data.train.size=10000",
        f"data.grade.pool={POOL}",
        "data.grade.heldout=200",
        f"batch.prompts={BATCH}",
        "estimator.type=hybrid",
        f"estimator.text={text}",
        f"selection={{type: uniform, refill: false, prefill_probe: {prefill_probe}}}",
        "evaluation.at_start=false",
        "evaluation.at_end=false",
    ]
    command = [sys.executable, "-m", "depo", "train", str(RECIPE), *overrides, "--run-dir", str(directory)]
    subprocess.run([*command, "--quiet"], check=True)
    metrics = pd.read_json(directory / "metrics.jsonl", lines=True)
    return float((metrics["seconds/select"] + metrics["seconds/estimate"]).mean())


def groups_of(directory: Path) -> pd.DataFrame:
    """One row a group of the last three quarters: step, key, prediction, was it informative."""
    columns = ["step", "prompt_key", "predicted_informative", "correct"]
    rollouts = pd.read_parquet(directory / "rollouts", columns=columns)
    grouped = rollouts.groupby(["step", "prompt_key"])
    groups = grouped.agg(
        predicted=("predicted_informative", "first"), k=("correct", "sum"), n=("correct", "size")
    )
    groups["informative"] = ((groups.k > 0) & (groups.k < groups.n)).astype(float)
    groups = groups.reset_index()
    return groups[groups.step > groups.step.max() / 4].reset_index(drop=True)


def interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def graded(arms: dict[str, pd.DataFrame], seed: int) -> dict[str, dict[str, object]]:
    """AUROC and Brier skill of each arm, and AUROC above ``text``, paired by prompt."""
    informative = arms["text"].informative.to_numpy()
    predicted = {}
    for name, groups in arms.items():
        merged = arms["text"][["step", "prompt_key", "informative"]].merge(groups, on=["step", "prompt_key"])
        assert len(merged) == len(informative), "arms saw other prompts"
        assert (merged.informative_x == merged.informative_y).all(), "arms saw other rollouts"
        predicted[name] = merged.predicted.to_numpy()
    rng = np.random.default_rng(seed)
    samples = [rng.integers(len(informative), size=len(informative)) for _ in range(RESAMPLES)]
    resampled = {
        name: np.array([auroc(p[s], informative[s]) for s in samples]) for name, p in predicted.items()
    }
    return {
        name: {
            "auroc": auroc(p, informative),
            "auroc_95": interval(resampled[name]),
            "brier_skill": brier_skill(p, informative),
            "above_text": auroc(p, informative) - auroc(predicted["text"], informative),
            "above_text_95": interval(resampled[name] - resampled["text"]),
        }
        for name, p in predicted.items()
    } | {"groups": {"n": len(informative), "informative_share": float(informative.mean())}}


def report(result: Mapping[str, Any]) -> Document:
    about = (
        "Zero-variance AUROC of `p_informative` before a prompt's only visit, groups after the first quarter "
        f"of the pass; 95 % intervals by bootstrap over prompts ({result['resamples']} resamples), "
        "differences paired."
    )
    rows = [
        [
            seed,
            arm,
            Number(found["auroc"], ".3f", *found["auroc_95"]),
            Number(found["above_text"], "+.3f", *found["above_text_95"]),
            Number(found["brier_skill"], "+.3f"),
            Number(found["estimator_seconds_per_step"], ".3f"),
        ]
        for seed, by_arm in result["seeds"].items()
        for arm, found in by_arm.items()
        if arm in ARMS
    ]
    counts = ", ".join(
        f"seed {seed}: {one['groups']['n']:,} ({one['groups']['informative_share']:.0%} informative)"
        for seed, one in result["seeds"].items()
    )
    return Document(
        "What the prefill probe of a prompt adds, on a single pass",
        [
            *provenance_blocks(result),
            Paragraph(coded(about)),
            Table(["seed", "told", "AUROC", "above text", "Brier skill", "estimator s/step"], rows),
            Paragraph(f"Groups graded: {counts}."),
        ],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, default=Path("runs/policy_features"))


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    result: dict[str, Any] = {
        "kind": "policy_features",
        "provenance": made_by(arguments, options.seeds),
        "resamples": RESAMPLES,
        "seeds": {},
    }
    for seed in options.seeds:
        frames, seconds = {}, {}
        for arm in ARMS:
            directory = options.runs / f"seed{seed}-{arm.replace(' ', '-')}"
            shutil.rmtree(directory, ignore_errors=True)
            seconds[arm] = train(arm, seed, directory)
            frames[arm] = groups_of(directory)
        found = graded(frames, seed)
        for arm in ARMS:
            found[arm]["estimator_seconds_per_step"] = seconds[arm]
        result["seeds"][str(seed)] = found
    for path in write_result(result, options.out.with_suffix(".json")):
        print(path)
    return DONE
