"""Made-up samples, and what a completion is in them. 40 tokens; N samples, T completion tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depo.types import TrainSample

VOCABULARY = 40


def build_batch(seed: int = 0, groups: int = 3, group_size: int = 4) -> list[TrainSample]:
    """Unequal lengths, every group mixed. Engine log-probabilities are made up around a plausible level."""
    rng = np.random.default_rng(seed)
    n = groups * group_size
    prompts = [rng.integers(2, VOCABULARY, size=rng.integers(2, 6), dtype=np.int32) for _ in range(groups)]
    completions = [rng.integers(1, VOCABULARY, size=rng.integers(1, 10), dtype=np.int32) for _ in range(n)]
    advantages = rng.normal(size=n).astype(np.float32)
    engine = [rng.normal(-3.5, 0.5, size=len(c)).astype(np.float32) for c in completions]
    return [
        TrainSample.of_completion(
            prompts[i // group_size],
            completions[i],
            engine[i],
            advantage=float(advantages[i]),
            group=i // group_size,
            index=i % group_size,
        )
        for i in range(n)
    ]


def equal_groups() -> list[TrainSample]:
    """Two groups of two, one right and one wrong in each, all completions of five tokens."""
    rng = np.random.default_rng(0)
    completions = [rng.integers(2, VOCABULARY, size=5, dtype=np.int32) for _ in range(4)]
    engine = np.full(5, -3.7, np.float32)
    return [
        TrainSample.of_completion([3, 4], completion, engine, advantage=1.0 - 2 * (i % 2), group=i // 2)
        for i, completion in enumerate(completions)
    ]


def prompt_of(sample: TrainSample) -> np.ndarray:
    return sample.token_ids[: sample.start]


def completion_of(sample: TrainSample) -> np.ndarray:
    return sample.token_ids[sample.start :]


def sequences_of(batch: Sequence[TrainSample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prompt, completion) of each sample."""
    return [(prompt_of(sample), completion_of(sample)) for sample in batch]


def engine_of(batch: Sequence[TrainSample]) -> list[np.ndarray]:
    """The engine's log-probabilities of the completions, (T,) each."""
    return [sample.logprobs[sample.loss_mask] for sample in batch]


def with_engine(batch: Sequence[TrainSample], values: Sequence[np.ndarray]) -> list[TrainSample]:
    """The batch with other engine log-probabilities of the completions, (T,) each."""
    return [
        replace(sample, logprobs=np.concatenate([np.zeros(sample.start, np.float32), completion]))
        for sample, completion in zip(batch, values, strict=True)
    ]


def with_advantages(batch: Sequence[TrainSample], advantages_N: Sequence[float]) -> list[TrainSample]:
    return [replace(s, advantage=float(a)) for s, a in zip(batch, advantages_N, strict=True)]
