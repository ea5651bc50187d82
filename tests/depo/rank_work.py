"""What a process of a `RankGroup` does: train a tiny learner, as one of several ranks or alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_samples import build_batch, sequences_of
from peft import LoraConfig, get_peft_model
from tiny_models import build_learner, build_model

from depo.learner.learner import PolicyLearner
from depo.learner.ranks import Ranks
from depo.models.precision import route_in_float32, set_compute_dtype
from depo.models.sharding import gathered, whole
from depo.types import TrainSample

STEPS = 5


def build(ranks: Ranks, case: dict[str, Any]) -> PolicyLearner:
    model: torch.nn.Module = build_model(case.get("model", "llama_tied"))
    if case.get("checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if case.get("bfloat16"):
        set_compute_dtype(model, torch.bfloat16)
        route_in_float32(model)
    if lora := case.get("lora"):
        torch.manual_seed(7)
        settings = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=False, **lora)
        model = get_peft_model(model, settings)
    defaults = {"lr": 2e-4, "correction": {"type": "tis"}}
    return build_learner(model, ranks=ranks, **(defaults | case["learner"]))


def batches(case: dict[str, Any]) -> list[list[TrainSample]]:
    made = [build_batch(seed, groups=case.get("groups", 3)) for seed in range(STEPS)]
    if not case.get("routes"):
        return made
    rng = np.random.default_rng(1)  # two of four experts, in two layers
    routes = lambda s: np.argsort(rng.random((len(s) - 1, 2, 4)))[..., :2].astype(np.uint8)  # noqa: E731
    return [[replace(sample, routes=routes(sample)) for sample in batch] for batch in made]


def weights_of(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    return {name: whole(p.detach()).clone() for name, p in learner.parameters.items()}


def train(ranks: Ranks, case: dict[str, Any]) -> dict[str, Any]:
    learner = build(ranks, case)
    results = [learner.update(batch) for batch in batches(case)]
    passes = [len(ranks.own(part)) for part in learner.cut(batches(case)[0], 0)]
    return {
        "metrics": [result.metrics for result in results],
        "old": [result.old_logprobs for result in results],
        "layers": [result.layers for result in results],
        "weights": weights_of(learner),
        "passes": passes,
    }


def look(ranks: Ranks, case: dict[str, Any]) -> dict[str, Any]:
    """Everything that trains nothing."""
    learner, batch = build(ranks, case), batches(case)[0]
    sequences, prompts = sequences_of(batch), [sample.token_ids for sample in batch]
    found = {"score": learner.score(sequences), "features": list(learner.prompt_features(prompts))}
    learner.perturb(seed=3)
    found["perturbed"] = learner.score(sequences)
    learner.restore()
    found["restored"] = learner.score(sequences)
    with gathered(learner.model), learner.inference():
        for length in range(2, 4 + ranks.rank):  # each rank as many passes as it likes
            tokens = torch.from_numpy(batch[0].token_ids[:length]).long()[None]
            logits = learner.model(input_ids=tokens).logits[:, 1]
    found["alone"] = list(logits.numpy())
    learner.update(batch)  # and it goes on as a group
    return found


def go_on(ranks: Ranks, case: dict[str, Any], load: Path | None, save: Path | None) -> dict[str, Any]:
    """Three updates, from the beginning or from a checkpoint, and a checkpoint of them."""
    learner = build(ranks, case)
    if load is not None:
        learner.load(load)
    metrics = [learner.update(batch).metrics for batch in batches(case)[:3]]
    if save is not None:
        learner.save(save)
    return {"weights": weights_of(learner), "metrics": metrics}


def export(ranks: Ranks, case: dict[str, Any], directory: Path, trained_only: bool) -> None:
    build(ranks, case).export(directory, trained_only)


def exchange_without_the_others(ranks: Ranks) -> str:
    """What the first rank is told when it asks for a sum and nobody answers."""
    if ranks.rank > 0:
        return ""
    try:
        ranks.total(torch.ones(1))
    except RuntimeError as error:
        return str(error)
    return "no error"
