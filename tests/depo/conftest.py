"""A policy and a recipe small enough to train in a test, with real Ray and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from depo.config import TinyMoePolicy

TINY = TinyMoePolicy(hidden_size=32, layers=2, heads=2, kv_heads=1, experts=4, expert_size=32, max_positions=64)

REWARD = '''
def judge(sample):
    """Mixed outcomes from an untrained policy: right when the completion holds an even digit."""
    return float(any(character in "02468" for character in sample.completion))
'''


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory) -> Path:
    """An untrained qwen3_moe with a character tokenizer, as a Hugging Face directory."""
    from depo.policy import tiny_moe

    directory = tmp_path_factory.mktemp("policy") / "tiny"
    tiny_moe.build(TINY, directory, seed=0)
    return directory


@pytest.fixture
def workdir(tmp_path, tiny_policy) -> Path:
    """A directory with a data set, a reward of one's own and ``tiny.yaml``; commands run there."""
    rows = [f'{{"question": "{a}+{b}=", "answer": "{a + b}"}}' for a in range(12) for b in range(10)]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "even_reward.py").write_text(REWARD)
    recipe = {
        "name": "tiny",
        "seed": 3,
        "steps": 6,
        "policy": {"type": "pretrained", "model": str(tiny_policy), "dtype": "float32"},
        "data": {"train": "sums.jsonl", "raw": True, "heldout": 10, "max_prompt_tokens": 16},
        "batch": {"prompts": 6, "group_size": 4},
        "rollout": {"max_new_tokens": 5},
        "reward": {"type": "function", "path": "even_reward:judge"},
        "selection": {"type": "thompson", "window": 24, "min_window": 12, "audit": 0.2},
        "learner": {"lr": 1e-3, "minibatches": 2, "epochs": 2},
        "checkpoint": {"every": 2},
        "resources": {"threads": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return tmp_path


def depo_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "depo", *arguments]


def run_depo(*arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it; RAY_ADDRESS of the surroundings does not leak in."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        depo_command(*arguments), cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
