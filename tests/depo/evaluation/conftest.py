"""A tiny policy whose greedy completions differ from question to question."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


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
