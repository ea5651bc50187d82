"""What was picked for one update: from the first pick until its groups are observed and assigned.

Several steps may be open at once, and are observed and assigned in any order. A step holds all that belongs
to it alone, and survives a checkpoint. F: features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from depo.estimators.base import Candidate, Context
from depo.types import Group, Origin, Pick, Prompt

ROUNDING = 1e-9
"""Of beliefs about prompts that nothing tells apart."""


@dataclass(eq=False)
class OpenStep:
    """``rule`` is who picks: the rule's name, or "uniform". It is fixed when the step begins.

    ``picks`` are in request order, refills included; ``candidates`` are the prompts as the policy showed them
    in this step, by key. ``observed`` and ``assigned`` hold prompt keys; ``assigned`` is None before that.
    """

    context: Context
    rule: str
    rounds: int = 0
    picks: list[Pick] = field(default_factory=list)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)
    assigned: set[str] | None = None

    @property
    def used(self) -> set[str]:
        """Keys of the prompts picked so far."""
        return {pick.prompt.key for pick in self.picks}

    @property
    def blind(self) -> bool:
        """Whether several prompts were picked and all are predicted alike: nothing tells them apart."""
        predicted_N2 = [(pick.predicted_mean, pick.predicted_informative) for pick in self.picks]
        return len(predicted_N2) > 1 and float(np.ptp(predicted_N2, axis=0).max()) < ROUNDING

    @property
    def over(self) -> bool:
        """Whether outcomes are assigned, and the same groups observed."""
        return self.assigned is not None and self.assigned <= self.observed

    def in_request_order(self, groups: Sequence[Group]) -> list[Group]:
        """Raises ValueError for a group that does not answer one of this step's picks."""
        order = {pick.prompt.key: row for row, pick in enumerate(self.picks)}
        for group in groups:
            row = order.get(group.pick.prompt.key)
            if row is None:
                raise ValueError(
                    f"prompt {group.pick.prompt.key} was not picked in this step ({self.context.step})"
                )
            if group.pick is not self.picks[row]:
                raise ValueError(
                    f"prompt {group.pick.prompt.key} was picked in this step ({self.context.step}), but this "
                    "group answers a pick of another step"
                )
        return sorted(groups, key=lambda group: order[group.pick.prompt.key])

    def state_dict(self) -> dict[str, Any]:
        """JSON. Prompts are named by their keys; of the candidates only those picked are kept."""
        return {
            "context": [self.context.group_size, self.context.step, self.context.kl_travelled],
            "rule": self.rule,
            "rounds": self.rounds,
            "picks": [pick_state(pick) for pick in self.picks],
            "observed": sorted(self.observed),
            "assigned": None if self.assigned is None else sorted(self.assigned),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> OpenStep:
        """The step that ``state_dict`` described; ``prompts`` by key. Raises ValueError where one is missing.

        Candidates that were not picked are asked about again when a refill considers them."""
        picks = [pick_from(one, prompts) for one in state["picks"]]
        assigned = state["assigned"]
        return cls(
            Context(*state["context"]),
            state["rule"],
            state["rounds"],
            picks,
            {
                pick.prompt.key: Candidate(
                    pick.prompt.key, pick.prompt.text, pick.prompt.prior, pick.features
                )
                for pick in picks
            },
            set(state["observed"]),
            None if assigned is None else set(assigned),
        )


def pick_state(pick: Pick) -> dict[str, Any]:
    """JSON, which has no NaN: null."""
    features = pick.features
    return {
        "prompt": pick.prompt.key,
        "origin": pick.origin.value,
        "selector": pick.selector,
        "uniform": pick.uniform,
        "propensity": or_none(pick.propensity),
        "predicted_mean": or_none(pick.predicted_mean),
        "predicted_informative": or_none(pick.predicted_informative),
        "predicted_sd": or_none(pick.predicted_sd),
        "features": None if features is None else [features.dtype.str, features.tolist()],
    }


def pick_from(state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Pick:
    if state["prompt"] not in prompts:
        raise ValueError(f"prompt {state['prompt']} was picked before the checkpoint, and is not in the pool")
    features = state["features"]
    return Pick(
        prompt=prompts[state["prompt"]],
        origin=Origin(state["origin"]),
        selector=state["selector"],
        uniform=state["uniform"],
        propensity=or_nan(state["propensity"]),
        predicted_mean=or_nan(state["predicted_mean"]),
        predicted_informative=or_nan(state["predicted_informative"]),
        predicted_sd=or_nan(state["predicted_sd"]),
        features=None if features is None else np.array(features[1], dtype=features[0]),
    )


def or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def or_nan(value: float | None) -> float:
    return math.nan if value is None else value
