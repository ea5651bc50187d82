"""The rewards that need no judge: exact match, a format, an overlong answer, and a weighted sum of rewards.

DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), with |y| the length of the completion, L_max the
generation limit and L_cache the buffer before it::

    R_length(y) = 0                                     |y| <= L_max − L_cache
                = ((L_max − L_cache) − |y|) / L_cache   L_max − L_cache < |y| <= L_max
                = −1                                    L_max < |y|
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from depo.reward.base import Reward, Sample, Score, unscorable
from depo.reward.registry import build


class ExactReward:
    """1.0 and correct on equality, else 0.0; an empty answer is unparseable. The answer is what follows the
    last mark ``after`` (nothing where there is none), or the whole completion.

    ``inline``: comparing two strings cannot hang, so it needs no worker process.
    """

    inline = True

    def __init__(self, after: str | None = None) -> None:
        self._after = after

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        answer = sample.completion
        if self._after is not None:
            _, mark, rest = answer.rpartition(self._after)
            answer = rest if mark else ""
        answer = answer.strip()
        correct = answer == sample.reference.strip()
        return Score(value=float(correct), correct=correct, unparseable=not answer and not correct)


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


def part_name(spec: Mapping[str, Any]) -> str:
    """What a part's component is called: its type, or the name of its plugin or function."""
    if spec["type"] == "plugin":
        return str(spec["name"])
    if spec["type"] == "function":
        return str(spec["path"]).rpartition(":")[2]
    return str(spec["type"])


class WeightedReward:
    """value = Σ weight · part's value; correct and unparseable are the first part's.

    ``components`` holds each part's own value, not yet weighted, under the part's name (a repeated name
    gets a number: format, format_2), and a part's own components as ``name.component``. One unscorable part
    makes the whole unscorable: half a sum would be a silently different reward.

    ``parts`` are mappings {weight, reward} with a reward spec each. Raises ``ValueError`` for an empty list
    or a bad spec.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        if not parts:
            raise ValueError("reward weighted: parts is empty; it needs at least one {weight, reward}")
        seen: Counter[str] = Counter()
        self._parts: list[tuple[str, float, Reward]] = []
        for part in parts:
            reward = build(part["reward"])
            name = part_name(part["reward"])
            seen[name] += 1
            label = name if seen[name] == 1 else f"{name}_{seen[name]}"
            self._parts.append((label, float(part.get("weight", 1.0)), reward))
        self.version = " ".join(str(getattr(reward, "version", "")) for _, _, reward in self._parts)
        self.inline = all(getattr(reward, "inline", False) for _, _, reward in self._parts)

    def prepare(self) -> None:
        """Have the parts import what they need."""
        for _, _, reward in self._parts:
            prepare = getattr(reward, "prepare", None)
            if prepare is not None:
                prepare()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        scores_by_part = [reward.score(samples) for _, _, reward in self._parts]
        return [self._combine(scores) for scores in zip(*scores_by_part, strict=True)]

    def _combine(self, scores: Sequence[Score]) -> Score:
        value = 0.0
        components: dict[str, float] = {}
        for (name, weight, _), score in zip(self._parts, scores, strict=True):
            if score.correct is None:
                return unscorable(f"{name}: {score.detail}")
            value += weight * score.value
            components[name] = score.value
            components.update({f"{name}.{key}": part for key, part in (score.components or {}).items()})
        return Score(value, scores[0].correct, scores[0].unparseable, components)
