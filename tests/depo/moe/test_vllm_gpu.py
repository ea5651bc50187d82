"""R3's capture inside vLLM, which needs a GPU: its routes against transformers' on the same sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, hooked
from depo.rollout.engine import Sampling
from depo.rollout.vllm.worker import VllmOptions, VllmWorker
from depo.types import Prompt, Request

pytestmark = [pytest.mark.gpu, pytest.mark.vllm]
SHAPE = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "mlp_only_layers": [0],  # a dense layer, which vLLM's array has and the record has not
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM returns routed experts on GPUs only")
def test_vllms_record_means_what_transformers_record_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE)).eval().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    routers = find_routers(model)
    options = VllmOptions(
        model=str(tmp_path),
        dtype="bfloat16",
        max_model_len=128,
        eos_token_ids=(1,),
        gpu_memory_utilization=0.3,
        routed_layers=tuple(router.layer for router in routers),
    )
    prompt = tuple(range(5, 45))  # longer than a block of the prefix cache, which the samples share
    requests = [Request(Prompt("0", "", prompt, ""), (11, 12, 13, 14))]
    rollouts = [
        rollout
        for look in VllmWorker(options).generate(requests, Sampling(1.0, 40, routes=True))
        for rollout in look.finished
    ]
    model.cuda()
    same = []
    for rollout in rollouts:
        assert rollout.routes is not None
        assert rollout.routes.shape == (len(rollout.token_ids) - 1, 2, 4)
        tokens = torch.tensor([[*prompt, *rollout.token_ids.tolist()]], device="cuda")
        recorder = Recorder(routers)
        with torch.no_grad(), hooked(routers, observe=recorder):
            model(input_ids=tokens, use_cache=False)
        whole = recorder.routes().transpose(1, 0, 2)[len(prompt) : -1]
        same += (np.sort(whole, -1) == np.sort(rollout.routes, -1)).ravel().tolist()
    # bfloat16 on both sides: most choices agree; were positions or layers shifted, a quarter would.
    assert np.mean(same) > 0.8
