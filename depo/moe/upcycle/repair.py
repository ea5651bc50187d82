"""How far a mixture is from the dense model it was made of, on text. T tokens of a passage, V vocabulary.

Distil a freshly upcycled mixture from its dense parent, so that it can answer at all.

With some experts silent and some of their dimensions drawn anew, a mixture speaks gibberish. A short
training of experts and routers alone, towards the parent's next-token distributions (forward KL at
temperature 1, every position), brings it back; attention, norms and embeddings stay the parent's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from depo.moe.upcycle.text import seeded
from depo.rng import seed64


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over all positions unless stated; logits as they are, KL in nats."""

    tokens: int
    logit_error_max: float
    logit_error_mean: float
    kl: float
    """KL(dense ‖ mixture) of the next-token distributions."""
    kl_max: float
    same_top_token: float
    """Share of positions with the same most likely token."""


@torch.no_grad()
def fidelity(dense: PreTrainedModel, moe: PreTrainedModel, passages: Sequence[Tensor]) -> Fidelity:
    """Compare the two, which are on one device, on passages of token ids (T,), each alone."""
    errors, divergences, agreements = [], [], []
    for tokens_T in passages:
        tokens_1T = tokens_T.unsqueeze(0).to(dense.device)
        dense_TV = dense(input_ids=tokens_1T).logits[0].double()
        moe_TV = moe(input_ids=tokens_1T).logits[0].double()
        errors.append((dense_TV - moe_TV).abs())
        divergences.append(kl_divergence(dense_TV, moe_TV))
        agreements.append(dense_TV.argmax(-1) == moe_TV.argmax(-1))
    kl_M = torch.cat(divergences)
    return Fidelity(
        tokens=len(kl_M),
        logit_error_max=max(float(error.max()) for error in errors),
        logit_error_mean=sum(float(error.sum()) for error in errors) / sum(error.numel() for error in errors),
        kl=float(kl_M.mean()),
        kl_max=float(kl_M.max()),
        same_top_token=float(torch.cat(agreements).double().mean()),
    )


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(target ‖ other) in nats over the last dimension, one number for each position."""
    target = target_logits.log_softmax(-1)
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)


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
