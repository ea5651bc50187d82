"""Packed passes: the row by hand, and everything computed in it against padded sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from depo.learner.layout import best_layout, packed_row, packed_states, packs, why_not_packed
from depo.learner.logprobs import token_logprobs
from depo.models import attention
from depo.models.attention import use_packed_attention
from depo.types import TrainSample

CPU = torch.device("cpu")


def samples(prompts, completions) -> list[TrainSample]:
    return [TrainSample.of_completion(p, c) for p, c in zip(prompts, completions, strict=True)]


@pytest.mark.parametrize("layout", ["packed", "varlen"])
def test_the_row_of_two_prompts_by_hand(layout):
    batch, rows = samples([[5, 6], [7], [5, 6], [7]], [[8], [2, 3, 4], [9, 1], [2]]), np.arange(4)
    row = packed_row(rows, batch, packs(rows, batch, 100), layout, CPU)
    assert row.tokens_1N.tolist() == [[5, 6, 8, 9, 1, 7, 2, 3, 4, 2]]
    assert row.positions_1N.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 3, 1]]
    # (sequence, position) → which of the 10 tokens; padding: the first
    assert row.token_BS.tolist() == [[0, 1, 2, 0], [5, 6, 7, 8], [0, 1, 3, 4], [5, 9, 0, 0]]
    taken = row.sequences
    if layout == "packed":  # the longest first
        assert taken.blocks == ((4, 4),)
        assert taken.token_M.tolist() == [5, 6, 7, 8, 0, 1, 3, 4, 0, 1, 2, 0, 5, 9, 0, 0]
        assert taken.place_N.tolist() == [4, 5, 10, 6, 7, 0, 1, 2, 3, 13]
    else:
        assert taken.ends.tolist() == [0, 3, 7, 11, 13]
        assert taken.token_M.tolist() == [0, 1, 2, 5, 6, 7, 8, 0, 1, 3, 4, 5, 9]
        assert taken.place_N.tolist() == [0, 1, 2, 9, 10, 3, 4, 5, 6, 12]
        assert taken.longest == 4


def test_sequences_of_unlike_length_are_in_blocks_of_their_own():
    rows, batch = np.arange(12), samples([[1]] * 12, [[2] * 999, [2] * 999, *[[2] * 9] * 10])
    row = packed_row(rows, batch, packs(rows, batch, 10_000), "packed", CPU)
    assert row.sequences.blocks == ((2, 1000), (10, 10))


def test_a_pass_has_room_for_a_prompts_completions_and_their_copies_of_it():
    prompt, other = np.arange(16), np.arange(10, 20)
    batch = samples([prompt, prompt, other, prompt, prompt], [np.arange(n) for n in (40, 30, 5, 60, 200)])
    # 16 + 40, and 30 + 16 / 8 for the second completion
    for limit, expected in ((88, [[0, 1], [3], [4], [2]]), (87, [[0], [1], [3], [4], [2]])):
        assert [pack.tolist() for pack in packs(np.arange(5), batch, limit)] == expected


ADAPTERS = {
    "full": None,
    "lora": {"target_modules": ["q_proj", "v_proj"]},
    "lora on experts": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
}


@pytest.mark.parametrize(
    ("architecture", "adapter", "checkpointing"),
    [
        ("qwen3_moe", "full", False),
        ("qwen3_moe", "lora on experts", False),
        ("llama_tied", "full", True),
        ("llama_tied", "lora", False),
    ],
)
def test_logprobs_entropies_and_gradients_are_those_of_padded_sequences(
    make_model, make_learner, make_batch, architecture, adapter, checkpointing
):
    batch, found = make_batch(groups=4), {}
    for packing in (True, False):
        model = make_model(architecture)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if ADAPTERS[adapter]:
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(init_lora_weights=False, **ADAPTERS[adapter]))
        learner = make_learner(model, packing=packing, tokens_per_microbatch=1000)
        assert learner.packing.layout == ("packed" if packing else "padded")
        learner.model.train()
        (rows,) = learner.packing.cut(np.arange(len(batch)), batch)
        micro = learner.packing.collate(rows, batch)
        logprobs_BT, entropy_BT = token_logprobs(learner.model, micro, 0.8)
        weight_B = torch.linspace(-1, 1, len(batch))[torch.from_numpy(rows)]
        (logprobs_BT * weight_B[:, None]).sum().backward()
        order = np.argsort(rows)
        found[packing] = (
            [logprobs_BT[b][micro.mask_BT[b]].detach() for b in order],
            [entropy_BT[b][micro.mask_BT[b]] for b in order],
            {name: p.grad for name, p in learner.parameters.items()},
        )
    for which in (0, 1):
        for packed_T, padded_T in zip(found[True][which], found[False][which], strict=True):
            torch.testing.assert_close(packed_T, padded_T, rtol=1e-5, atol=1e-5)
    scale = max(float(gradient.norm()) for gradient in found[False][2].values())
    for name, gradient in found[False][2].items():
        assert float((found[True][2][name] - gradient).norm()) <= 1e-5 * scale, name


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
    for packing in (True, False):
        learner = make_learner(
            make_model("qwen3_moe"), lr=1e-3, packing=packing, tokens_per_microbatch=1000, **settings
        )
        result = learner.update(batch)
        found[packing] = (result, {name: p.detach().clone() for name, p in learner.parameters.items()})
    (packed, packed_weights), (padded, padded_weights) = found[True], found[False]
    for one, other in zip(packed.old_logprobs, padded.old_logprobs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for name in padded.metrics.keys() - {"seconds", "padding_share"}:
        assert packed.metrics[name] == pytest.approx(padded.metrics[name], rel=2e-2, abs=1e-4), name
    moved = [(packed_weights[name] - padded_weights[name]).abs().max() for name in padded_weights]
    assert max(moved) < 0.2e-3  # Adam's first steps have the length of the learning rate, 1e-3


def test_nothing_is_computed_twice_or_for_nobody(make_model, make_learner):
    """Completions of 2 to 32 tokens: each token of a prompt once, each token of a completion once."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 40, size=rng.integers(2, 20)) for _ in range(8)]
    completions = [rng.integers(2, 40, size=rng.integers(2, 33)) for _ in range(32)]
    batch = samples([prompts[n // 4] for n in range(32)], completions)
    learner = make_learner(make_model("llama"), tokens_per_microbatch=200)
    parts = learner.packing.cut(np.arange(32), batch)
    micros = [learner.packing.collate(rows, batch) for rows in parts]
    assert len(micros) > 3
    assert all(micro.computed <= 200 for micro in micros)
    distinct = sum(map(len, prompts)) + sum(map(len, completions))
    assert distinct <= sum(micro.computed for micro in micros) <= distinct + sum(map(len, prompts))
    assert learner.packing.padding(parts, batch) == 0
    padded = make_learner(make_model("llama"), tokens_per_microbatch=200, packing=False)
    assert padded.packing.padding(padded.packing.cut(np.arange(32), batch), batch) > 0.05


class Deaf(torch.nn.Module):
    """A decoder that does not hear which tokens are a sequence."""

    def __init__(self, decoder: torch.nn.Module, error: Exception | None = None) -> None:
        super().__init__()
        self.decoder, self.error = decoder, error

    def forward(self, sequences=None, attention_mask=None, **inputs):
        if self.error is not None and sequences is not None:
            raise self.error
        return self.decoder(**inputs)


def test_a_model_is_asked_whether_it_can(make_model, make_learner):
    for architecture in ("qwen3_moe", "llama"):
        model = make_model(architecture)
        assert use_packed_attention(model) is None
        decoder = model.get_decoder()
        with torch.no_grad():
            assert best_layout(decoder, CPU) == ("packed", None)
            assert why_not_packed(Deaf(decoder), "packed", CPU) == "the model's states depend on the layout"
            layout, note = best_layout(Deaf(decoder, TypeError("unexpected sequences")), CPU)
        assert layout == "padded"
        assert note.endswith("the model takes no packed sequences (unexpected sequences)")


def test_who_cannot_is_padded_and_says_why(make_model, make_learner):
    eager = make_model("llama")
    eager.set_attn_implementation("eager")
    for model, settings, why in (
        (make_model("qwen3_next"), {}, "qwen3_next models have layers of linear attention"),
        (eager, {}, "attention eager takes no packed sequences"),
        (make_model("llama"), {"packing": False}, "learner.packing is false"),
    ):
        learner = make_learner(model, **settings)
        assert learner.packing.layout == "padded"
        assert learner.layout_note.startswith(
            "sequences are padded and each prompt is computed once for each"
        )
        assert learner.layout_note.endswith(why)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: illegal memory access"),
        RuntimeError("can't allocate memory: 9 GB"),
    ],
)
def test_lack_of_memory_or_a_failing_device_is_no_reason_to_take_the_slow_path(make_model, error):
    with pytest.raises(type(error), match="memory"):
        why_not_packed(Deaf(make_model("llama").get_decoder(), error), "packed", CPU)


def test_a_model_that_fails_with_padded_sequences_too_is_not_called_unable_to_pack(make_model):
    broken = make_model("llama").get_decoder()
    broken.layers[0].mlp.down_proj = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        why_not_packed(broken, "packed", CPU)


@pytest.fixture
def mistral():
    settings = MistralConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=7,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return MistralForCausalLM(settings).eval()


def test_attention_that_reaches_only_so_far_back_does_so_in_a_row_too(mistral, make_learner):
    learner = make_learner(mistral, tokens_per_microbatch=1000)
    assert learner.packing.layout == "packed"
    prompt = tuple(range(2, 17))
    sequences = [(prompt, (3, 4, 5)), (prompt, (6, 7)), (prompt, (8,) * 20)]
    for found_T, (_, completion) in zip(learner.score(sequences), sequences, strict=True):
        with torch.no_grad():
            logits_SV = mistral(input_ids=torch.tensor([[*prompt, *completion]])).logits[
                0, len(prompt) - 1 : -1
            ]
        expected_T = logits_SV.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        np.testing.assert_allclose(found_T, expected_T, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "qwen3_moe"])
def test_the_kernel_for_any_lengths_is_told_what_it_needs(
    architecture, make_model, make_batch, mistral, monkeypatch
):
    """The kernel itself runs on GPUs only; here a loop over its sequences stands in."""

    def by_sequence(query, key, value, ends, ends_k, longest, longest_k, *, scale, window_size, enable_gqa):
        assert ends is ends_k
        assert longest == longest_k == int(ends.diff().max())
        assert ends.dtype == torch.int32
        outputs = []
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            place = torch.arange(end - begin)
            behind = place[:, None] - place
            seen = (behind >= 0) & ((behind <= window_size[0]) | (window_size[0] < 0))
            heads = [one[begin:end].transpose(0, 1) for one in (query, key, value)]
            found = torch.nn.functional.scaled_dot_product_attention(
                *heads, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
            )
            outputs.append(found.transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(attention, "varlen_attn", by_sequence)
    model = mistral if architecture == "mistral" else make_model(architecture)
    assert use_packed_attention(model) is None
    batch = make_batch()
    rows = np.arange(len(batch))
    together = packs(rows, batch, 1000)
    with torch.no_grad():
        found, expected = (
            packed_states(model.get_decoder(), packed_row(rows, batch, together, layout, CPU))
            for layout in ("varlen", "packed")
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "llama"])
def test_what_is_not_packed_is_as_before(architecture, make_model, mistral):
    """A colocated engine generates with the same model: padding on the left, a cache."""
    model = mistral if architecture == "mistral" else make_model(architecture)
    tokens = torch.randint(2, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    found = []
    for packing in (False, True):
        if packing:
            assert use_packed_attention(model) is None
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask).logits
        generated = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
        found.append((logits, generated))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert attention.NAME not in model.config.to_json_string()


def test_in_bfloat16_too(make_model):
    model = make_model("llama").to(torch.bfloat16)
    use_packed_attention(model)
    with torch.no_grad():
        assert why_not_packed(model.get_decoder(), "packed", CPU) is None
