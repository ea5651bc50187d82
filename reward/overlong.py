"""DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13).

With |y| the length of the completion, L_max the generation limit and L_cache the buffer before it::

    R_length(y) = 0                                     |y| <= L_max − L_cache
                = ((L_max − L_cache) − |y|) / L_cache   L_max − L_cache < |y| <= L_max
                = −1                                    L_max < |y|
"""

from __future__ import annotations

from collections.abc import Sequence

from reward.base import Sample, Score


def overlong_punishment(tokens: int, max_tokens: int, buffer: int) -> float:
    """R_length in [−1, 0] for a completion of ``tokens`` tokens; all three are in tokens, ``buffer`` > 0."""
    free = max_tokens - buffer
    if tokens <= free:
        return 0.0
    if tokens <= max_tokens:
        return (free - tokens) / buffer
    return -1.0


class OverlongReward:
    """The punishment as a reward; meant as a part of a weighted sum, after the part that decides correctness.

    On its own, a completion is correct when it is not punished. The limit L_max is each sample's own
    ``max_tokens``. ``inline``: arithmetic cannot hang.

    Raises ``ValueError`` when ``buffer`` is not positive.
    """

    inline = True

    def __init__(self, buffer: int) -> None:
        if buffer <= 0:
            raise ValueError(f"reward overlong: buffer must be a positive number of tokens, found {buffer}")
        self._buffer = buffer

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        values = [overlong_punishment(sample.tokens, sample.max_tokens, self._buffer) for sample in samples]
        return [Score(value=value, correct=value == 0.0) for value in values]
