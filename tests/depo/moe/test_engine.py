"""Routes that the transformers engine records while it generates, against whole-sequence forward passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, hooked
from depo.rng import seed64
from depo.rollout.engine import Sampling
from depo.rollout.transformers import TransformersEngine
from depo.types import Prompt, Request, Rollout

END = (1, 2, 3, 4)  # a tenth of the vocabulary, so that rows end at different tokens and leave the batch


def generate(model: PreTrainedModel, routes: bool) -> list[Rollout]:
    prompts = [(7, 8, 9), (5,), (30, 31, 32, 33, 34)]
    requests = [
        Request(Prompt(str(p), "", ids, ""), tuple(seed64(0, "test", p, index=g) for g in range(6)))
        for p, ids in enumerate(prompts)
    ]
    engine = TransformersEngine(model, pad_token_id=0, eos_token_ids=END, batch_size=16)
    found = engine.generate(requests, Sampling(1.0, 12, routes))
    return sorted(found, key=lambda rollout: (rollout.key, rollout.index))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "deepseek_v3"])
def test_recorded_routes_are_those_of_the_tokens_fed_back(
    architecture: str, moe: Callable[[str], PreTrainedModel]
) -> None:
    model = moe(architecture)
    routers = find_routers(model)
    prompts = {"0": (7, 8, 9), "1": (5,), "2": (30, 31, 32, 33, 34)}
    rollouts = generate(model, routes=True)
    lengths = {len(rollout.token_ids) for rollout in rollouts}
    assert len(lengths) > 3
    assert 1 in lengths
    same = []
    for rollout in rollouts:
        prompt = prompts[rollout.key]
        assert rollout.routes is not None
        assert rollout.routes.shape == (len(rollout.token_ids) - 1, len(routers), 2)
        assert rollout.routes.dtype == np.uint8
        recorder = Recorder(routers)
        with torch.no_grad(), hooked(routers, observe=recorder):
            model(input_ids=torch.tensor([[*prompt, *rollout.token_ids.tolist()]]), use_cache=False)
        whole = recorder.routes().transpose(1, 0, 2)[len(prompt) : -1]
        same += (np.sort(whole, -1) == np.sort(rollout.routes, -1)).ravel().tolist()
    # With and without a cache differ in the last bits; a tie between two experts may fall either way.
    assert np.mean(same) > 0.995


def test_recording_changes_no_sample(moe: Callable[[str], PreTrainedModel]) -> None:
    recorded, plain = generate(moe("qwen3_moe"), True), generate(moe("qwen3_moe"), False)
    for first, second in zip(recorded, plain, strict=True):
        assert np.array_equal(first.token_ids, second.token_ids)
        assert np.array_equal(first.logprobs, second.logprobs)
        assert second.routes is None


def test_a_dense_engine_has_no_routes_to_give(make_dense: Callable[[], PreTrainedModel]) -> None:
    with pytest.raises(ValueError, match="dense"):
        generate(make_dense(), True)
