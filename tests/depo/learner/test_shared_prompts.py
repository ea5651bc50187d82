"""Each prompt once: the layout by hand, and everything computed in it against the plain layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from depo.learner.logprobs import token_logprobs
from depo.learner.shared_prompts import packs, share_prompts, why_not_shared
from depo.recipe.schema.learner import SHARED_TOKENS
from depo.types import TrainSample

CPU = torch.device("cpu")


def samples(prompts, completions) -> list[TrainSample]:
    return [TrainSample.of_completion(p, c) for p, c in zip(prompts, completions, strict=True)]


def test_the_layout_of_two_prompts_by_hand():
    batch = samples([[5, 6], [7], [5, 6], [7]], [[8], [2, 3, 4], [9, 1], [2]])
    shared = share_prompts(np.array([0, 1, 2, 3]), batch, 100, 4, 0, CPU)
    assert shared is not None
    assert shared.tokens_RW.tolist() == [[5, 6, 8, 9, 1], [7, 2, 3, 4, 2]]
    assert shared.positions_RW.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 3, 1]]
    sees_WW = (shared.hidden_R1WW[0, 0] == 0).int().tolist()
    assert sees_WW == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],  # the second completion sees the prompt and itself, not the first
        [1, 1, 0, 1, 1],
    ]
    # (sequence, position of the plain layout) → which of the 10 tokens; padding: any
    place_BS = shared.place_N.view(4, 4).tolist()
    assert place_BS[0][:3] == [0, 1, 2]
    assert place_BS[1] == [5, 6, 7, 8]
    assert place_BS[2] == [0, 1, 3, 4]
    assert place_BS[3][:2] == [5, 9]


def test_rows_are_kept_short_and_a_long_sequence_shares_with_none():
    prompt, other = np.arange(10), np.arange(10, 20)
    lengths = (40, 30, 5, 60, 200)
    batch = samples([prompt, prompt, other, prompt, prompt], [np.arange(length) for length in lengths])
    together = packs(np.arange(5), batch, 100)
    assert [pack.tolist() for pack in together] == [[0, 1], [3], [4], [2]]
    assert share_prompts(np.arange(2, 5), batch, 60, 210, 0, CPU) is None


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama_tied"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_logprobs_entropies_and_gradients_are_those_of_the_plain_layout(
    make_model, make_learner, make_batch, architecture, lora
):
    batch, found = make_batch(groups=4), {}
    for share in (True, False):
        model = make_model(architecture)
        if lora:
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
        learner = make_learner(model, share_prompts=share, tokens_per_microbatch=1000)
        (rows,) = learner.packing.cut(np.arange(len(batch)), batch)
        micro = learner.packing.collate(rows, batch)
        assert (micro.shared is not None) == share
        logprobs_BT, entropy_BT = token_logprobs(learner.model, micro, 0.8)
        weight_B = torch.linspace(-1, 1, len(batch))[torch.from_numpy(rows)]
        (logprobs_BT * weight_B[:, None]).sum().backward()
        order = np.argsort(rows)
        found[share] = (
            [logprobs_BT[b][micro.mask_BT[b]].detach() for b in order],
            [entropy_BT[b][micro.mask_BT[b]] for b in order],
            {name: p.grad for name, p in learner.parameters.items()},
            micro.computed,
        )
    for which in (0, 1):
        for shared_T, plain_T in zip(found[True][which], found[False][which], strict=True):
            torch.testing.assert_close(shared_T, plain_T, rtol=1e-4, atol=1e-5)
    for name, gradient in found[False][2].items():
        torch.testing.assert_close(found[True][2][name], gradient, rtol=1e-3, atol=1e-5)
    assert found[True][3] < found[False][3]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"minibatches": 3, "epochs": 2, "loss": {"type": "gspo"}},
        {"kl_coef": 0.1, "loss": {"type": "dr_grpo"}},
        {"load_balancing_coef": 0.5},
        {"minibatches": 3, "routing_replay": "r2"},
    ],
    ids=["plain", "gspo", "reference", "load balancing", "r2"],
)
def test_an_update_ends_at_the_same_weights_with_the_same_metrics(
    make_model, make_learner, make_batch, settings
):
    batch, found = make_batch(groups=6), {}
    for share in (True, False):
        learner = make_learner(
            make_model("qwen3_moe"), lr=1e-3, share_prompts=share, tokens_per_microbatch=1000, **settings
        )
        result = learner.update(batch)
        found[share] = (result, {name: p.detach().clone() for name, p in learner.parameters.items()})
    (shared, shared_weights), (plain, plain_weights) = found[True], found[False]
    for one, other in zip(shared.old_logprobs, plain.old_logprobs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for name in plain.metrics.keys() - {"seconds", "padding_share"}:
        assert shared.metrics[name] == pytest.approx(plain.metrics[name], rel=2e-2, abs=1e-4), name
    moved = [(shared_weights[name] - plain_weights[name]).abs().max() for name in plain_weights]
    assert max(moved) < 0.2e-3  # Adam's first steps have the length of the learning rate, 1e-3


def test_completions_that_are_long_are_left_as_they_are(make_model, make_learner):
    learner = make_learner(make_model("llama"), tokens_per_microbatch=10_000)
    batch = samples([[3, 4]] * 2, [[7] * (SHARED_TOKENS // 2)] * 2)
    micro = learner.packing.collate(np.arange(2), batch)
    assert micro.shared is None


class Deaf(torch.nn.Module):
    """A decoder that does not listen to who sees whom, as linear attention does not."""

    def __init__(self, decoder: torch.nn.Module, error: Exception | None = None) -> None:
        super().__init__()
        self.decoder, self.error, self.config = decoder, error, decoder.config

    def forward(self, attention_mask=None, **inputs):
        if self.error is not None and attention_mask is not None:
            raise self.error
        return self.decoder(**inputs)


def test_a_model_is_asked_whether_it_can(make_model, make_learner):
    for architecture in ("qwen3_moe", "llama"):
        decoder = make_model(architecture).get_decoder()
        with torch.no_grad():
            assert why_not_shared(decoder, 0, CPU) is None
            assert "depend on the layout" in why_not_shared(Deaf(decoder), 0, CPU)
            refused = why_not_shared(Deaf(decoder, ValueError("masks of four dimensions")), 0, CPU)
            assert refused == "the model takes no mask of its layout (masks of four dimensions)"
    learner = make_learner(make_model("qwen3_next"))
    assert learner.packing.share == 0
    assert "linear attention" in learner.not_shared
    learner = make_learner(make_model("llama"), share_prompts=False)
    assert learner.packing.share == 0
    assert learner.not_shared == "learner.share_prompts is false"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: illegal memory access"),
        RuntimeError("can't allocate memory: 9 GB"),
    ],
)
def test_lack_of_memory_or_a_failing_device_is_no_reason_to_take_the_slow_path(make_model, error):
    decoder = make_model("llama").get_decoder()
    with pytest.raises(type(error), match="memory"):
        why_not_shared(Deaf(decoder, error), 0, CPU)


def test_a_model_that_fails_in_the_plain_layout_too_is_not_called_unable_to_share(make_model):
    broken = make_model("llama").get_decoder()
    broken.layers[0].mlp.down_proj = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        why_not_shared(broken, 0, CPU)


@pytest.mark.parametrize(("window", "shares"), [(64, False), (383, False), (384, True), (None, True)])
def test_attention_that_reaches_only_so_far_back_is_not_shared(make_learner, window, shares):
    """Nothing of a pass that shares is longer than 256 tokens and what one pass costs, 128."""
    settings = MistralConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(settings).eval()
    learner = make_learner(model, tokens_per_microbatch=1000)
    assert (learner.packing.share > 0) == shares
    prompt = tuple(range(2, 32)) * 5
    sequences = [(prompt, (3, 4, 5)), (prompt, (6, 7)), (prompt, (8,) * 200)]
    for found_T, (_, completion) in zip(learner.score(sequences), sequences, strict=True):
        with torch.no_grad():
            logits_SV = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[
                0, len(prompt) - 1 : -1
            ]
        expected_T = logits_SV.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        np.testing.assert_allclose(found_T, expected_T, atol=1e-4)


def test_kernels_without_masks_are_not_even_tried(make_model):
    decoder = make_model("llama").get_decoder()
    decoder.config._attn_implementation = "flash_attention_2"
    decoder.forward = None
    assert why_not_shared(decoder, 0, CPU) == "attention flash_attention_2 takes no mask"


def test_in_bfloat16_too(make_model):
    with torch.no_grad():
        assert why_not_shared(make_model("llama").to(torch.bfloat16).get_decoder(), 0, CPU) is None
