"""A weighted sum of rewards, of which the first decides what counts as correct."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reward.base import Reward, Sample, Score, unscorable
from reward.registry import build


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
