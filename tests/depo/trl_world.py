"""A GRPOTrainer small enough to train in seconds on a CPU.

A third of the prompts is always right and a third never, whatever the policy says; of the others a completion
is right if its text has an odd number of characters.

TRL is imported where it is used: with it comes vLLM where there is one, and every process that collects tests
would wait for both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import debug_launcher
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from depo.integrations.trl import DifficultySampling
from depo.selection import Picker
from depo.toy.tiny_moe import character_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

G = 4


def rows(n: int = 90) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": f"{i}+{i % 7}=", "row": i, "level": i % 3} for i in range(n)])


def picker(n: int = 90, **options: Any) -> Picker:
    """Whose rule chooses from the start."""
    return Picker(rows(n)["prompt"], **{"group_size": G, "min_window": 0, "audit": 0.2} | options)


class Seen:
    """The reward function; keeps the rows of every call and their rewards."""

    __name__ = "odd"

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.rewards: list[list[float]] = []

    def __call__(
        self, completions: Sequence[str], row: Sequence[int], level: Sequence[int], **_: Any
    ) -> list[float]:
        self.rows.append(list(row))
        self.rewards.append(
            [(0.0, 1.0, float(len(text) % 2))[kind] for text, kind in zip(completions, level, strict=True)]
        )
        return self.rewards[-1]


def trainer(
    directory: Path,
    reward: Any,
    kind: type | None = None,
    config: dict[str, Any] | None = None,
    args: type | None = None,
    n: int = 90,
    data: Any = None,
    **options: Any,
) -> Any:
    """A GRPOTrainer that picks its prompts, or one of another ``kind``."""
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(DifficultySampling, GRPOTrainer):
        pass

    logging.set_verbosity_error()
    tokenizer = character_tokenizer(64)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **shape, **ids))
    settings = {
        "output_dir": str(directory),
        "max_steps": 6,
        "per_device_train_batch_size": 8 * G,
        "num_generations": G,
        "max_completion_length": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    return (kind or Trainer)(
        model=model,
        reward_funcs=reward,
        args=(args or GRPOConfig)(**settings | (config or {})),
        train_dataset=rows(n) if data is None else data,
        processing_class=tokenizer,
        **options,
    )


class Told(Picker):
    """Remembers what it was told."""

    def report(
        self, key: Any, correct: int, total: int, tokens: int | None = None, unscorable: int = 0
    ) -> None:
        self.told = [*getattr(self, "told", []), [self.row(key), correct, total, tokens, unscorable]]
        super().report(key, correct, total, tokens, unscorable)


def one_of_several(directory: Path) -> None:
    """What each process of a launcher does: train, and write what it saw. Batches of three groups, one of
    them on both processes."""
    seen = Seen()
    one = Told(rows()["prompt"], group_size=G, min_window=0)
    here = trainer(directory, seen, config={"max_steps": 3, "per_device_train_batch_size": 6}, picker=one)
    process = here.accelerator.process_index
    if process != 0:
        here.picker = None  # using it would be an error
    here.train()
    log = here.state.log_history
    written = {"rows": seen.rows, "rewards": seen.rewards, "told": getattr(one, "told", []), "log": log}
    (directory / f"seen_{process}.json").write_text(json.dumps(written))


if __name__ == "__main__":  # a process of its own: one that Ray's threads run in had better not be forked
    debug_launcher(one_of_several, args=(Path(sys.argv[1]),), num_processes=2)
