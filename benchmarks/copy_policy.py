"""A tiny policy whose answers are long: it copies a row of digits, as a careless copyist taught it.

    32415...=   →   32425...        32 digits; with probability 0.15 the next one up is written instead

The quickstart's policy answers sums in three or four tokens; here it is 33, the end included. Same
architecture in small (see ``POLICY``), same character tokenizer and supervised fine-tuning; the copyist's
slips leave the policy something to be unsure of. Training stops at a loss that only a policy reaches which
copies (guessing costs 2.3 nats a token, the copyist's own entropy is 0.41); task, sizes and that loss were
fixed before routing was looked at.

    python -m benchmarks copy_policy OUT
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTTrainer

from depo.errors import DONE, say
from depo.models.experts import use_sorted_experts
from depo.recipe.schema import TinyMoePolicy, WarmStart
from depo.rng import generator
from depo.toy import tiny_moe
from depo.toy.grading import encode
from depo.toy.warm_start import training_arguments

DIGITS, SLIPS = 32, 0.15
SEED = 0
POLICY = TinyMoePolicy(hidden_size=64, layers=3, heads=4, kv_heads=2, experts=8, expert_size=64)
SETTINGS = WarmStart(max_steps=500, batch_size=64, lr=2e-3)
LOG_EVERY = 25  # steps

STOP_AT = 0.5
"""Mean loss over so many steps at which training stops, nats a token."""


def question(digits: np.ndarray) -> str:
    return written(digits) + "="


def written(digits: np.ndarray) -> str:
    return "".join(map(str, digits))


class StopWhenCopying(TrainerCallback):
    """Reports the loss now and then, keeps the weights, and stops at ``STOP_AT``."""

    def __init__(self, model: PreTrainedModel, directory: Path) -> None:
        self.model, self.directory = model, directory

    def on_log(self, args, state, control, logs, **_) -> None:
        if "loss" in logs:
            say(f"step {state.global_step}: loss {float(logs['loss']):.3f}")
            save(self.model, self.directory)
            control.should_training_stop = float(logs["loss"]) <= STOP_AT


def save(model: PreTrainedModel, directory: Path) -> None:
    """Through a fresh copy: SFTTrainer has replaced the model's forward."""
    fresh = AutoModelForCausalLM.from_pretrained(directory)
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(directory)


def train(directory: Path) -> None:
    """Build the quickstart's architecture in ``directory`` and teach it to copy."""
    tiny_moe.build(POLICY, directory, SEED)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    use_sorted_experts(model)
    rng, rows = generator(SEED, "rows to copy"), []
    for _ in range(SETTINGS.max_steps * SETTINGS.batch_size):
        digits, slips = rng.integers(0, 10, DIGITS), rng.random(DIGITS) < SLIPS
        asked, answer = encode(tokenizer, question(digits), written((digits + slips) % 10))
        rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(SETTINGS, Path(scratch), SEED)
        arguments.logging_strategy, arguments.logging_steps = "steps", LOG_EVERY
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[StopWhenCopying(model, directory)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    save(model, directory)
    show(directory)


@torch.no_grad()
def show(directory: Path) -> None:
    """Two greedy answers, and the share of digits that 64 of them copy."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    rows = generator(SEED, "rows to show").integers(0, 10, (64, DIGITS))
    asked = torch.tensor([tokenizer.encode(question(row), add_special_tokens=False) for row in rows])
    answers = model.generate(asked, max_new_tokens=DIGITS + 1, do_sample=False)[:, asked.shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    print(*(f"{question(row)}\n{text}" for row, text in zip(rows[:2], texts[:2], strict=True)), sep="\n")
    copied = [
        a == b
        for row, text in zip(rows, texts, strict=True)
        for a, b in zip(written(row), text, strict=False)
    ]
    print(f"{sum(copied) / rows.size:.3f} of the digits are copied")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="directory for the policy")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    train(options.out)
    return DONE
