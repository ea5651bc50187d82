"""What today's policy shows of a prompt, for the estimator's eyes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from estimators.base import Recalled


@dataclass(frozen=True, slots=True)
class Sight:
    """``features`` (F,): the policy's view of the prompt. ``recalled``: how likely it finds its earlier
    answers. Each None where it was not asked for."""

    features: np.ndarray | None = None
    recalled: Recalled | None = None


NOTHING = Sight()
Sights = Mapping[str, Sight]
"""Prompt key → what was seen of the prompt."""
