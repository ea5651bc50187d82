"""Every estimator and selector on a recorded GRPO run, by `depo replay`: what docs/benchmarks.md quotes.

1. Full feedback: how well is zero variance predicted? All estimators, `hybrid` without its parts.
2. Censored feedback: a quarter of the prompts picked at each step, five seeds; all pairs of estimator and
   selector, with and without places reserved for prompts not visited for long.

    python -m benchmarks replay_training_trace --data DATA --out benchmarks/results/replay_training_trace

DATA holds traces/. Settings were chosen on prompts with even hash (``--split even``); odd ones are reported.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_result
from depo.errors import DONE, UserError
from depo.files import read_json
from depo.report.calibration import STRATA
from depo.report.document import UNKNOWN, Block, CodeBlock, Document, Number, Paragraph, Section, Table, Text
from depo.report.provenance import provenance_blocks

TRACE = "traces/dsrsub_qwen25math15b_grpo_epochs_n8.parquet"
TUNED_BETA = "mopps:discount=0.9,prior_successes=0.5,prior_failures=0.5"

FULL = [
    "hybrid",
    TUNED_BETA,
    "mopps",
    "dps",
    "greso",
    "hybrid:text=none",
]

CENSORED = ["hybrid", TUNED_BETA, "mopps", "dps", "greso", "uniform"]

SELECTORS = [
    "optimistic",
    "optimistic:revisit_after=auto",
    "thompson",
    "thompson:revisit_after=null",
    "greedy",
    "greedy:revisit_after=null",
    "window",
    "window:revisit_after=null",
    "threshold",
    "gumbel",
    "skip",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="directory that holds traces/")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--split", choices=["odd", "even"], default="odd")
    parser.add_argument("--seeds", type=int, default=5, help="of the censored replays (%(default)s)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    made = made_by(arguments, range(options.seeds))
    full = replay(options.data, options.split, FULL, ["--seeds", "1"])
    chosen = [part for name in SELECTORS for part in ("--selector", name)]
    extra = [*chosen, "--budget", "0.25", "--seeds", str(options.seeds)]
    censored = replay(options.data, options.split, CENSORED, extra)
    for figures in full["estimators"].values():
        figures.pop("censored", None)  # of one seed
    for figures in censored["estimators"].values():
        figures.pop("full", None)  # said once, above, and not for every selector
    result = {"kind": "replay_training_trace", "provenance": made, "full": full, "censored": censored}
    for path in write_result(result, options.out.with_suffix(".json")):
        print(path)
    return DONE


def replay(data: Path, split: str, estimators: Sequence[str], extra: Sequence[str]) -> dict[str, Any]:
    """What one `depo replay` found; its command stands there as a user would type it, the traces in DATA.
    Raises UserError for a trace that is not there, RuntimeError when the replay fails."""
    if not (data / TRACE).exists():
        raise UserError(f"--data {data}: no {TRACE} in it")
    chosen = [part for name in estimators for part in ("--estimator", name)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "replay.json"
        options = [*chosen, "--group-size", "8", "--split", split, *extra]
        command = [sys.executable, "-m", "depo", "replay", str(data / TRACE), *options, "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"depo replay ended with status {done.returncode}: {done.stderr.strip()}")
        found = read_json(out)
    found["trace"]["source"] = f"DATA/{TRACE}"
    found["settings"]["command"] = shlex.join(["depo", "replay", f"DATA/{TRACE}", *options])
    return found


# ---------------------------------------------------------------- report

QUALITY = {
    "all-wrong": "auroc_all_wrong",
    "all-right": "auroc_all_right",
    "AP": "average_precision",
    "Brier": "brier",
    "skill": "brier_skill",
    "ECE": "ece",
    "Spearman": "spearman",
    "false rejections": "false_reject_rate",
}
VISITS = {"never seen": "never_visited", "audit AUROC": "audit_auroc", "audit skill": "audit_brier_skill"}


def report(result: Mapping[str, Any]) -> Document:
    full, censored = result["full"], result["censored"]
    trace, settings = full["trace"], full["settings"]
    about = (
        f"{trace['source']}: {settings['prompts_in_trace']} prompts, {trace['steps']} steps. Of these, "
        f"{settings['prompts']} prompts are graded (split {settings['split']}); the estimators see them only."
    )
    some = next(iter(censored["estimators"].values()))["censored"]
    picked = f"{some['picks_per_step']} picks a step, {some['seeds']} seeds; intervals are 95 % over seeds."
    return Document(
        "Estimators and selectors on a recorded training run",
        [
            *provenance_blocks(result),
            Paragraph(about),
            Section("Full feedback", [CodeBlock(settings["command"]), *full_tables(full)]),
            Section(
                "Censored feedback",
                [CodeBlock(censored["settings"]["command"]), Paragraph(picked), censored_table(censored)],
            ),
        ],
    )


def full_tables(full: Mapping[str, Any]) -> list[Block]:
    by_name = {name: figures["full"] for name, figures in full["estimators"].items()}
    first, *others = by_name
    pairs = by_name[first]["differences"]
    if full["trace"]["smoother"]:
        by_name["smoother (sees the future)"] = full["trace"]["smoother"]
    quality: list[list[Text]] = []
    strata: list[list[Text]] = []
    labels = [label for label, _, _ in STRATA if any(label in one["by_visits"] for one in by_name.values())]
    for name, one in by_name.items():
        seconds = one.get("estimator_seconds_per_step")
        quality.append(
            [
                name,
                measured(one, "auroc"),
                *(Number(one[key], ".4f") for key in QUALITY.values()),
                Number(None if seconds is None else 1000 * seconds, ".1f"),
            ]
        )
        by_visits = (one["by_visits"].get(label) for label in labels)
        cells = [UNKNOWN if c is None else f"{c['auroc']:.4f} / {c['ece']:.4f}" for c in by_visits]
        strata.append([name, *cells])
    minus: list[list[Text]] = [
        [other, *(minus_first(pairs[other], key) for key in ("auroc", "brier"))]
        for other in [*others, *(name for name in pairs if name not in by_name)]
    ]
    intervals = "AUROC of zero variance [95 %, bootstrap over prompts]:"
    return [
        Table(["estimator", "AUROC", *QUALITY, "ms/step"], quality, intervals),
        Table(["estimator", *labels], strata, "AUROC / ECE by visits so far:"),
        Table(["estimator", "AUROC", "Brier"], minus, f"Minus {first} [95 %, paired by prompt]:"),
    ]


def censored_table(censored: Mapping[str, Any]) -> Table:
    rows: list[list[Text]] = []
    for name, figures in censored["estimators"].items():
        one = figures["censored"]
        since = "/".join(f"{one[f'since_visit_p{percent}']:.0f}" for percent in (50, 90, 99))
        shares = (measured(one, key) for key in ("effective_ratio", "starvation"))
        visits = (Number(one[key], ".4f") for key in VISITS.values())
        milliseconds = Number(1000 * one["estimator_seconds_per_step"], ".1f")
        rows.append([*name.split("+", 1), *shares, *visits, since, milliseconds])
    heads = ["estimator", "selector", "effective ratio", "starvation", *VISITS]
    return Table([*heads, "since visit p50/p90/p99", "ms/step"], rows)


def measured(figures: Mapping[str, Any], key: str) -> Number:
    return Number(figures[key], ".4f", *(figures["intervals"].get(key) or ()))


def minus_first(pair: Mapping[str, Any], key: str) -> Number:
    """The pair is the first estimator minus this one."""
    low, high = pair[f"{key}_interval"] or (None, None)
    if pair[key] is None or low is None:
        return Number(None if pair[key] is None else -pair[key], "+.4f")
    return Number(-pair[key], "+.4f", -high, -low)
