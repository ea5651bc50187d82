"""Loss and gradient of every algorithm and option that TRL's GRPOTrainer has too, against TRL's own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from made_samples import completion_of, engine_of, prompt_of, sequences_of, with_engine
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from depo.learner.advantages import group_advantages
from depo.learner.learner import PolicyLearner
from depo.learner.loss import Tally
from depo.types import TrainSample

if TYPE_CHECKING:  # and with it, where there is one, all of vLLM
    from trl import GRPOTrainer

TEMPERATURE = 0.8
MAX_NEW_TOKENS = 9
CLIP = {"clip_low": 0.1, "clip_high": 0.3}
TRL_CLIP = {"epsilon": 0.1, "epsilon_high": 0.3}

GSPO_CLIP = {"clip_low": 0.02, "clip_high": 0.04}  # wide enough that some sequences stay inside
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # the recipe's and TRL's settings
    "grpo": ({"type": "grpo", **CLIP}, {"loss_type": "grpo", **TRL_CLIP}),
    "dapo": ({"type": "dapo", **CLIP}, {"loss_type": "dapo", **TRL_CLIP}),
    "dr_grpo": ({"type": "dr_grpo", **CLIP}, {"loss_type": "dr_grpo", **TRL_CLIP}),
    "gspo": (
        {"type": "gspo", **GSPO_CLIP},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.04},
    ),
    "cispo": ({"type": "cispo", "clip_high": 1.2}, {"loss_type": "cispo", "epsilon_high": 1.2}),
}
CAP = 1.05
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {  # the last: TRL's correction mode
    "plain": ({}, {}, None),
    "zero-variance": ({}, {}, None),
    "kl": ({"kl_coef": 0.3}, {"beta": 0.3}, None),
    "mis": ({"correction": {"type": "mis", "cap": CAP}}, {}, "token_mask"),
    "kl+tis": ({"kl_coef": 0.3, "correction": {"type": "tis", "cap": CAP}}, {"beta": 0.3}, "token_truncate"),
}
CASES = [("qwen3_moe", loss, option) for loss in LOSSES for option in OPTIONS]
CASES += [("llama_tied", loss, "kl+tis") for loss in LOSSES]


@pytest.fixture(scope="module")
def policies(tiny_models: dict[str, PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories that GRPOTrainer can load policy and reference from."""
    root = tmp_path_factory.mktemp("policies")
    for name, model in tiny_models.items():
        model.save_pretrained(root / name)
    return root


def trl_trainer(policy: Path, scratch: Path, options: dict[str, Any], correction: str | None) -> GRPOTrainer:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"t{i}": i for i in range(2, 40)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t2")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    arguments = GRPOConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=TEMPERATURE,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        router_aux_loss_coef=0.0,
        model_init_kwargs={"dtype": "float32"},
        **options,
    )
    trainer = GRPOTrainer(
        model=str(policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["t3 t4"] * 4}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1  # what training_step sets
    if correction is not None:  # the correction belongs to vLLM in TRL; the loss needs the flag only
        trainer.use_vllm = True
        trainer.vllm_importance_sampling_mode = correction
    trainer.model.train()
    return trainer


def padded(rows: list[np.ndarray], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    values = np.zeros((len(rows), longest), dtype=rows[0].dtype)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(len(row))
        values[i, where] = row
        mask[i, where] = 1
    return torch.from_numpy(values), torch.from_numpy(mask)


def trl_inputs(
    batch: list[TrainSample], old: list[np.ndarray], reference: list[np.ndarray], correction: str | None
) -> dict[str, torch.Tensor]:
    prompt_ids, prompt_mask = padded([prompt_of(s).astype(np.int64) for s in batch], left=True)
    completion_ids, completion_mask = padded([completion_of(s).astype(np.int64) for s in batch])
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([sample.advantage for sample in batch]),
        "old_per_token_logps": padded(old)[0],
        "ref_per_token_logps": padded(reference)[0],
        "num_items_in_batch": completion_mask.sum(),
    }
    if correction is not None:
        ratio = torch.exp(padded(old)[0] - padded(engine_of(batch))[0])
        cut = ratio.clamp(max=CAP) if correction == "token_truncate" else ratio.masked_fill(ratio > CAP, 0.0)
        inputs["importance_sampling_ratio"] = cut
    return inputs


def our_gradient(
    learner: PolicyLearner,
    batch: list[TrainSample],
    old: list[np.ndarray],
    reference: list[np.ndarray] | None,
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Loss, metrics and gradients of the batch as one mini-batch, in several micro-batches."""
    (minibatch,) = learner.cut(batch, epoch=0)
    assert len(minibatch) > 1
    weights = learner.weights(minibatch, batch)
    tally = Tally()
    for rows in minibatch:
        micro = learner.packing.collate(rows, batch)
        learner.backward(micro, batch, weights, old, reference, tally)
    tally.add_step(0.0, finite=True)
    return tally.means(), {name: p.grad for name, p in learner.model.named_parameters()}


def near(learner: PolicyLearner, batch: list[TrainSample], spread: float, seed: int) -> list[np.ndarray]:
    """Log-probabilities around the current ones, as another policy would give them."""
    rng = np.random.default_rng(seed)
    current = learner.score(sequences_of(batch), TEMPERATURE)
    return [(values + rng.normal(0, spread, values.shape)).astype(np.float32) for values in current]


@pytest.mark.parametrize(("architecture", "loss_name", "option"), CASES)
def test_loss_and_gradient_equal_trl(
    architecture: str,
    loss_name: str,
    option: str,
    policies: Path,
    tmp_path: Path,
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    (our_loss, their_loss), (ours_too, theirs_too, correction) = LOSSES[loss_name], OPTIONS[option]
    options = their_loss | theirs_too
    model = AutoModelForCausalLM.from_pretrained(policies / architecture, experts_implementation="eager")
    learner = make_learner(model, loss=our_loss, **ours_too)
    batch = make_batch()
    if option == "zero-variance":
        batch = [replace(sample, advantage=0.0) if sample.group == 1 else sample for sample in batch]
    old = near(learner, batch, 0.2, seed=1)
    engine = [values + 0.1 * np.sin(np.arange(len(values))).astype(np.float32) for values in old]
    batch = with_engine(batch, engine)
    reference = near(learner, batch, 0.3, seed=2)

    ours, our_grads = our_gradient(learner, batch, old, reference if "beta" in options else None)
    trainer = trl_trainer(policies / architecture, tmp_path, options, correction)
    loss = trainer._compute_loss(trainer.model, trl_inputs(batch, old, reference, correction))
    loss.backward()

    assert ours["loss"] == pytest.approx(loss.item(), rel=2e-6, abs=2e-7)
    their_grads = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert our_grads.keys() == their_grads.keys()
    scale = max(float(grad.norm()) for grad in their_grads.values())
    assert scale > 1e-3
    for name, grad in their_grads.items():
        assert float((our_grads[name] - grad).norm()) <= 3e-6 * scale, name
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    assert ours["entropy"] == pytest.approx(metrics["entropy"], rel=1e-5)
    if "kl_ref" in ours:
        assert ours["kl_ref"] == pytest.approx(metrics["kl"], rel=1e-5)
    if options["loss_type"] != "cispo" and "importance_sampling_level" not in options:
        assert 0 < ours["clip_fraction"] == pytest.approx(metrics["clip_ratio/region_mean"], rel=1e-5)


def test_update_is_one_adamw_step_on_trl_gradient(
    policies: Path,
    tmp_path: Path,
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    """On policy, through the public entry point: clipping, optimizer and all."""
    model = AutoModelForCausalLM.from_pretrained(policies / "qwen3_moe", experts_implementation="eager")
    learner = make_learner(model, loss={"type": "dapo"}, lr=1e-2, max_grad_norm=0.5, weight_decay=0.0)
    batch = make_batch()
    trainer = trl_trainer(policies / "qwen3_moe", tmp_path, {"loss_type": "dapo", "epsilon_high": 0.28}, None)
    inputs = trl_inputs(batch, engine_of(batch), engine_of(batch), None)
    del inputs["old_per_token_logps"]  # the policy itself
    trainer._compute_loss(trainer.model, inputs).backward()
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 0.5)
    assert norm > 0.5
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-2, weight_decay=0.0, eps=1e-8)
    optimizer.step()

    metrics = learner.update(batch).metrics

    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    theirs = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        # Adam divides by |g| + 1e-8: an entry whose gradient is rounding noise moves by rounding noise
        assigned = theirs[name].grad.abs() > 1e-5
        assert torch.allclose(parameter[assigned], theirs[name][assigned], atol=2e-5), name


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_equal_trl_formula(scale: str) -> None:
    """Of GRPOTrainer._generate_and_score_completions, with one unscorable completion."""
    from trl.trainer.utils import nanstd

    values = torch.tensor([1.0, 0.0, float("nan"), 1.0, 0.25, 0.0, 0.0, 1.0], dtype=torch.float64)
    expected = values - values.nanmean()
    if scale == "group":
        expected = expected / (nanstd(values) + 1e-4)
    expected = expected.nan_to_num(nan=0.0)
    assert group_advantages(values.numpy(), scale == "group") == pytest.approx(expected.numpy(), rel=1e-6)
