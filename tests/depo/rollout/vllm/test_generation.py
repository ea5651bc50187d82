"""Rollouts of a pool of vLLM engines, against transformers on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depo.rollout.engine import Sampling
from depo.types import Request

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]


def by_sample(rollouts) -> dict:
    table = {(rollout.key, rollout.index): rollout for rollout in rollouts}
    assert len(table) == len(rollouts)
    return table


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_the_tempered_distribution(pair, temperature, requests):
    learner, pool = pair
    asked = requests(4, 4)
    rollouts = list(pool.generate(asked, Sampling(temperature, 32)))
    assert len(rollouts) == 16
    assert learner.largest_gap(asked, rollouts, temperature) < 1e-4
    assert learner.largest_gap(asked, rollouts, 1.7 - temperature) > 1e-2  # of no other temperature


def test_every_sample_comes_back_once_with_its_seed_and_the_version_served(served, prompt):
    learner, pool = served["moe"]
    version = learner.sync_into(pool)
    asked = [Request(prompt(1), (11, 12, 13), first_index=5), Request(prompt(2), (21,))]
    table = by_sample(list(pool.generate(asked, Sampling(1.0, 8))))
    assert {sample: rollout.seed for sample, rollout in table.items()} == {
        ("prompt 1", 5): 11,
        ("prompt 1", 6): 12,
        ("prompt 1", 7): 13,
        ("prompt 2", 0): 21,
    }
    for rollout in table.values():
        assert rollout.policy_version == version
        assert (rollout.token_ids.dtype, rollout.logprobs.dtype) == (np.int32, np.float32)
        assert len(rollout.token_ids) == len(rollout.logprobs) <= 8


def test_completions_end_with_any_end_token_included_or_at_the_limit(pair, requests):
    learner, pool = pair
    rollouts = list(pool.generate(requests(8, 12), Sampling(1.0, 24)))
    ends = {int(rollout.token_ids[-1]) for rollout in rollouts if rollout.finish_reason == "stop"}
    assert ends == set(learner.ends)
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1].tolist()) & set(learner.ends)
        if rollout.finish_reason == "length":
            assert len(rollout.token_ids) == 24
            assert rollout.token_ids[-1] not in learner.ends


def test_a_sample_does_not_depend_on_batch_order_or_engine(served, requests):
    _, pool = served["moe"]
    asked = requests(6, 4)
    together = by_sample(list(pool.generate(asked, Sampling(1.0, 24))))
    again = by_sample(list(pool.generate(asked, Sampling(1.0, 24))))
    backwards = by_sample(list(pool.generate(asked[::-1], Sampling(1.0, 24))))
    odd_one_first = by_sample(list(pool.generate([asked[5], *asked[:5:2]], Sampling(1.0, 24))))
    alone = by_sample([*pool.generate([asked[3]], Sampling(1.0, 24))])
    for other in (again, backwards, odd_one_first, alone):
        for sample, rollout in other.items():
            np.testing.assert_array_equal(rollout.token_ids, together[sample].token_ids)
            np.testing.assert_allclose(rollout.logprobs, together[sample].logprobs, atol=1e-4)


def test_different_seeds_give_different_samples(served, prompt):
    _, pool = served["moe"]
    rollouts = list(pool.generate([Request(prompt(0), tuple(range(32)))], Sampling(1.0, 8)))
    assert len({tuple(rollout.token_ids) for rollout in rollouts}) > 24


def chi_square_p(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Upper tail of Pearson's chi-square; cells expected under five times are merged into one."""
    expected = probabilities * counts.sum()
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_follow_the_full_softmax_although_the_model_ships_top_k_1(served, temperature, prompt):
    learner, pool = served["tied"]
    start, vocabulary = prompt(3), learner.model.config.vocab_size
    rollouts = pool.generate([Request(start, tuple(range(800)))], Sampling(temperature, 1))
    counts = np.bincount([int(rollout.token_ids[0]) for rollout in rollouts], minlength=vocabulary)

    def softmax(at: float) -> np.ndarray:
        return np.exp(
            np.concatenate(learner.score([(start.token_ids, (token,)) for token in range(vocabulary)], at))
        )

    assert chi_square_p(counts, softmax(temperature)) > 1e-3
    assert chi_square_p(counts, softmax(1.7 - temperature)) < 1e-3  # the test has the power to tell


def test_greedy_takes_the_most_likely_token_each_time(pair, requests):
    learner, pool = pair
    asked = requests(2, 1)
    for rollout, request in zip(
        sorted(pool.generate(asked, Sampling(0.0, 12)), key=lambda rollout: rollout.key), asked, strict=True
    ):
        ids = torch.tensor([[*request.prompt.token_ids, *rollout.token_ids.tolist()]])
        with torch.no_grad():
            best = learner.model(ids).logits[0].argmax(-1)[len(request.prompt.token_ids) - 1 : -1]
        assert rollout.token_ids.tolist() == best.tolist()


def test_tokens_are_told_while_no_sample_has_ended(served, monkeypatch, requests):
    _, pool = served["tied"]
    asked, sampling = requests(3, 2), Sampling(1.0, 24)
    whole = by_sample(list(pool.generate(asked, sampling)))
    monkeypatch.setattr("depo.rollout.vllm.pool.LOOK_SECONDS", 0.0)  # a look at every step
    told: list[int] = []
    monkeypatch.setattr(pool, "heartbeat", told.append)
    ended: list[int] = []
    for rollout in pool.generate(asked, sampling):
        ended.append(len(rollout.token_ids))
        assert len(told) >= max(ended) - 1, "each step before the one that gave its last token"
        np.testing.assert_array_equal(rollout.token_ids, whole[rollout.key, rollout.index].token_ids)
    assert sum(told) == sum(ended)
    assert max(told) <= 6, "one token a step for each of the six"
    monkeypatch.setattr("depo.rollout.vllm.pool.LOOK_SECONDS", 1e9)
    told.clear()
    list(pool.generate(asked, sampling))
    assert sum(told) == sum(ended), "the rest is told at the end"
    assert len([tokens for tokens in told if tokens]) == 1


def test_an_abandoned_stream_leaves_nothing_behind(served, requests, prompt):
    _, pool = served["moe"]
    next(pool.generate(requests(6, 8), Sampling(1.0, 64)))
    later = by_sample(list(pool.generate([Request(prompt(9), (1, 2))], Sampling(1.0, 8))))
    assert set(later) == {("prompt 9", 0), ("prompt 9", 1)}
