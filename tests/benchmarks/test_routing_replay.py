"""The ablation of the replay benchmark: its passes are the learner's, and it finds what was planted."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from benchmarks.prompt_routes import causes, logprobs_under, token_kl, whole_routes
from benchmarks.routing_cost import make_learner
from benchmarks.routing_replay import noisy_pair, random_prompts, rollouts


@pytest.fixture(scope="module")
def pair():
    return noisy_pair(0)


def test_under_r3_its_kl_is_the_learners(pair) -> None:
    model, noisy = pair
    batch, engine = rollouts(noisy, random_prompts(0)[:6], seed=0, tokens=12)
    learner = make_learner(copy.deepcopy(model), routing_replay="r3")
    replayed, _ = logprobs_under(learner, batch, batch.routes)
    kl = float(token_kl(replayed, batch.engine_logprobs).mean())
    assert [len(routes) for routes in whole_routes(engine, batch)] == [
        len(prompt) + len(completion) - 1
        for prompt, completion in zip(batch.prompt_ids, batch.completion_ids, strict=True)
    ]
    assert learner.update(batch).metrics["mismatch_kl"] == pytest.approx(kl, rel=1e-4)


def test_an_exact_engines_prompts_are_not_apart_and_a_planted_difference_is_found(pair) -> None:
    model, _ = pair
    batch, engine = rollouts(copy.deepcopy(model), random_prompts(1)[:4], seed=1, tokens=8)
    learner = make_learner(model)
    found = causes(learner, batch, engine)
    assert found["prompts_apart"] == 0
    assert found["kl_whole_replay"] < 1e-9
    first = tuple(batch.prompt_ids[0].tolist())
    routes = engine.prompt_routes[first]
    routes[-1, 0] = (np.sort(routes[-1, 0]) + 1) % 16  # other experts for the token that predicts the first
    found = causes(learner, batch, engine)
    share = np.mean([tuple(prompt.tolist()) == first for prompt in batch.prompt_ids])
    assert found["prompts_apart"] == pytest.approx(share)
    assert found["kl_whole_replay"] > 1e-4  # those routes were forced
