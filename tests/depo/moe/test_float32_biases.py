"""Biases that choose experts stay in float32: they differ little beside the offset they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from depo.models.export import export_policy

OFFSET = 6.0  # of released models; in bfloat16 the next number is 6.03


def biases(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.endswith("correction_bias")}


@pytest.mark.parametrize("architecture", ["deepseek_v3", "glm4_moe", "dots1"])
def test_an_exported_policy_routes_like_the_one_in_memory(moe, architecture: str, tmp_path: Path) -> None:
    model = moe(architecture).to(torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            count = len(module.e_score_correction_bias)
            module.e_score_correction_bias = OFFSET + torch.linspace(-0.02, 0.02, count)
    expected = {name: value.clone() for name, value in biases(model).items()}
    export_policy(model, tmp_path)
    found = biases(AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto"))
    assert found
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
