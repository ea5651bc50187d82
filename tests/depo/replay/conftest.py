"""Traces small enough to work through by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depo.replay.trace import Trace
from depo.types import Prompt


@pytest.fixture
def make_trace() -> Callable[..., Trace]:
    """A trace out of a matrix of successes; −1 means not recorded."""

    def make(successes_NT: Sequence[Sequence[int]], trials: int = 8, **more: object) -> Trace:
        k_NT = np.array(successes_NT)
        return Trace(
            source="hand-made",
            kind=more.pop("kind", "training"),  # type: ignore[arg-type]
            prompts=tuple(Prompt(f"p{i}", f"problem {i}", (), "") for i in range(len(k_NT))),
            successes_NT=k_NT,
            trials_NT=np.where(k_NT < 0, 0, trials),
            graded_NT=k_NT >= 0,
            steps_T=np.arange(1, k_NT.shape[1] + 1),
            kl_T=np.zeros(k_NT.shape[1]),
            **more,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """A Parquet file with the given columns."""

    def write(name: str = "trace.parquet", **columns: object) -> Path:
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def training_file(parquet: Callable[..., Path]) -> Path:
    """60 prompts, 12 visits, pass rates between 0 and 1 that stay as they are."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, size=60)
    return parquet(
        prompt_id=[f"q{i}" for i in range(60)],
        question=[f"question {i}" for i in range(60)],
        n=[8] * 60,
        k_correct=[rng.binomial(8, rate, size=12).tolist() for rate in rates],
        stale=[int(rng.binomial(128, rate)) if i % 5 else None for i, rate in enumerate(rates)],
    )
