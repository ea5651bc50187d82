"""Distil a freshly upcycled mixture from its dense parent, so that it can answer at all.

With some experts silent and some of their dimensions drawn anew, a mixture speaks gibberish. A short
training of experts and routers alone, towards the parent's next-token distributions (forward KL at
temperature 1, every position), brings it back; attention, norms and embeddings stay the parent's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from depo.rng import seed64
from depo.upcycle.fidelity import kl_divergence
from depo.upcycle.text import seeded

WARMUP = 0.1  # share of the steps


class Sequences(Dataset):
    """Token ids (T,), one sequence an item."""

    def __init__(self, sequences: Sequence[Tensor]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Tensor:
        return self.sequences[index]


def pad(sequences: list[Tensor]) -> dict[str, Tensor]:
    """Right-padded ``input_ids`` and ``attention_mask`` (B, T)."""
    input_ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1)
    return {"input_ids": input_ids, "attention_mask": mask.long()}


class Distillation(Trainer):
    """transformers' Trainer towards a parent's distributions instead of towards labels."""

    def __init__(self, parent: PreTrainedModel, **settings: Any) -> None:
        super().__init__(**settings)
        self.parent = parent

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        """Mean KL(parent ‖ model) of the batch's real positions, in nats."""
        with torch.no_grad():
            wanted_BTV = self.parent(**inputs).logits
        kl_BT = kl_divergence(wanted_BTV, model(**inputs).logits)
        mask_BT = inputs["attention_mask"].bool()
        return kl_BT[mask_BT].mean()


class Progress(TrainerCallback):
    """One line now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.say(f"repair step {state.global_step} of {state.max_steps}: KL {float(logs['loss']):.3g}")


def repair(
    moe: PreTrainedModel,
    parent: PreTrainedModel,
    sequences: Sequence[Tensor],
    *,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train experts and routers of ``moe`` in place for ``steps`` steps of ``batch`` sequences, where it and
    ``parent`` are."""
    device = moe.device
    for name, parameter in moe.named_parameters():
        parameter.requires_grad_(".mlp." in name)
    forked = torch.random.fork_rng(devices=seeded())
    with tempfile.TemporaryDirectory(prefix="depo-repair-") as scratch, forked:
        settings = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=lr,
            lr_scheduler_type="cosine",
            warmup_steps=round(WARMUP * steps),
            seed=seed64(seed, "repair") % 2**32,  # numpy takes no larger one
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=max(1, steps // 10),
            report_to="none",
            disable_tqdm=True,
        )
        settings._n_gpu = min(1, settings.n_gpu)  # of several GPUs the Trainer would use all, by threads
        trainer = Distillation(
            parent,
            model=moe,
            args=settings,
            train_dataset=Sequences(sequences),
            data_collator=pad,
            callbacks=[Progress(say)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    moe.requires_grad_(True).eval()
