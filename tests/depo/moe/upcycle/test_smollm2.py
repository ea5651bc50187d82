"""A real model: SmolLM2-135M-Instruct as eight experts a layer answers as before."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.moe.upcycle.build import Upcycling, build


@torch.no_grad()
def test_exact_mode_equals_smollm2(smollm2: Path) -> None:
    dense = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    moe = build(dense, Upcycling(4, 2, 8, 0.0, "exact", "random", 0.0, 0), str(smollm2))
    assert moe.config.model_type == "mixtral"
    assert sum(p.numel() for p in moe.parameters()) == 214_279_488
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokens = tokenizer("The three sides of the triangle are 3, 4 and 5.", return_tensors="pt")["input_ids"]
    assert (moe(input_ids=tokens).logits - dense(input_ids=tokens).logits).abs().max() < 1e-4
