"""The update on a CUDA device, against the same update on the CPU and against transformers' own forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_samples import sequences_of
from torch import Tensor
from transformers import PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.models.precision import route_in_float32, set_compute_dtype
from depo.types import TrainSample, UpdateResult

pytestmark = pytest.mark.gpu

MakeModel = Callable[[str], PreTrainedModel]
MakeLearner = Callable[..., PolicyLearner]
MakeBatch = Callable[..., list[TrainSample]]
LR = 1e-3  # the length of Adam's first steps
UNLIKE = {"seconds", "padding_share"}
"""Metrics that have no reason to be the same."""


def moved_by(learner: PolicyLearner, batch: list[TrainSample]) -> tuple[UpdateResult, dict[str, Tensor]]:
    """What one update tells, and by how much it moves each weight; on the CPU."""
    before = {name: p.detach().cpu().clone() for name, p in learner.parameters.items()}
    result = learner.update(batch)
    return result, {name: p.detach().cpu() - before[name] for name, p in learner.parameters.items()}


def cosine(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    pairs = [(left[name].flatten().double(), right[name].flatten().double()) for name in left]
    return float(torch.cosine_similarity(*(torch.cat(side) for side in zip(*pairs, strict=True)), dim=0))


def assert_same_update(
    found: tuple[UpdateResult, dict[str, Tensor]], expected: tuple[UpdateResult, dict[str, Tensor]]
) -> None:
    (result, moved), (reference, reference_moved) = found, expected
    assert result.metrics.keys() == reference.metrics.keys()
    for name in reference.metrics.keys() - UNLIKE:
        assert result.metrics[name] == pytest.approx(reference.metrics[name], rel=2e-2, abs=1e-4), name
    for one, other in zip(result.old_logprobs, reference.old_logprobs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    # Adam divides by the gradient's own size: where that is next to nothing, rounding decides the sign.
    assert cosine(moved, reference_moved) > 0.999
    assert max(float(change.abs().max()) for change in reference_moved.values()) > 0.9 * LR


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"minibatches": 2, "epochs": 2, "loss": {"type": "gspo"}, "correction": {"type": "tis", "cap": 2.0}},
        {"kl_coef": 0.1, "loss": {"type": "dr_grpo"}, "packing": False},
    ],
    ids=["one step", "four steps, gspo", "reference, padded"],
)
def test_an_update_is_that_of_the_cpu(
    architecture: str,
    settings: dict,
    cuda: torch.device,
    make_model: MakeModel,
    make_learner: MakeLearner,
    make_batch: MakeBatch,
) -> None:
    batch = make_batch(groups=4)
    found, expected = (
        moved_by(make_learner(make_model(architecture).to(device), lr=LR, **settings), batch)
        for device in (cuda, torch.device("cpu"))
    )
    assert_same_update(found, expected)


@pytest.mark.parametrize("settings", [{}, {"load_balancing_coef": 0.5}], ids=["plain", "load balancing"])
def test_packing_changes_nothing(
    settings: dict,
    cuda: torch.device,
    make_model: MakeModel,
    make_learner: MakeLearner,
    make_batch: MakeBatch,
) -> None:
    batch, found = make_batch(groups=6), {}
    for packing in (True, False):
        model = make_model("qwen3_moe").to(cuda)
        learner = make_learner(model, lr=LR, packing=packing, tokens_per_microbatch=1000, **settings)
        assert learner.packing.layout == ("packed" if packing else "padded"), learner.layout_note
        found[packing] = moved_by(learner, batch)
    assert_same_update(found[True], found[False])


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama"])
def test_scores_are_the_log_softmax_of_transformers_own_logits(
    architecture: str,
    cuda: torch.device,
    make_model: MakeModel,
    make_learner: MakeLearner,
    make_batch: MakeBatch,
) -> None:
    batch, model = make_batch(), make_model(architecture).to(cuda)
    learner = make_learner(model)
    sequences = sequences_of(batch)
    for (prompt, completion), scored in zip(sequences, learner.score(sequences, 0.8), strict=True):
        tokens = torch.tensor(np.concatenate([prompt, completion])[None].astype(np.int64), device=cuda)
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.8).log_softmax(-1).gather(1, tokens[0, len(prompt) :, None]).squeeze(1)
        np.testing.assert_allclose(scored, expected.cpu().numpy(), atol=1e-4)


def test_prompt_features_are_those_of_the_cpu(
    cuda: torch.device, make_model: MakeModel, make_learner: MakeLearner
) -> None:
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    found, expected = (
        make_learner(make_model("qwen3_moe").to(device)).prompt_features(prompts)
        for device in (cuda, torch.device("cpu"))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama"])
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_bfloat16_moves_the_weights_in_the_direction_of_float32(
    architecture: str,
    packing: bool,
    cuda: torch.device,
    make_model: MakeModel,
    make_learner: MakeLearner,
    make_batch: MakeBatch,
) -> None:
    """With float32 master weights and autocast, as a recipe with ``dtype: bfloat16`` trains."""
    batch, found = make_batch(groups=6), {}
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(architecture).to(cuda)
        set_compute_dtype(model, dtype)
        route_in_float32(model)
        learner = make_learner(model, lr=LR, packing=packing, tokens_per_microbatch=1000)
        packed = "packed" if dtype == torch.float32 else "varlen"
        assert learner.packing.layout == (packed if packing else "padded"), learner.layout_note
        found[dtype] = moved_by(learner, batch)
    result, moved = found[torch.bfloat16]
    assert all(np.isfinite(value) for value in result.metrics.values())
    assert result.metrics["optimizer_steps"] == 1
    assert all(change.isfinite().all() for change in moved.values())
    assert 0 < result.metrics["policy_kl"] < 1
    # Adam's first step is the gradient's sign: of small entries bfloat16 gets some wrong.
    assert cosine(moved, found[torch.float32][1]) > 0.8


def test_a_resumed_learner_goes_on_where_it_stopped(
    tmp_path, cuda: torch.device, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    """From a checkpoint of the CPU, too: the optimizer's counters have to lie where its kernel wants them."""
    batches = [make_batch(seed) for seed in range(2)]
    for written_on in (cuda, torch.device("cpu")):
        straight = make_learner(make_model("llama").to(cuda), lr=LR)
        straight.update(batches[0])
        stopped = make_learner(make_model("llama").to(written_on), lr=LR)
        stopped.update(batches[0])
        stopped.save(tmp_path / written_on.type)
        resumed = make_learner(make_model("llama").to(cuda), lr=LR)
        resumed.load(tmp_path / written_on.type)
        assert_same_update(moved_by(resumed, batches[1]), moved_by(straight, batches[1]))


def test_perturbing_is_undone_exactly(
    cuda: torch.device, make_model: MakeModel, make_learner: MakeLearner
) -> None:
    learner = make_learner(make_model("qwen3_moe").to(cuda))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    learner.perturb(5)
    assert not all(torch.equal(p, before[name]) for name, p in learner.parameters.items())
    learner.restore()
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())


def test_the_exported_policy_is_the_one_in_memory(
    tmp_path, cuda: torch.device, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    from transformers import AutoModelForCausalLM

    learner = make_learner(make_model("qwen3_moe").to(cuda), lr=LR)
    learner.update(make_batch())
    learner.export(tmp_path)
    tokens = torch.arange(2, 20)[None]
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits
        torch.testing.assert_close(
            learner.model(tokens.to(cuda)).logits.cpu(), exported, rtol=1e-3, atol=1e-3
        )
