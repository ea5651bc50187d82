"""What the end-to-end tests share: a recipe small enough to train in seconds, and the command line."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from depo.cli import main
from depo.recipe.schema import TinyMoePolicy

REWARD = '''
def judge(sample):
    """Right and wrong answers from an untrained policy: right when the completion holds an even digit."""
    return float(any(character in "02468" for character in sample.completion))
'''


def make_policy(directory: Path) -> Path:
    """An untrained qwen3_moe with a character tokenizer, as a Hugging Face directory."""
    from depo.toy import tiny_moe

    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "experts": 4, "expert_size": 32}
    tiny_moe.build(TinyMoePolicy(**sizes, max_positions=64), directory, seed=0)
    return directory


def make_workdir(directory: Path, tiny_policy: Path) -> Path:
    """A directory with a data set, a reward of one's own and ``tiny.yaml``; commands run there."""
    rows = [f'{{"question": "{a}+{b}=", "answer": "{a + b}"}}' for a in range(12) for b in range(10)]
    (directory / "sums.jsonl").write_text("\n".join(rows) + "\n")
    (directory / "even_reward.py").write_text(REWARD)
    recipe = {
        "name": "tiny",
        "seed": 3,
        "steps": 6,
        "policy": {"type": "pretrained", "model": str(tiny_policy), "dtype": "float32"},
        "data": {"train": "sums.jsonl", "raw": True, "heldout": 10, "max_prompt_tokens": 16},
        "batch": {"prompts": 6, "group_size": 4},
        "rollout": {"max_new_tokens": 5},
        "reward": {"type": "function", "path": "even_reward:judge"},
        "selection": {
            "type": "thompson",
            "window": 24,
            "min_window": 12,
            "audit": 0.2,
            "refill": True,
            "draws": 1,
            "candidates": 8192,
            "prefill_probe": False,
        },
        "learner": {"lr": 1e-3, "minibatches": 2, "epochs": 2, "baseline": "group"},
        "checkpoint": {"every": 2},
        "resources": {"threads": 1},
    }
    (directory / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return directory


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what depends on the clock."""
    clock = ("seconds", "tokens_per_second")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(clock)} for row in rows]


def depo_command(*arguments: str) -> list[str]:
    """The command line for a process of its own: where it is killed, or starts Ray itself."""
    return [sys.executable, "-m", "depo", *arguments]


def run_depo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, which has imported what it needs and, by the fixture ``cluster``,
    started Ray."""
    out, err = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as exit_:  # argparse's own
            status = int(exit_.code or 0)
    gc.collect()  # a learner that a failed run left in a cycle would keep its process
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
