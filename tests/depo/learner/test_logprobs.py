"""Against the plain path: the model's own logits, log_softmax, gather."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_samples import sequences_of
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from depo.errors import UserError
from depo.learner.learner import PolicyLearner
from depo.learner.logprobs import check_head, token_logprobs
from depo.learner.packing import MicroBatch
from depo.types import TrainSample

TEMPERATURE = 0.7
VOCABULARY = 40


def whole_batch(learner: PolicyLearner, batch: list[TrainSample]) -> MicroBatch:
    return learner.packing.collate(np.arange(len(batch)), batch)


def plain_logprobs(model: nn.Module, batch: list[TrainSample]) -> list[tuple[Tensor, Tensor]]:
    """Row by row, no padding: log-probabilities and entropies (T,) of the completion."""
    results = []
    for prompt, completion in sequences_of(batch):
        tokens = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
        logprobs = (model(input_ids=tokens).logits[0, len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(completion.tolist()).unsqueeze(-1)).squeeze(-1)
        results.append((chosen, -(logprobs.exp() * logprobs).sum(-1)))
    return results


def with_lora(model: PreTrainedModel) -> nn.Module:
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    return adapted.eval()


@pytest.mark.parametrize("chunk_logits", [2**24, 7 * VOCABULARY], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama", "llama_tied"])
def test_values_and_gradients_equal_the_plain_path(
    architecture: str,
    lora: bool,
    chunk_logits: int,
    make_model: Callable[[str], PreTrainedModel],
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    model = make_model(architecture)
    learner = make_learner(with_lora(model) if lora else model)
    batch = make_batch()
    micro = whole_batch(learner, batch)

    logprobs, entropy = token_logprobs(learner.model, micro, TEMPERATURE, chunk_logits=chunk_logits)
    (logprobs * torch.arange(1, logprobs.shape[1] + 1)).sum().backward()
    grads = {name: p.grad.clone() for name, p in learner.parameters.items()}
    assert not entropy.requires_grad
    assert (logprobs[~micro.mask_BT] == 0).all()

    learner.optimizer.zero_grad()
    plain = plain_logprobs(learner.model, batch)
    sum((values * torch.arange(1, len(values) + 1)).sum() for values, _ in plain).backward()
    for row, (values, entropies) in enumerate(plain):
        assert torch.allclose(logprobs[row, : len(values)], values, atol=1e-5)
        assert torch.allclose(entropy[row, : len(values)], entropies, atol=1e-5)
    assert grads
    for name, parameter in learner.parameters.items():
        assert torch.allclose(grads[name], parameter.grad, atol=1e-4, rtol=1e-4), name


def test_logits_exist_for_one_chunk_at_a_time_and_are_recomputed_in_the_backward_pass(
    make_model: Callable[[str], PreTrainedModel],
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    learner = make_learner(make_model("llama"))
    micro = whole_batch(learner, make_batch())
    chunks: list[int] = []
    learner.model.lm_head.register_forward_hook(lambda _head, _inputs, logits: chunks.append(len(logits)))
    logprobs, _ = token_logprobs(learner.model, micro, 1.0, chunk_logits=5 * VOCABULARY)
    tokens = int(micro.mask_BT.sum())
    assert tokens > 20
    assert max(chunks) == 5
    assert sum(chunks) == tokens
    logprobs.sum().backward()
    assert sum(chunks) == 2 * tokens


def test_the_load_balancing_loss_is_off(
    make_model: Callable[[str], PreTrainedModel], make_learner: Callable[..., PolicyLearner]
) -> None:
    model = make_model("qwen3_moe")
    assert model.config.output_router_logits
    make_learner(model)
    tokens = torch.ones(1, 4, dtype=torch.long)
    assert model(input_ids=tokens, labels=tokens).aux_loss is None


def test_an_architecture_that_transforms_its_logits_is_refused(
    make_model: Callable[[str], PreTrainedModel],
) -> None:
    class SoftCapped(type(make_model("llama"))):  # type: ignore[misc]
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = torch.tanh(output.logits / 3) * 3
            return output

    model = make_model("llama")
    check_head(model)
    model.__class__ = SoftCapped
    with pytest.raises(UserError, match=r"^policy\.model: the logits of llama models are not lm_head"):
        check_head(model)
