"""The ablation of the replay benchmark: its passes are the learner's, and it finds what was planted."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from benchmarks.prompt_routes import causes, logprobs_under, prompt_of, token_kl, whole_routes
from benchmarks.routing_cost import make_learner
from benchmarks.routing_replay import noisy_pair, random_prompts, rollouts


@pytest.fixture(scope="module")
def pair():
    return noisy_pair(0)


def test_under_r3_its_kl_is_the_learners(pair) -> None:
    model, noisy = pair
    batch, engine = rollouts(noisy, random_prompts(0)[:6], seed=0, tokens=12)
    learner = make_learner(copy.deepcopy(model), routing_replay="r3")
    replayed, _ = logprobs_under(learner, batch, [sample.routes for sample in batch])
    kl = float(token_kl(replayed, [sample.logprobs[sample.loss_mask] for sample in batch]).mean())
    assert [len(routes) for routes in whole_routes(engine, batch)] == [len(sample) - 1 for sample in batch]
    assert learner.update(batch).metrics["mismatch_kl"] == pytest.approx(kl, rel=1e-4)


def test_an_exact_engines_prompts_are_not_apart_and_a_planted_difference_is_found(pair) -> None:
    model, _ = pair
    batch, engine = rollouts(copy.deepcopy(model), random_prompts(1)[:4], seed=1, tokens=8)
    learner = make_learner(model)
    found = causes(learner, batch, engine)
    assert found["prompts_apart"] == 0
    assert found["kl_whole_replay"] < 1e-9
    first = prompt_of(batch[0])
    routes = engine.prompt_routes[first]
    routes[-1, 0] = (np.sort(routes[-1, 0]) + 1) % 16  # other experts for the token that predicts the first
    found = causes(learner, batch, engine)
    share = np.mean([prompt_of(sample) == first for sample in batch])
    assert found["prompts_apart"] == pytest.approx(share)
    assert found["kl_whole_replay"] > 1e-4  # those routes were forced
