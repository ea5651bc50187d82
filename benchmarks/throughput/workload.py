"""What both sides are given to do: sizes, prompts, a batch of rows whose lengths spread 1:8, depo's recipes.

Shapes: N rows, T completion tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np

from benchmarks.selection.arms import estimator_block, selection_block
from depo.recipe.schema import ArithmeticSource, Recipe
from depo.reward.base import Sample
from depo.rng import generator
from depo.toy.arithmetic import arithmetic_rows
from depo.types import TrainSample

GROUP_SIZE = 8

SPREAD = 8
"""Longest completion of the learner's batch by its shortest."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes of one comparison. ``micro_rows`` × longest row is the memory budget of a pass on both sides:
    TRL's per-device batch size, depo's ``tokens_per_microbatch``."""

    model: str
    seed: int
    threads: int
    steps: int
    """Timed steps end to end; one more goes before them."""
    prompts: int
    """Groups a step."""
    max_new_tokens: int
    micro_rows: int
    pool: int
    """Prompts to draw from, all sums of two two-digit numbers."""
    prompt_tokens: int
    """Longest prompt of the pool."""
    rows: int
    """Of the learner's batch."""
    row_prompt_tokens: int
    longest: int
    """Completion tokens of its longest row."""
    row_micro_rows: int
    updates: int
    """Timed updates of the learner; one more goes before them."""
    lr: float = 1e-6

    @property
    def tokens_per_microbatch(self) -> int:
        """Of the end-to-end runs."""
        return self.micro_rows * (self.prompt_tokens + self.max_new_tokens)

    @property
    def row_tokens_per_microbatch(self) -> int:
        """Of the learner's batch."""
        return self.row_micro_rows * (self.row_prompt_tokens + self.longest)

    def long(self) -> Self:
        """The same, with as long completions as the learner's batch has, and passes as large. An untrained
        policy may end at every token: lengths spread as widely as those of reasoning do."""
        return replace(
            self,
            max_new_tokens=self.longest,
            micro_rows=self.row_micro_rows,
            steps=max(self.steps // 3, 1),
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def sizes(self) -> dict[str, Any]:
        """For the record, without the model's place."""
        return {name: value for name, value in asdict(self).items() if name != "model"} | {
            "group_size": GROUP_SIZE,
            "spread": SPREAD,
        }


def source(workload: Workload) -> ArithmeticSource:
    """Where both sides' prompts come from."""
    return ArithmeticSource(operations=["+"], digits=[2], size=workload.pool, seed=workload.seed)


def problems(workload: Workload) -> list[tuple[str, str]]:
    """(question, answer) pairs of the pool."""
    return [(question, answer) for question, answer, _ in arithmetic_rows(source(workload), "data.train")]


def spread_lengths(workload: Workload) -> np.ndarray:
    """(N,) completion lengths, evenly from longest / 8 to longest, shuffled."""
    lengths_N = np.linspace(workload.longest / SPREAD, workload.longest, workload.rows).round().astype(int)
    return generator(workload.seed, "spread_lengths").permutation(lengths_N)


def spread_batch(workload: Workload, vocabulary: int) -> list[TrainSample]:
    """Rows of random tokens: what they say costs nothing, how long they are does."""
    rng = generator(workload.seed, "spread_batch")
    groups = workload.rows // GROUP_SIZE
    prompts = rng.integers(3, vocabulary, size=(groups, workload.row_prompt_tokens), dtype=np.int32)
    lengths_N = spread_lengths(workload)
    completions = [rng.integers(3, vocabulary, size=length, dtype=np.int32) for length in lengths_N]
    advantages_N = rng.normal(size=workload.rows).astype(np.float32)
    return [
        TrainSample.of_completion(
            prompts[row // GROUP_SIZE],
            completion,
            np.full(len(completion), -1.0, dtype=np.float32),  # not used
            advantage=float(advantages_N[row]),
            group=row // GROUP_SIZE,
        )
        for row, completion in enumerate(completions)
    ]


def batch_tokens(batch: Sequence[TrainSample]) -> int:
    """Prompt and completion tokens of all rows, padding not counted."""
    return sum(map(len, batch))


LIVE_POOL = 1000
LIVE_PROMPTS = 32

LIVE_NEW_TOKENS = 8
"""Sizes of the quickstart."""


def against_trl(workload: Workload) -> Recipe:
    """What GRPOTrainer does: every prompt drawn is rolled out once and trained on."""
    return recipe(
        workload,
        {
            "name": "against_trl",
            "steps": 1 + workload.steps,
            "data": data(workload, workload.pool),
            "batch": {"prompts": workload.prompts, "group_size": GROUP_SIZE},
            "rollout": rollout(workload.max_new_tokens, workload.prompts * GROUP_SIZE),
            "reward": {"type": "exact"},
            "estimator": {"type": "uniform"},
            "selection": selection_block({"type": "uniform", "refill": False}),
            "learner": learner(workload, workload.tokens_per_microbatch) | {"zero_variance": "include"},
        },
    )


def live_selection(workload: Workload, steps: int, warm_up: int) -> Recipe:
    """The quickstart's sizes, with an estimator that does not ask the policy (``prefill_probe: false``)
    and refill from the whole pool, to see what they cost once they are at work.

    The policy is untrained, so outcomes come from ``known_difficulty``: each prompt has a pass rate of its
    own, and the estimator has as much to learn as in a real run. The rule selects from the first step.
    """
    prompts = min(LIVE_PROMPTS, workload.prompts)
    return recipe(
        workload,
        {
            "name": "live_selection",
            "steps": warm_up + steps,
            "data": data(workload, LIVE_POOL),
            "batch": {"prompts": prompts, "group_size": GROUP_SIZE},
            "rollout": rollout(min(LIVE_NEW_TOKENS, workload.max_new_tokens), 4 * LIVE_PROMPTS * GROUP_SIZE),
            "reward": {"type": "function", "path": "benchmarks.throughput.workload:known_difficulty"},
            "estimator": estimator_block({"type": "hybrid"}),
            "selection": selection_block({"type": "thompson", "refill": True, "min_window": 0}),
            "learner": learner(workload, workload.tokens_per_microbatch),
        },
    )


def recipe(workload: Workload, blocks: dict[str, Any]) -> Recipe:
    """What all of depo's runs share."""
    return Recipe.model_validate(
        blocks
        | {
            "seed": workload.seed,
            "policy": {"type": "pretrained", "model": workload.model, "dtype": "float32"},
            "evaluation": {"at_start": False, "at_end": False},
            "checkpoint": {"every": 0},
            "resources": {"threads": workload.threads},
        }
    )


def data(workload: Workload, size: int) -> dict[str, Any]:
    train = source(workload).model_dump() | {"size": size}
    return {"train": train, "raw": True, "max_prompt_tokens": workload.prompt_tokens}


def rollout(max_new_tokens: int, batch_size: int) -> dict[str, Any]:
    return {"max_new_tokens": max_new_tokens, "transformers": {"batch_size": batch_size}}


def learner(workload: Workload, tokens: int) -> dict[str, Any]:
    return {
        "loss": {"type": "dapo"},
        "correction": {"type": "none"},
        "baseline": {"type": "group"},
        "lr": workload.lr,
        "tokens_per_microbatch": tokens,
        "device": "cpu",
    }


def known_difficulty(sample: Sample) -> float:
    """Right with probability 0, 0.1, … or 0.9, by the prompt: a hash of the completion decides."""
    threshold = crc32(sample.prompt.encode()) % 10
    return float(crc32((sample.prompt + "\x1f" + sample.completion).encode()) % 10 < threshold)
