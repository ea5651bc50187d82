"""What the prefill probe of a prompt adds to its text, on a single pass over the data.

1. The quickstart's policy is warm-started, and a pool is graded (25 % mastered, 25 % learnable,
   50 % impossible).
2. It is trained by GRPO on one pass over that pool, uniformly: no prompt comes twice, so that history says
   nothing and an estimator lives by what it knows of a prompt beforehand.
3. The arms differ in what `hybrid` is told: nothing, the text, one prefill by the policy, both. Selection
   being uniform and every draw keyed, all arms of a seed see the same rollouts (checked): they are paired.

Graded are the groups after the first quarter of the pass. Intervals: bootstrap over prompts.

    python -m benchmarks.policy_features --out benchmarks/results/policy_features
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from depo.report.calibration import auroc, brier_skill
from depo.report.provenance import package_versions, source_commit

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
    """One row a group of the last three quarters: step, key, prediction, was it mixed."""
    columns = ["step", "prompt_key", "predicted_informative", "correct"]
    rollouts = pd.read_parquet(directory / "rollouts", columns=columns)
    grouped = rollouts.groupby(["step", "prompt_key"])
    groups = grouped.agg(
        predicted=("predicted_informative", "first"), k=("correct", "sum"), n=("correct", "size")
    )
    groups["mixed"] = ((groups.k > 0) & (groups.k < groups.n)).astype(float)
    groups = groups.reset_index()
    return groups[groups.step > groups.step.max() / 4].reset_index(drop=True)


def interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def graded(arms: dict[str, pd.DataFrame], seed: int) -> dict[str, dict[str, object]]:
    """AUROC and Brier skill of each arm, and AUROC above ``text``, paired by prompt."""
    mixed = arms["text"].mixed.to_numpy()
    predicted = {}
    for name, groups in arms.items():
        merged = arms["text"][["step", "prompt_key", "mixed"]].merge(groups, on=["step", "prompt_key"])
        assert len(merged) == len(mixed), "arms saw other prompts"
        assert (merged.informative_x == merged.informative_y).all(), "arms saw other rollouts"
        predicted[name] = merged.predicted.to_numpy()
    rng = np.random.default_rng(seed)
    samples = [rng.integers(len(mixed), size=len(mixed)) for _ in range(RESAMPLES)]
    resampled = {name: np.array([auroc(p[s], mixed[s]) for s in samples]) for name, p in predicted.items()}
    return {
        name: {
            "auroc": auroc(p, mixed),
            "auroc_95": interval(resampled[name]),
            "brier_skill": brier_skill(p, mixed),
            "above_text": auroc(p, mixed) - auroc(predicted["text"], mixed),
            "above_text_95": interval(resampled[name] - resampled["text"]),
        }
        for name, p in predicted.items()
    } | {"groups": {"n": len(mixed), "informative_share": float(mixed.mean())}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, default=Path("runs/policy_features"))
    arguments = parser.parse_args()
    results = {}
    for seed in arguments.seeds:
        frames, seconds = {}, {}
        for arm in ARMS:
            directory = arguments.runs / f"seed{seed}-{arm.replace(' ', '-')}"
            shutil.rmtree(directory, ignore_errors=True)
            seconds[arm] = train(arm, seed, directory)
            frames[arm] = groups_of(directory)
        results[seed] = graded(frames, seed)
        for arm in ARMS:
            results[seed][arm]["estimator_seconds_per_step"] = seconds[arm]
    write(results, arguments.out)


def write(results: dict[int, dict], out: Path) -> None:
    settings = {
        "command": shlex.join(["python", "-m", "benchmarks.policy_features", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": package_versions(),
        "commit": source_commit(),
        "resamples": RESAMPLES,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"settings": settings, "seeds": results}, indent=2) + "\n")
    lines = [
        "# What the prefill probe of a prompt adds, on a single pass",
        "",
        f"`{settings['command']}` on {settings['machine']}, commit {settings['commit']}.",
        "Zero-variance AUROC of",
        "`p_informative` before a prompt's only visit, groups after the first quarter of the pass;",
        f"95 % intervals by bootstrap over prompts ({RESAMPLES} resamples), differences paired.",
        "",
        "| seed | told | AUROC | above text | Brier skill | estimator s/step |",
        "|---|---|---|---|---|---|",
    ]
    for seed, result in results.items():
        for arm in ARMS:
            row = result[arm]
            low, high = row["auroc_95"]
            above = "{:+.3f} [{:+.3f}, {:+.3f}]".format(row["above_text"], *row["above_text_95"])
            lines.append(
                f"| {seed} | {arm} | {row['auroc']:.3f} [{low:.3f}, {high:.3f}] | {above} | "
                f"{row['brier_skill']:+.3f} | {row['estimator_seconds_per_step']:.3f} |"
            )
    counts = ", ".join(
        f"seed {seed}: {r['groups']['n']:,} ({r['groups']['informative_share']:.0%} mixed)"
        for seed, r in results.items()
    )
    lines += ["", f"Groups graded: {counts}."]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
