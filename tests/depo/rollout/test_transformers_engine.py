"""Colocated rollouts, against `generate`, full-sequence forward passes and known SplitMix64 outputs."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3NextConfig, Qwen3NextForCausalLM

from depo.rng import seed64
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.transformers import PACK_AT, TransformersEngine, draw, uniforms
from depo.types import Prompt, Request

QUESTIONS = ["1+1=", "12+34=", "7*8=", "123-45=", "99=", "5"]


@pytest.fixture
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.fixture
def model(tiny_policy):
    """Untrained, with an output sharp enough that tokens differ clearly in probability and some rows end."""
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    with torch.no_grad():
        model.model.norm.weight.mul_(8.0)
    return model


@pytest.fixture
def engine(model, tokenizer):
    return make_engine(model, tokenizer)


def make_engine(model, tokenizer, batch_size=64):
    return TransformersEngine(
        model,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=[tokenizer.eos_token_id],
        batch_size=batch_size,
    )


def requests(tokenizer, n=8, questions=QUESTIONS, first_index=0):
    return [
        Request(
            Prompt(question, question, tuple(tokenizer.encode(question)), ""),
            tuple(seed64(0, "test", 0, question, first_index + i) for i in range(n)),
            first_index,
        )
        for question in questions
    ]


def by_sample(rollouts):
    return {(rollout.key, rollout.index): rollout for rollout in rollouts}


def same_samples(first, second):
    assert first.keys() == second.keys()
    for sample, rollout in first.items():
        np.testing.assert_array_equal(rollout.token_ids, second[sample].token_ids)
        np.testing.assert_allclose(rollout.logprobs, second[sample].logprobs, atol=1e-5)


@torch.no_grad()
def true_logprobs(model, prompt_ids, token_ids, temperature):
    """Log-probabilities from the logits of the whole sequence, without cache or padding."""
    ids = torch.tensor([[*prompt_ids, *token_ids]])
    logits = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].double() / temperature
    return logits.log_softmax(-1)[torch.arange(len(token_ids)), torch.tensor(token_ids)].numpy()


def test_uniforms_are_those_of_the_published_generator():
    # First outputs of SplitMix64 started at 1234567, as listed with Vigna's reference implementation.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    drawn = [uniforms(np.array([1234567], dtype=np.uint64), position)[0] for position in range(4)]
    np.testing.assert_allclose(drawn, [output / 2**64 for output in outputs], atol=2**-48)


def test_uniforms_are_uniform_and_independent_between_neighbouring_seeds():
    numbers = uniforms(np.arange(20_000, dtype=np.uint64), 3)
    assert 0 <= numbers.min() <= numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square, 19 degrees of freedom, p = 0.0007
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_logprobs_are_those_of_the_distribution_drawn_from(engine, model, tokenizer, temperature):
    prompts = {request.prompt.key: request.prompt.token_ids for request in requests(tokenizer)}
    for rollout in engine.generate(requests(tokenizer, n=4), Sampling(temperature, 6)):
        expected = true_logprobs(model, prompts[rollout.key], rollout.token_ids.tolist(), temperature)
        np.testing.assert_allclose(rollout.logprobs, expected, atol=1e-4)


def test_a_model_with_linear_attention_keeps_a_state_for_each_row(tokenizer):
    """Its cache holds states that are no keys and values; they too are copied to rows and leave with them."""
    settings = Qwen3NextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = Qwen3NextForCausalLM(settings).eval()
    prompts = {request.prompt.key: request.prompt.token_ids for request in requests(tokenizer)}
    rollouts = list(make_engine(model, tokenizer).generate(requests(tokenizer), Sampling(1.0, 12)))
    lengths = np.array([len(rollout.token_ids) for rollout in rollouts])
    assert (lengths < 9).mean() > PACK_AT  # the others were packed together and went on
    assert lengths.max() == 12
    for rollout in rollouts:
        expected = true_logprobs(model, prompts[rollout.key], rollout.token_ids.tolist(), 1.0)
        np.testing.assert_allclose(rollout.logprobs, expected, atol=1e-4)


def test_sampled_tokens_follow_the_models_probabilities(engine, model, tokenizer):
    question = requests(tokenizer, n=6000, questions=["12+34="])
    first_tokens = Counter(int(r.token_ids[0]) for r in engine.generate(question, Sampling(1.0, 1)))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([question[0].prompt.token_ids])).logits[0, -1]
    for token, p in enumerate(logits.double().softmax(-1).tolist()):
        deviation = np.sqrt(6000 * p * (1 - p))
        assert abs(first_tokens[token] - 6000 * p) <= 4.5 * deviation + 1, f"token {token}"


def test_a_sample_depends_on_its_seed_and_on_nothing_else(model, tokenizer):
    sampling = Sampling(1.7, 12)  # hot and long, so that rows end here and there and the others are packed
    together = by_sample(make_engine(model, tokenizer).generate(requests(tokenizer, n=5), sampling))
    small = make_engine(model, tokenizer, batch_size=7)
    reordered = by_sample(small.generate(reversed(requests(tokenizer, n=5)), sampling))
    same_samples(together, reordered)
    alone = by_sample(small.generate(requests(tokenizer, n=3, first_index=2, questions=["7*8="]), sampling))
    same_samples(alone, {sample: together[sample] for sample in alone})
    assert {index for _, index in alone} == {2, 3, 4}
    assert len({tuple(rollout.token_ids) for rollout in together.values()}) > len(together) // 2


def test_what_has_ended_is_handed_out_in_the_middle_of_a_batch(model, tokenizer, monkeypatch):
    sampling = Sampling(1.0, 12)
    whole = by_sample(make_engine(model, tokenizer).generate(requests(tokenizer), sampling))
    monkeypatch.setattr("depo.rollout.transformers.LOOK_SECONDS", 0.0)
    beats: list[int] = []
    engine = make_engine(model, tokenizer)
    engine.heartbeat = beats.append
    passes: list[None] = []
    model.register_forward_hook(lambda *_: passes.append(None))
    seen, after = [], []
    for rollout in engine.generate(requests(tokenizer), sampling):
        assert torch.is_grad_enabled(), "the consumer is not inside the engine's inference context"
        seen.append(rollout)
        after.append(len(passes))
    lengths = [len(rollout.token_ids) for rollout in seen]
    assert after == lengths, "handed out after the very pass that gave its last token, not at the batch's end"
    assert lengths[0] < lengths[-1]
    assert sum(beats) == sum(lengths)
    assert len(beats) == 12, "a sign of life a token, whether or not a sample ended"
    same_samples(by_sample(seen), whole)


class WeightCasts(TorchDispatchMode):
    """Counts conversions of a model's parameters to another type."""

    def __init__(self, model):
        super().__init__()
        self.places = {parameter.data_ptr() for parameter in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.count += args[0].data_ptr() in self.places
        return function(*args, **(kwargs or {}))


def test_weights_are_cast_once_a_batch_however_often_it_is_looked_at(model, tokenizer, monkeypatch):
    @contextmanager
    def inference():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    counted = []
    for seconds in (1e9, 0.0):
        monkeypatch.setattr("depo.rollout.transformers.LOOK_SECONDS", seconds)
        engine = make_engine(model, tokenizer)
        engine.inference = inference
        with WeightCasts(model) as casts:
            for _ in engine.generate(requests(tokenizer, n=1), Sampling(1.0, 6)):
                assert not torch.is_autocast_enabled("cpu"), "the consumer computes as it did before"
        counted.append(casts.count)
    assert counted[0] == counted[1] > 0


def test_greedy_is_what_generate_decodes_from_padded_prompts(engine, model, tokenizer):
    rollouts = by_sample(engine.generate(requests(tokenizer, n=1), Sampling(0.0, 6)))
    padded = tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    decoded = model.eval().generate(
        input_ids=padded.input_ids, attention_mask=padded.attention_mask, do_sample=False, max_new_tokens=6
    )
    for question, row in zip(QUESTIONS, decoded[:, padded.input_ids.shape[1] :].tolist(), strict=True):
        ours = rollouts[question, 0].token_ids.tolist()
        assert row[: len(ours)] == ours
        assert set(row[len(ours) :]) <= {tokenizer.pad_token_id}


def test_a_rollout_ends_with_the_end_token_or_at_the_limit(engine, tokenizer):
    rollouts = list(engine.generate(requests(tokenizer, n=24), Sampling(1.0, 8)))
    assert Counter(r.finish_reason for r in rollouts).keys() == {"stop", "length"}
    for rollout in rollouts:
        ends = rollout.token_ids == tokenizer.eos_token_id
        assert not ends[:-1].any()
        assert ends[-1] == (rollout.finish_reason == "stop")
        assert len(rollout.token_ids) == len(rollout.logprobs)
        assert rollout.finish_reason == "stop" or len(rollout.token_ids) == 8
        assert (rollout.token_ids.dtype, rollout.logprobs.dtype) == (np.int32, np.float32)


def test_every_end_token_ends_a_rollout(model, tokenizer):
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list("13579"))]
    engine = TransformersEngine(model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=ends, batch_size=64)
    last = Counter(
        int(r.token_ids[-1])
        for r in engine.generate(requests(tokenizer, n=16), Sampling(1.0, 8))
        if r.finish_reason == "stop"
    )
    assert len(last) > 1
    assert set(last) <= set(ends)


def test_the_models_generation_config_has_no_say(model, tokenizer):
    plain = by_sample(make_engine(model, tokenizer).generate(requests(tokenizer), Sampling(1.0, 6)))
    model.generation_config.update(top_k=1, repetition_penalty=5.0, temperature=0.1, max_new_tokens=1)
    same_samples(
        by_sample(make_engine(model, tokenizer).generate(requests(tokenizer), Sampling(1.0, 6))), plain
    )


def test_weights_are_the_learners_own_and_versions_are_recorded(engine, model, tokenizer):
    before = by_sample(engine.generate(requests(tokenizer), Sampling(1.0, 6)))
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj.add_(0.5)
    assert engine.load_weights(WeightUpdate(version=3)) == 3
    after = by_sample(engine.generate(requests(tokenizer), Sampling(1.0, 6)))
    assert {rollout.policy_version for rollout in before.values()} == {0}
    assert {rollout.policy_version for rollout in after.values()} == {3}
    assert any(list(before[s].token_ids) != list(after[s].token_ids) for s in before)


def test_neither_global_randomness_nor_the_models_mode_changes(engine, model, tokenizer):
    model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    list(engine.generate(requests(tokenizer), Sampling(1.0, 4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_impossible_tokens_are_never_drawn():
    logits = torch.full((2000, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    corners = np.array([0.0, 1 - 2.0**-48])
    tokens, logprobs = draw(logits, np.concatenate([corners, np.linspace(0, 1, 1998, endpoint=False)]), 1.0)
    assert list(tokens[:2]) == [1, 4]
    assert set(tokens) == {1, 4}
    assert (tokens == 1).mean() == pytest.approx(1 / (1 + np.e), abs=2e-3)
    np.testing.assert_allclose(np.exp(logprobs[tokens == 4]), np.e / (1 + np.e), rtol=1e-5)
