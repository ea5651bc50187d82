"""An engine that rounds to bfloat16 beside a float32 trainer, on a tiny mixture: what R3 is for."""

from __future__ import annotations

import copy
from collections.abc import Callable

from transformers import PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.recipe import schema
from depo.rng import seed64
from depo.rollout.engine import Sampling
from depo.rollout.transformers import TransformersEngine
from depo.types import Prompt, Request, TrainSample


def test_replaying_a_noisy_engines_routes_cuts_the_mismatch(moe: Callable[[str], PreTrainedModel]) -> None:
    model = moe("qwen3_moe")
    prompts = [(5 + p, 7, 11) for p in range(12)]
    requests = [
        Request(Prompt(str(p), "", ids, ""), tuple(seed64(1, "test", p, index=g) for g in range(2)))
        for p, ids in enumerate(prompts)
    ]
    noisy = TransformersEngine(
        copy.deepcopy(model).bfloat16(), pad_token_id=0, eos_token_ids=[1], batch_size=32
    )
    rollouts = list(noisy.generate(requests, Sampling(1.0, 24, routes=True)))
    batch = [
        TrainSample.of_completion(
            prompts[int(r.key)], r.token_ids, r.logprobs, advantage=1.0, group=int(r.key), routes=r.routes
        )
        for r in rollouts
    ]
    found = {}
    for replay in ("none", "r3"):
        settings = schema.Learner.model_validate({"routing_replay": replay})
        learner = PolicyLearner(
            copy.deepcopy(model),
            settings,
            temperature=1.0,
            max_new_tokens=24,
            total_steps=1,
            pad_token_id=0,
        )
        found[replay] = learner.update(batch).metrics
    assert found["none"]["routing/agreement_engine"] < 1
    assert found["r3"]["routing/agreement_engine"] >= found["none"]["routing/agreement_engine"]
    assert found["none"]["mismatch_kl"] > 2 * found["r3"]["mismatch_kl"]
