"""How completions are scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from depo.config.block import Block, PositiveFloat


class MathReward(Block):
    """`math-verify` on the last boxed, LaTeX or plain answer."""

    type: Literal["math"] = "math"


class ExactReward(Block):
    """The stripped completion equals the stripped reference."""

    type: Literal["exact"] = "exact"


class FormatReward(Block):
    """The whole completion matches a regular expression."""

    type: Literal["format"] = "format"
    pattern: str = r".*\\boxed\{.+\}.*"


class OverlongReward(Block):
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 down to −1 over the last tokens."""

    type: Literal["overlong"] = "overlong"
    buffer: PositiveInt
    """Tokens before the limit over which the punishment grows."""


class ReasoningGymReward(Block):
    """The scorer that `reasoning_gym` ships with each task."""

    type: Literal["reasoning_gym"] = "reasoning_gym"


class FunctionReward(Block):
    """A function of your own by import path, ``package.module:function``; see docs/rewards.md."""

    type: Literal["function"] = "function"
    path: str
    """Module and name, with a colon between them."""
    correct_at: float = 1.0
    """Value from which a sample counts as correct, when the function returns plain numbers."""


class PluginReward(Block):
    """A reward registered by a package under the entry-point group ``depo.rewards``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


class WeightedReward(Block):
    """A weighted sum. Correctness is the first part's."""

    type: Literal["weighted"] = "weighted"
    parts: list[WeightedPart] = Field(min_length=1)


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
    weight: float = 1.0
    reward: RewardSpec


class Verification(Block):
    """Killable worker processes in which rewards are computed."""

    workers: PositiveInt = 2
    timeout: PositiveFloat = 5.0
    """Seconds one sample may take before it is unscorable."""
