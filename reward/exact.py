"""Exact match: the stripped completion is the stripped reference."""

from __future__ import annotations

from collections.abc import Sequence

from reward.base import Sample, Score


class ExactReward:
    """1.0 and correct on equality, else 0.0; an empty completion is unparseable.

    ``inline``: comparing two strings cannot hang, so it needs no worker process.
    """

    inline = True

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        answer = sample.completion.strip()
        correct = answer == sample.reference.strip()
        return Score(value=float(correct), correct=correct, unparseable=not answer and not correct)
