"""The transformers engine as the driver sees it: in the learner's process, on the learner's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from depo.learner.actor import RemoteLearner, Sequences
from depo.rollout.engine import Sampling, WeightUpdate
from depo.types import Request, Rollout


class ColocatedEngine:
    """A RolloutEngine on a RemoteLearner. ``load_weights`` copies nothing: the weights are shared."""

    def __init__(self, learner: RemoteLearner) -> None:
        self.learner = learner

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        yield from self.learner.generate(list(requests), sampling)

    def load_weights(self, update: WeightUpdate) -> int:
        return self.learner.serve(update.version)

    def score(self, sequences: Sequences) -> Sequence[np.ndarray]:
        return self.learner.score(sequences)

    def close(self) -> None:
        """Nothing of its own to end."""
