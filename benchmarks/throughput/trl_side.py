"""TRL's side: ``python -m benchmarks.throughput.trl_side train | update WORK_DIR``.

``train`` is GRPOTrainer as it comes, with a clock around generation. ``update`` replaces generation by one
batch, padded as GRPOTrainer pads what it generated, and leaves all the rest to the trainer: cutting into
micro-batches, loss, accumulation, clipping, optimizer. Both write ``result.json`` into WORK_DIR.

Settings that differ from GRPOConfig's defaults are those that the comparison fixes (sizes, DAPO's loss and
clip range, learning rate) and those that make it faster here: no gradient checkpointing, float32 without
autocast, no checkpoints, nothing reported, and for a mixture of experts the expert loop that is faster on
a CPU, as depo chooses it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from benchmarks.throughput.workload import GROUP_SIZE, Workload, batch_tokens, problems, spread_batch
from depo.reward.base import Sample
from depo.reward.rules import ExactReward
from depo.types import TrainSample


class Timed(GRPOTrainer):
    """GRPOTrainer that notes the seconds of generating and scoring, and the tokens it got."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generate_seconds: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[Tensor] = []

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        start = time.perf_counter()
        output = self.rollouts(inputs)
        self.generate_seconds.append(time.perf_counter() - start)
        self.tokens.append(int(output["prompt_mask"].sum() + output["completion_mask"].sum()))
        return output

    def rollouts(self, inputs: Any) -> dict[str, Any]:
        return super()._generate_and_score_completions(inputs)

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        loss = super().training_step(*args, **options)
        self.losses.append(loss.detach())
        return loss


class Given(Timed):
    """The same, trained on one batch instead of what it generates."""

    batch: dict[str, Tensor]

    def rollouts(self, inputs: Any) -> dict[str, Any]:
        return dict(self.batch)


class Stamps(TrainerCallback):
    """When each step began and ended, seconds since the epoch; keeps the first step's gradient on demand."""

    def __init__(self, gradient: Path | None = None) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []
        self.gradient = gradient

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began.append(time.time())

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        if self.gradient is not None and not self.ended:
            named = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
            np.savez(self.gradient, **named)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.time())


def exact_match(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
    samples = [
        Sample(completion, reference, 0, "stop", 0)
        for completion, reference in zip(completions, answer, strict=True)
    ]
    return [score.value for score in ExactReward().score(samples)]


def train(directory: Path, workload: Workload) -> dict[str, Any]:
    """Whole steps with generation."""
    stamps = Stamps()
    rows = workload.prompts * GROUP_SIZE
    config = settings(directory, workload, rows, workload.micro_rows, workload.max_new_tokens, workload.steps)
    trainer = make_trainer(Timed, workload, config, stamps)
    prompts = trainer.train_dataset["prompt"][:64]
    trainer.train()
    return {
        "prompt_tokens": {prompt: trainer.processing_class(text=prompt)["input_ids"] for prompt in prompts},
        "begun": stamps.began[0],
        "stamps": stamps.ended,
        "generate_seconds": trainer.generate_seconds,
        "update_seconds": update_seconds(stamps, trainer),
        "tokens": trainer.tokens,
    }


def update(directory: Path, workload: Workload) -> dict[str, Any]:
    """Seconds of each update on the given batch, loss and gradient of the first."""
    stamps = Stamps(directory / "gradient.npz")
    config = settings(
        directory, workload, workload.rows, workload.row_micro_rows, workload.longest, workload.updates
    )
    trainer = make_trainer(Given, workload, config, stamps)
    tokenizer = trainer.processing_class
    batch = spread_batch(workload, len(tokenizer))
    trainer.batch = padded_batch(batch, tokenizer.pad_token_id)
    trainer.train()
    cells = trainer.batch["prompt_mask"].numel() + trainer.batch["completion_mask"].numel()
    tokens = batch_tokens(batch)
    return {
        "loss": float(torch.stack(trainer.losses[: workload.rows // workload.row_micro_rows]).sum()),
        "padding_share": 1 - tokens / cells,
        "tokens": tokens,
        "seconds": update_seconds(stamps, trainer)[1:],
    }


def settings(
    directory: Path, workload: Workload, rows: int, micro_rows: int, max_new_tokens: int, steps: int
) -> GRPOConfig:
    """For ``rows`` completions a step in passes of ``micro_rows``, and ``steps`` steps after the first."""
    return GRPOConfig(
        output_dir=str(directory / "trainer"),
        seed=workload.seed,
        per_device_train_batch_size=micro_rows,
        gradient_accumulation_steps=rows // micro_rows,
        num_generations=GROUP_SIZE,
        max_completion_length=max_new_tokens,
        max_steps=1 + steps,
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        beta=0.0,
        learning_rate=workload.lr,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        router_aux_loss_coef=0.0,
    )


def make_trainer(kind: type[Timed], workload: Workload, config: GRPOConfig, stamps: Stamps) -> Any:
    model = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32)
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(workload.model)
    pairs = problems(workload)
    return kind(
        model=model,
        reward_funcs=exact_match,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [q for q, _ in pairs], "answer": [a for _, a in pairs]}),
        processing_class=tokenizer,
        callbacks=[stamps],
    )


def update_seconds(stamps: Stamps, trainer: Timed) -> list[float]:
    """Of each step: all of it but generating and scoring."""
    return [
        ended - began - generating
        for began, ended, generating in zip(stamps.began, stamps.ended, trainer.generate_seconds, strict=True)
    ]


def padded_batch(batch: Sequence[TrainSample], pad_token_id: int) -> dict[str, Tensor]:
    """The rows as GRPOTrainer holds its own: prompts padded on the left, completions on the right."""
    prompt_ids, prompt_mask = padded([s.token_ids[: s.start] for s in batch], pad_token_id, left=True)
    completions = [s.token_ids[s.start :] for s in batch]
    completion_ids, completion_mask = padded(completions, pad_token_id, left=False)
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([s.advantage for s in batch], dtype=torch.float32),
        "num_items_in_batch": completion_mask.sum(),
    }


def padded(rows: list[np.ndarray], pad_token_id: int, left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    values = torch.full((len(rows), longest), pad_token_id)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(len(row))
        values[i, where] = torch.from_numpy(row.astype(np.int64))
        mask[i, where] = 1
    return values, mask


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    work = Workload.read(place / "workload.json")
    torch.set_num_threads(work.threads)
    logging.set_verbosity_error()
    (place / "result.json").write_text(json.dumps({"train": train, "update": update}[mode](place, work)))
