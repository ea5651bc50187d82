"""What both sides are given to do: sizes, prompts, and a batch of rows whose lengths spread 1:8.

Shapes: N rows, T completion tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from depo.recipe.schema import ArithmeticSource
from depo.rng import generator
from depo.toy.arithmetic import generate
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
        policy may end at every token, so that lengths spread as widely as those of reasoning do."""
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
    return generate(source(workload))


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
