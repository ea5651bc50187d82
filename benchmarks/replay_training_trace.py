"""Every estimator and selector on a recorded GRPO run, by `depo replay`: what docs/estimators.md quotes.

1. Full feedback: how well is zero variance predicted? All estimators, `hybrid` without its parts.
2. Censored feedback: a quarter of the prompts picked at each step, five seeds; all pairs of estimator and
   selector, with and without places reserved for prompts not visited for long.

    python -m benchmarks.replay_training_trace --data DATA --out benchmarks/results/replay_training_trace

DATA holds traces/. Settings were chosen on prompts with even hash (``--split even``); odd ones are reported.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

TRACE = "traces/dsrsub_qwen25math15b_grpo_epochs_n8.parquet"


TUNED_BETA = "mopps:discount=0.9,prior_successes=0.5,prior_failures=0.5"


FULL = [
    "hybrid",
    TUNED_BETA,
    "mopps",
    "dps",
    "greso",
    "hybrid:text=none",
    "hybrid:drift=false",
    "hybrid:history=false",
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


def replay(data: Path, split: str, estimators: list[str], extra: list[str]) -> tuple[dict, str, str]:
    """One `depo replay`: its JSON, the command as a user would type it, and what it printed."""
    chosen = [part for name in estimators for part in ("--estimator", name)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "replay.json"
        options = [*chosen, "--group-size", "8", "--split", split, *extra]
        command = [sys.executable, "-m", "depo", "replay", str(data / TRACE), *options, "--json", str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        shown = shlex.join(["depo", "replay", f"DATA/{TRACE}", *options])
        return json.loads(out.read_text()), shown, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds traces/")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--split", choices=["odd", "even"], default="odd")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    full, full_command, full_text = replay(arguments.data, arguments.split, FULL, ["--seeds", "1"])
    chosen = [part for name in SELECTORS for part in ("--selector", name)]
    extra = [*chosen, "--budget", "0.25", "--seeds", str(arguments.seeds)]
    censored, censored_command, censored_text = replay(arguments.data, arguments.split, CENSORED, extra)
    text = "\n".join(
        [
            "# Estimators and selectors on a recorded training run",
            "",
            "Made by",
            "",
            f"    {shlex.join(['python', '-m', 'benchmarks.replay_training_trace', *shown_arguments()])}",
            "",
            "Seeds, versions and commit stand in the JSON beside this file, under `settings`.",
            "",
            f"    {full_command}",
            "",
            "```",
            full_text.split("\nCensored feedback")[0].rstrip(),
            "```",
            "",
            f"    {censored_command}",
            "",
            "```",
            "Censored feedback" + censored_text.split("\nCensored feedback")[1].split("\nJSON:")[0].rstrip(),
            "```",
        ]
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, result in (("full", full), ("censored", censored)):
        result["trace"]["source"] = f"DATA/{TRACE}"
        result["settings"]["command"] = full_command if name == "full" else censored_command
    for figures in censored["estimators"].values():
        figures.pop("full", None)  # said once, above, and not for every selector
    document = {"full": full, "censored": censored}
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(text.replace(str(arguments.data), "DATA") + "\n")
    print(text)


def shown_arguments() -> list[str]:
    """The arguments without this machine's directory of data."""
    shown = list(sys.argv[1:])
    if "--data" in shown:
        shown[shown.index("--data") + 1] = "DATA"
    return shown


if __name__ == "__main__":
    main()
