"""What a prompt's text alone says before its first visit, as a function of the groups observed so far.

1. Prompts of the trace deepscaler_qwen25math7b_n128 (128 samples each of Qwen2.5-Math-7B), without those
   that it lists more than once. A group's k is drawn as Binomial(8, k/n), once, with seed 0.
2. Prompts whose key, int(sha256(prompt_id), 16), is even come in as observed groups, in batches of 64, in an
   order drawn with ``--seed``; every estimator sees each once. Odd ones are only ever predicted.
3. After each size, the beliefs about the odd prompts are graded: AUROC for zero variance, all wrong, all
   right; Brier skill of p_informative against the odd prompts' own base rate.

``frozen`` is the plain frozen encoder: trunk and heads on the last layer's token means. ``frozen, all
repairs`` adds what the preset ``repaired`` has besides training the backbone. ``--replays`` adds a table of
first visits out of documents that `depo replay --json` wrote.

Differences are paired by prompt (bootstrap, 1,000 resamples). ``--tune`` grades a fifth of the even
prompts instead, left out of the fitting: settings are chosen there.

    python -m benchmarks first_visit --data DATA --model MINILM --out benchmarks/results/first_visit

MINILM is a directory made by `depo fetch minilm MINILM`; DATA holds traces/. N: prompts graded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report import coded, made_by, write_result
from depo.errors import DONE
from depo.estimators.base import Candidate, Context, Estimator, Observation
from depo.estimators.depo import DepoEstimator
from depo.estimators.hybrid import HybridEstimator
from depo.files import read_json
from depo.report.calibration import auroc, brier_skill
from depo.report.document import Block, Code, CodeBlock, Document, Number, Paragraph, Section, Table
from depo.report.provenance import provenance_blocks

GROUP_SIZE = 8
BATCH = 64
TRACE = "traces/deepscaler_qwen25math7b_n128.parquet"
REFERENCE = "frozen"
RESAMPLES = 1000


ARMS: dict[str, dict[str, Any]] = {
    "hybrid": {"text": "ngrams"},
    "frozen": {"preset": "repaired", "frozen": True, "pooling": "last", "words": False},
    "frozen, all repairs": {"preset": "repaired", "frozen": True},
    "paper": {"preset": "paper"},
    "repaired": {"preset": "repaired"},
}

FINE_TUNED = ("paper", "repaired")  # the backbone learns as well


def build(arm: str, args: argparse.Namespace) -> Estimator:
    if arm == "hybrid":
        return HybridEstimator(seed=args.seed, **ARMS[arm])
    common = {"max_length": args.max_length, "precision": args.precision, "seed": args.seed}
    return DepoEstimator(model=args.model, **common, **ARMS[arm], **args.override.get(arm, {}))


@dataclass(frozen=True, slots=True)
class Trace:
    """Prompts with one simulated group each; ``fit`` and ``graded`` are row numbers."""

    keys: list[str]
    texts: list[str]
    successes: np.ndarray
    fit: np.ndarray
    graded: np.ndarray


def load(args: argparse.Namespace) -> Trace:
    table = pd.read_parquet(args.data / TRACE)
    repeated = set(table.loc[table["rep"] > 0, "prompt_id"])
    table = table[~table["prompt_id"].isin(repeated)].reset_index(drop=True)
    rate = (table["k_correct"] / table["n"]).to_numpy()
    successes = np.random.default_rng(0).binomial(GROUP_SIZE, rate)
    even = np.array(
        [int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2 == 0 for key in table["prompt_id"]]
    )
    rng = np.random.default_rng(args.seed)
    fit, graded = rng.permutation(np.flatnonzero(even)), rng.permutation(np.flatnonzero(~even))
    if args.tune:
        cut = len(fit) * 4 // 5
        fit, graded = fit[:cut], fit[cut:]
    if args.graded:
        graded = graded[: args.graded]
    return Trace(table["prompt_id"].tolist(), table["question"].tolist(), successes, fit, np.sort(graded))


def grade(arm: str, trace: Trace, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a size, with the zero-variance scores (N,) for paired differences."""
    estimator = build(arm, args)
    context = Context(group_size=GROUP_SIZE, step=0)
    candidates = [Candidate(trace.keys[row], trace.texts[row]) for row in trace.graded]
    successes_N = trace.successes[trace.graded]
    wrong_N, right_N = successes_N == 0, successes_N == GROUP_SIZE
    zero_variance_N = wrong_N | right_N
    rows, seen, cpu = [], 0, 0.0
    sizes = args.fine_tuned_sizes if arm in FINE_TUNED and args.fine_tuned_sizes else args.sizes
    for size in [min(size, len(trace.fit)) for size in sizes]:
        start = time.process_time()
        while seen < size:
            batch = trace.fit[seen : min(seen + BATCH, size)]
            estimator.observe(
                [
                    Observation(trace.keys[row], trace.texts[row], int(trace.successes[row]), GROUP_SIZE, 0)
                    for row in batch
                ],
                context,
            )
            seen += len(batch)
        cpu += time.process_time() - start
        start = time.process_time()
        estimates = estimator.predict(candidates, context)
        rows.append(
            {
                "estimator": arm,
                "groups": size,
                "zero_variance": auroc(-estimates.p_informative, zero_variance_N),
                "all_wrong": auroc(estimates.p_all_wrong, wrong_N),
                "all_right": auroc(estimates.p_all_right, right_N),
                "brier_skill": brier_skill(estimates.p_informative, ~zero_variance_N),
                "fit_cpu_seconds": round(cpu, 1),
                "predict_cpu_ms_per_prompt": round(1000 * (time.process_time() - start) / len(candidates), 2),
                "scores": -estimates.p_informative,
            }
        )
        print({key: value for key, value in rows[-1].items() if key != "scores"}, flush=True)
    return rows


def add_differences(rows: list[dict[str, Any]], zero_variance_N: np.ndarray) -> None:
    """Zero-variance AUROC minus the frozen encoder's after as many groups, with its 95 % interval."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(zero_variance_N), size=len(zero_variance_N)) for _ in range(RESAMPLES)]
    reference = {row["groups"]: row["scores"] for row in rows if row["estimator"] == REFERENCE}
    for row in rows:
        base_N = reference.get(row["groups"])
        if base_N is not None and row["estimator"] != REFERENCE:
            draws = [
                auroc(row["scores"][s], zero_variance_N[s]) - auroc(base_N[s], zero_variance_N[s])
                for s in samples
            ]
            row["over_frozen"] = row["zero_variance"] - auroc(base_N, zero_variance_N)
            row["over_frozen_95"] = [float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))]


def report(result: Mapping[str, Any]) -> Document:
    rows = [
        [
            row["estimator"],
            str(row["groups"]),
            *(Number(row[name]) for name in ("zero_variance", "all_wrong", "all_right")),
            Number(row["brier_skill"], "+.3f"),
            Number(row.get("over_frozen"), "+.3f", *row.get("over_frozen_95", ())),
            Number(row["fit_cpu_seconds"], ".0f"),
        ]
        for row in result["rows"]
    ]
    heads = ["estimator", "groups observed", "zero variance", "all wrong", "all right", "Brier skill"]
    heads += ["zero variance over frozen", "fit, CPU s"]
    about = (
        f"{result['prompts']}; {result['zero_variance_share']:.1%} of these without variance. AUROC on "
        "prompts never seen in fitting; difference to the frozen encoder after as many groups, paired by "
        "prompt, with its 95 % bootstrap interval."
    )
    blocks: list[Block] = [*provenance_blocks(result), Paragraph(about), Table(heads, rows)]
    for name, settings in result["settings"].items():
        if settings:
            blocks.append(Paragraph([f"{name}: ", Code(json.dumps(settings))]))
    if result["replays"]:
        blocks.append(replay_section(result["replays"]))
    return Document("First visit: what the text alone says", blocks)


def replay_section(replays: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        [
            replay["prior"] or "none",
            name,
            str(first["predictions"]),
            *(Number(first[key]) for key in ("auroc", "auroc_all_wrong", "auroc_all_right", "ece")),
        ]
        for replay in replays
        for name, first in replay["estimators"].items()
    ]
    about = (
        "From `depo replay` on the training trace: prompts with odd key before their first visit, in "
        "shuffled passes, AUROC of `p_informative` for informative groups."
    )
    heads = ["recorded pass rate", "estimator", "prompts", "zero variance", "all wrong", "all right", "ECE"]
    return Section(
        "First visits in a training run, with and without a recorded pass rate",
        [
            Paragraph(coded(about)),
            Table(heads, rows),
            *(CodeBlock(replay["command"]) for replay in replays),
        ],
    )


def first_visits(path: Path) -> dict[str, Any]:
    """What a document that ``depo replay --json`` wrote says of prompts not visited before."""
    document = read_json(path)
    return {
        "command": document["settings"]["command"],
        "prior": document["settings"]["prior"],
        "estimators": {
            name: figures["full"]["by_visits"]["0"] for name, figures in document["estimators"].items()
        },
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="directory that holds traces/")
    parser.add_argument("--model", required=True, help="encoder: directory or Hugging Face id")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 4000])
    parser.add_argument("--fine-tuned-sizes", type=int, nargs="+", help="other sizes where training is slow")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--graded", type=int, default=0, help="odd prompts graded, drawn by --seed; 0: all")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--override", type=json.loads, default={}, help="JSON: {ARM: {OPTION: VALUE}}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--replays", type=Path, nargs="+", default=[], help="JSON of `depo replay`, for a second table"
    )
    parser.add_argument("--tune", action="store_true", help="grade even prompts left out of the fitting")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    made = made_by(arguments, [options.seed])  # before the work: the tree may change meanwhile
    trace = load(options)
    rows = [row for arm in options.arms for row in grade(arm, trace, options)]
    successes_N = trace.successes[trace.graded]
    zero_variance_N = (successes_N == 0) | (successes_N == GROUP_SIZE)
    add_differences(rows, zero_variance_N)
    if options.out is None:
        return DONE
    for row in rows:
        del row["scores"]
    graded = "even" if options.tune else "odd"
    result = {
        "kind": "first_visit",
        "provenance": made,
        "prompts": f"{len(trace.fit)} even to fit on, {len(trace.graded)} {graded} graded",
        "zero_variance_share": float(zero_variance_N.mean()),
        "settings": {arm: {**ARMS[arm], **options.override.get(arm, {})} for arm in options.arms},
        "rows": rows,
        "replays": [first_visits(path) for path in options.replays],
    }
    for path in write_result(result, options.out.with_suffix(".json")):
        print(path)
    return DONE
