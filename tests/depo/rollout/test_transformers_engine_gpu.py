"""Colocated rollouts on a CUDA device, against forward passes over whole sequences there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from depo.models.experts import keep_casts
from depo.models.precision import autocast, route_in_float32, set_compute_dtype
from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, hooked
from depo.rng import seed64
from depo.rollout.engine import Sampling
from depo.rollout.transformers import TransformersEngine, draw
from depo.types import Prompt, Request, Rollout

pytestmark = pytest.mark.gpu

QUESTIONS = ["1+1=", "12+34=", "7*8=", "123-45=", "99=", "5"]
IMPLEMENTATIONS = ["eager", "grouped_mm", "batched_mm", "depo_grouped"]
Generate = Callable[..., list[Rollout]]


@pytest.fixture
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.fixture
def model(tiny_policy, cuda) -> PreTrainedModel:
    """Untrained, with an output sharp enough that tokens differ clearly in probability and some rows end."""
    model = AutoModelForCausalLM.from_pretrained(tiny_policy).to(cuda)
    with torch.no_grad():
        model.model.norm.weight.mul_(8.0)
    return model


@pytest.fixture
def generate(tokenizer) -> Generate:
    def samples(model, sampling: Sampling, n: int = 8, inference=None, batch_size: int = 64) -> list[Rollout]:
        requests = [
            Request(
                Prompt(question, question, tuple(tokenizer.encode(question)), ""),
                tuple(seed64(0, "test", 0, question, i) for i in range(n)),
            )
            for question in QUESTIONS
        ]
        engine = TransformersEngine(
            model,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_ids=[tokenizer.eos_token_id],
            batch_size=batch_size,
            inference=inference,
        )
        found = engine.generate(requests, sampling)
        return sorted(found, key=lambda rollout: (rollout.key, rollout.index))

    return samples


@torch.no_grad()
def forward(model, prompt_ids, token_ids, temperature) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probabilities (T,) and experts of the tokens fed back (T − 1, L, K), without cache or padding."""
    tokens = torch.tensor([[*prompt_ids, *token_ids]], device=model.device)
    recorder = Recorder(find_routers(model))
    with hooked(find_routers(model), observe=recorder):
        logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    logprobs = (logits.double() / temperature).log_softmax(-1)
    picked = logprobs.gather(1, tokens[0, len(prompt_ids) :, None]).squeeze(1)
    return picked.cpu().numpy(), recorder.routes().transpose(1, 0, 2)[len(prompt_ids) : -1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_logprobs_and_routes_are_those_of_a_forward_pass(
    temperature: float, implementation: str, model: PreTrainedModel, tokenizer, generate: Generate
) -> None:
    model.set_experts_implementation(implementation)
    rollouts = generate(model, Sampling(temperature, 12, routes=True))
    assert Counter(rollout.finish_reason for rollout in rollouts).keys() == {"stop", "length"}
    same = []
    for rollout in rollouts:
        prompt = tokenizer.encode(rollout.key)
        logprobs, routes = forward(model, prompt, rollout.token_ids.tolist(), temperature)
        np.testing.assert_allclose(rollout.logprobs, logprobs, atol=1e-4)
        assert rollout.routes is not None
        assert rollout.routes.shape == routes.shape
        same += (np.sort(routes, -1) == np.sort(rollout.routes, -1)).ravel().tolist()
    # With and without a cache differ in the last bits; a tie between two experts may fall either way.
    assert np.mean(same) > 0.995


def test_the_same_seeds_give_the_same_samples(model: PreTrainedModel, generate: Generate) -> None:
    first, second = (generate(model, Sampling(1.7, 12)) for _ in range(2))
    assert len({tuple(rollout.token_ids) for rollout in first}) > len(first) // 2
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_other_company_changes_next_to_no_sample(model: PreTrainedModel, generate: Generate) -> None:
    """Other batches are other kernels and other last bits: a draw at a border may fall either way, most do
    not. And recording routes changes nothing."""
    whole = generate(model, Sampling(1.7, 12))
    for changed in (
        generate(model, Sampling(1.7, 12), batch_size=5),
        generate(model, Sampling(1.7, 12, True)),
    ):
        same = [np.array_equal(a.token_ids, b.token_ids) for a, b in zip(whole, changed, strict=True)]
        assert np.mean(same) > 0.95


def test_samples_are_those_of_the_cpu(model: PreTrainedModel, tiny_policy, generate: Generate) -> None:
    here = generate(model, Sampling(1.0, 8))
    there = generate(model.to("cpu"), Sampling(1.0, 8))
    same = [np.array_equal(a.token_ids, b.token_ids) for a, b in zip(here, there, strict=True)]
    assert np.mean(same) > 0.95


def test_bfloat16_generates_what_its_forward_pass_scores(
    model: PreTrainedModel, tokenizer, generate: Generate
) -> None:
    set_compute_dtype(model, torch.bfloat16)
    route_in_float32(model)

    @contextmanager
    def inference():
        with torch.no_grad(), autocast(model), keep_casts():
            yield

    off = []
    for rollout in generate(model, Sampling(1.0, 12), inference=inference):
        assert np.isfinite(rollout.logprobs).all()
        with inference():
            logprobs, _ = forward(model, tokenizer.encode(rollout.key), rollout.token_ids.tolist(), 1.0)
        off += np.abs(rollout.logprobs - logprobs).tolist()
    assert np.mean(off) < 0.1


def test_draws_over_a_large_vocabulary_follow_it(cuda: torch.device) -> None:
    """One row takes another kernel than many; borders are float64's."""
    generator = torch.Generator().manual_seed(3)
    logits_V = torch.randn(50_000, generator=generator) * 3
    numbers = np.linspace(0, 1, 64, endpoint=False)
    logits_RV = logits_V.expand(64, -1).to(cuda)
    tokens, logprobs = draw(logits_RV, numbers, 1.0)
    alone = [draw(logits_RV[:1], numbers[r : r + 1], 1.0)[0][0] for r in range(64)]
    assert np.mean(tokens == np.array(alone)) > 0.95
    exact = logits_V.double().log_softmax(-1)
    cumulative = exact.exp().cumsum(0)
    assert np.mean(torch.searchsorted(cumulative, torch.from_numpy(numbers)).numpy() == tokens) > 0.95
    np.testing.assert_allclose(logprobs, exact[torch.from_numpy(tokens)].numpy(), atol=1e-4)
