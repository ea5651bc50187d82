"""How completions are scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from depo.recipe.schema.block import Block, Count, Number, Plugin, Processes, Seconds, Tokens
from depo.recipe.schema.data import ReasoningGymSource, Source


class MathReward(Block):
    """`math-verify` on the last boxed, LaTeX or plain answer."""

    type: Literal["math"] = "math"


class ExactReward(Block):
    """The stripped completion, or its end, equals the stripped reference."""

    type: Literal["exact"] = "exact"
    after: Annotated[str, Field(min_length=1)] | None = None
    """Compare only what follows the last of these marks ("####"); null: the whole completion."""


class FormatReward(Block):
    """The whole completion matches a regular expression."""

    type: Literal["format"] = "format"
    pattern: str = r".*\\boxed\{.+\}.*"
    """Regular expression; a dot matches newlines too."""


class OverlongReward(Block):
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 down to −1 over the last tokens."""

    type: Literal["overlong"] = "overlong"
    buffer: Tokens
    """Tokens before the limit over which the punishment grows; fewer than the limit has."""


class ReasoningGymReward(Block):
    """The scorer that `reasoning_gym` ships with each task."""

    type: Literal["reasoning_gym"] = "reasoning_gym"


class FunctionReward(Block):
    """A function of your own, ``./FILE.py:function`` or ``package.module:function``; see docs/rewards.md."""

    type: Literal["function"] = "function"
    path: str
    """File (relative to the working directory) or module, a colon, and the function's name."""
    correct_at: Number = 1.0
    """Value from which a sample counts as correct, when the function returns plain numbers."""


class PluginReward(Plugin):
    """A reward registered by a package under the entry-point group ``depo.rewards``."""

    group = "depo.rewards"


class WeightedReward(Block):
    """A weighted sum. Correctness is the first part's."""

    type: Literal["weighted"] = "weighted"
    parts: list[WeightedPart] = Field(min_length=1)
    """What is added up."""


RewardSpec = Annotated[
    MathReward
    | ExactReward
    | FormatReward
    | OverlongReward
    | ReasoningGymReward
    | FunctionReward
    | PluginReward
    | WeightedReward,
    Field(discriminator="type"),
]


class WeightedPart(Block):
    weight: Number = 1.0
    """The part's value is multiplied by it."""
    reward: RewardSpec
    """The reward of this part."""


WeightedReward.model_rebuild()


def plain_rewards(key: str, reward: RewardSpec) -> Iterator[tuple[str, RewardSpec]]:
    """The rewards, by key, of which one consists: itself, or what a weighted sum adds up. The first decides
    what is correct."""
    if isinstance(reward, WeightedReward):
        for index, part in enumerate(reward.parts):
            yield from plain_rewards(f"{key}.parts.{index}.reward", part.reward)
    else:
        yield key, reward


def check_judge(reward_key: str, reward: RewardSpec, source_key: str, source: Source) -> None:
    """Raise ValueError where a reward cannot judge answers to a source's problems: the reference of a
    reasoning_gym task is an entry for its own scorer, which knows no others."""
    key, judge = next(plain_rewards(reward_key, reward))
    generated = isinstance(source, ReasoningGymSource)
    if generated and isinstance(judge, MathReward | ExactReward):
        raise ValueError(
            f"{key}.type {judge.type} cannot judge {source_key}.type reasoning_gym, whose tasks have scorers "
            "of their own; it takes reasoning_gym"
        )
    if isinstance(judge, ReasoningGymReward) and not generated:
        raise ValueError(
            f"{key}.type reasoning_gym judges tasks of reasoning_gym only; {source_key}.type is {source.type}"
        )


def check_buffers(reward_key: str, reward: RewardSpec, limit_key: str, limit: int) -> None:
    """Raise ValueError where overlong would punish every completion, whose ``limit`` is in tokens."""
    for key, part in plain_rewards(reward_key, reward):
        if isinstance(part, OverlongReward) and part.buffer >= limit:
            raise ValueError(
                f"{key}.buffer {part.buffer} must be smaller than {limit_key} {limit}, or completions are "
                "punished from their first token"
            )


class Verification(Block):
    """Killable worker processes in which rewards are computed."""

    workers: Processes = 2
    """Worker processes."""
    timeout: Seconds = 5.0
    """Seconds one sample may take before it is unscorable."""
    memory_mb: Annotated[Count, Field(ge=256)] | None = 4096
    """Memory of one worker, in MiB (Linux). A sample that needs more is unscorable; null: no limit."""
