"""A tiny policy whose greedy completions differ from question to question, and a suite without mathematics,
whose workers would take seconds to start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CHEAP_SUITE = """\
name: sums
raw: true
max_prompt_tokens: 16
reward: {type: exact}
sampling: {n: 2, temperature: 1.0, max_new_tokens: 40}
dtype: float32
threads: 1
resamples: 20
verification: {workers: 1, timeout: 20}
benchmarks:
  sums: {source: {type: file, path: sums.jsonl, limit: 30}}
"""


@pytest.fixture(scope="session")
def talkative_policy(tmp_path_factory, tiny_policy: Path) -> Path:
    """The tiny policy with larger weights. As initialised its tied embedding outweighs its layers, and greedy
    decoding repeats the question's last character for ever."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("talkative") / "tiny"
    shutil.copytree(tiny_policy, directory)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3, generator=generator)
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def cheap(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``cheap.yaml``: 30 problems, 2 samples each."""
    (workdir / "cheap.yaml").write_text(CHEAP_SUITE)
    monkeypatch.chdir(workdir)
    return workdir
