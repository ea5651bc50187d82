"""The pools of prompts, each composed by the measured pass rates of its own warm-started policy.

Half of the candidates are products, which the policy was never taught, half are sums. The operands' length
tells what a pool is for: settings are tuned on two-digit problems and reported on three-digit ones. A
*mastered* problem is one that the policy nearly always solves, an *impossible* one it nearly never does; what
lies between is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """``digits`` of the operands; ``candidates`` of which a pool of the usual size is composed; ``lessons``:
    what the warm start teaches, and the band of solvable accuracy it ends in (with mastered problems mastered
    and learnable ones hardly begun, half)."""

    digits: int
    candidates: int
    lessons: Mapping[str, Any]


REPORTED, TUNING = "three-digit", "two-digit"


FAMILIES = {
    REPORTED: Family(
        digits=3,
        candidates=40_000,
        lessons={
            "families": {"+1": 0.1, "+2": 0.2, "+3": 0.7},
            "problems": 130_000,
            "max_steps": 2_500,
            "check_every": 50,
            "band": (0.4, 0.6),
        },
    ),
    TUNING: Family(
        digits=2,
        candidates=12_000,
        lessons={
            "families": {"+1": 0.2, "+2": 0.8},
            "problems": 60_000,
            "max_steps": 1_200,
            "band": (0.5, 0.6),
        },
    ),
}


@dataclass(frozen=True)
class Pool:
    """``prompts`` in the pool; ``candidates``: how many times the family's it takes to find them, for their
    number; ``grading``: overrides of ``data.grade``; ``warm_start``: of ``policy.warm_start``; ``hidden``:
    estimators read a number instead of the problem; ``once``: no prompt is chosen twice as long as there are
    others; ``horizon``: share of the usual one."""

    about: str
    grading: Mapping[str, Any]
    prompts: int = 4_000
    candidates: float = 1.0
    warm_start: Mapping[str, Any] = field(default_factory=dict)
    hidden: bool = False
    once: bool = False
    horizon: float = 1.0

    def policy(self, family: str) -> str:
        """Name of the policy it starts from: pools whose warm start is the same share it (``maker``)."""
        forgotten = self.warm_start.get("forgotten_carries")
        return family if forgotten is None else f"{family}-careless-{forgotten:g}"


def shares(mastered: float, learnable: float, impossible: float) -> dict[str, Any]:
    return {"mastered": mastered, "learnable": learnable, "impossible": impossible, "mastered_above": 0.9}


POOLS: dict[str, Pool] = {
    "mixed": Pool("a quarter mastered, a quarter learnable, half impossible", shares(0.25, 0.25, 0.5)),
    "impossible_25": Pool("a quarter impossible", shares(0.375, 0.375, 0.25), candidates=1.75),
    "impossible_75": Pool("three quarters impossible", shares(0.125, 0.125, 0.75)),
    "medium": Pool(
        "mostly medium: nothing should help, nothing may hurt",
        shares(0.1, 0.8, 0.1) | {"learnable_between": (0.15, 0.85)},
        warm_start={"forgotten_carries": 0.5, "band": (0.4, 0.6)},
    ),
    "hidden": Pool("as mixed, but the wording says nothing", shares(0.25, 0.25, 0.5), hidden=True),
    # A quarter of the horizon visits a quarter of the prompts. To its end every arm would have rolled out all
    # of them, and choosing could only change the order: the good ones first, nothing to learn from after.
    "single_pass": Pool(
        "as mixed, ten times as many prompts, none chosen twice; a quarter of the horizon",
        shares(0.25, 0.25, 0.5),
        prompts=40_000,
        once=True,
        horizon=0.25,
    ),
}


def maker(pool: Pool, family: str) -> Pool:
    """The pool whose candidates a policy is warm-started for: the first in the table that starts from it, so
    that the policy does not depend on which pool is run first."""
    return next(other for other in POOLS.values() if other.policy(family) == pool.policy(family))
