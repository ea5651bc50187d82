"""The learning rate over a run, as a factor on its peak."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(schedule: Literal["constant", "linear", "cosine"], step: int, warmup: int, total: int) -> float:
    """Factor in (0, 1] for update ``step`` (from 0) of a run of ``total`` updates.

    Rises linearly over the first ``warmup`` updates, none of which is wasted at 0, and is 1 at update
    ``warmup``. From there constant, or towards 0 at ``total``, which no update reaches.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
