"""What a completion token of each model costs.

Generating a token takes about two operations for every parameter it passes through, so the cost of a question
is its completion tokens times the model's active parameters. Prompts are left out: reading one is parallel,
cheap beside generation, and the same question for both. So is the estimator, which reads a question once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depo.errors import UserError


@dataclass(frozen=True, slots=True)
class Price:
    """Of one completion token of each model; ``source`` says where it is from."""

    small: float
    large: float
    source: str

    def described(self) -> dict[str, Any]:
        return {
            "small": self.small,
            "large": self.large,
            "ratio": self.large / self.small,
            "source": self.source,
        }


def price_of(small: Mapping[str, Any], large: Mapping[str, Any], cost_ratio: float | None) -> Price:
    """From ``--cost-ratio`` where it is given, else from the active parameters of the two evaluations. Raises
    UserError where neither is known."""
    if cost_ratio is not None:
        return Price(1.0, cost_ratio, "given as --cost-ratio")
    parameters = {}
    for side, document in (("small", small), ("large", large)):
        # Evaluations of before this was recorded lack the key.
        parameters[side] = document["model"].get("active_parameters")
        if parameters[side] is None:
            raise UserError(
                f"--{side} {document['model']['name']}: its active parameters are not known, so neither is "
                "its cost; give --cost-ratio R: what a token of the large model costs in tokens of the small"
            )
    return Price(float(parameters["small"]), float(parameters["large"]), "active parameters")
