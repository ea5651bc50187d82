"""Format reward: the whole completion matches a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reward.base import Sample, Score


class FormatReward:
    """1.0 and correct when ``pattern`` matches the whole completion (`re.fullmatch`, dot matches newlines).

    Not ``inline``: a pattern with nested quantifiers can backtrack for ever.

    Raises ``ValueError`` when the pattern does not compile.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(
                f"reward format: pattern {pattern!r} is no regular expression: {error}"
            ) from error

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        matches = [self._pattern.fullmatch(sample.completion) is not None for sample in samples]
        return [Score(value=float(match), correct=match) for match in matches]
