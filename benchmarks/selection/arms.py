"""What is compared: the project's own loop with only estimator, selection and refill changed.

The published methods stand as in docs/selection.md, but for DEPO's encoder, which is frozen here. Learning
rates were tuned alike on a family of problems of their own (``python -m benchmarks selection --tune``), never
on what is reported: of arms with groups of 8, and in the world of chains of the five default ones but GRPO in
pairs. Group sizes are not tuned yet.

The pools of prompts are composed by the measured pass rates of their own warm-started policy. Half of the
candidates are products, which the policy was never taught, half are sums. The operands' length tells what a
pool is for: settings are tuned on two-digit problems and reported on three-digit ones. The policy solves a
*mastered* problem nearly always and an *impossible* one nearly never; what lies between is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PUBLISHED = {"audit": 0.0, "min_window": 0, "revisit_after": None, "candidates": 8192}
"""A method as published has neither audit nor gate nor reserved places."""


@dataclass(frozen=True)
class Arm:
    """``estimator`` and ``selection`` say what makes the arm; `estimator_block` and `selection_block` say the
    rest. ``lr``: as tuned. ``batches``: rollouts of a step, as a multiple of its world's."""

    title: str
    estimator: Mapping[str, Any]
    selection: Mapping[str, Any]
    lr: float
    group_size: int = 8
    batches: int = 1
    learner: Mapping[str, Any] = field(default_factory=dict)
    needs_encoder: bool = False


EVERY_RULE = {
    "prefill_probe": False,
    "pilot": 0,
    "evict_mastered": False,
    "audit": 0.05,
    "refill": True,
    "max_rounds": 4,
    "window": 400,
    "min_window": 200,
    "warmup_steps": 0,
    "confidence": 0.95,
}
"""What ``selection`` says in every recipe, unless the arm says otherwise."""
EVERY_CHOICE = {"candidates": 8192, "cooldown": 0, "revisit_after": "auto", "revisit_share": 0.05}
"""The same of the rules that go by an estimator."""
OF_RULE: dict[str, dict[str, Any]] = {
    "thompson": {"draws": 1, "per_token": False, "headroom": 0.0},
    "window": {"low": 0.15, "high": 0.85},
    "prioritized": {"floor": 0.05},
}
OF_ESTIMATOR: dict[str, dict[str, Any]] = {
    "spo": {"start": 0.5, "kl_half": 0.06, "keep_min": 0.875, "keep_max": 0.96},
    "mopps": {"prior_successes": 1.0, "prior_failures": 1.0, "discount": 0.5},
    "hybrid": {
        "text": "ngrams",
        "memory": 3000.0,
        "noise": 0.0005,
    },
    "greso": {
        "p_easy": 0.5,
        "p_hard": 0.5,
        "target_easy": 1 / 12,
        "target_hard": 1 / 6,
        "adjustment": 0.01,
        "p_min": 0.05,
        "p_max": 0.95,
    },
    "dps": {"steps_per_transition": 1},
    "depo": {"preset": "paper", "max_length": 512},
}


def selection_block(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``selection`` of a recipe with every key that matters: depo's defaults may change, a benchmark not."""
    rule = settings["type"]
    choice = {} if rule == "uniform" else EVERY_CHOICE
    return EVERY_RULE | choice | OF_RULE.get(rule, {}) | dict(settings)


def estimator_block(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of ``estimator``."""
    return OF_ESTIMATOR.get(settings["type"], {}) | dict(settings)


UNIFORM = {"type": "uniform"}
HYBRID = {"type": "hybrid"}
ROUND = {"refill": False, "candidates": 256}
ASKED = {"prefill_probe": True}
CHOICE = {"type": "thompson", "draws": 16, **ROUND, **ASKED}

BELIEF = {"baseline": {"type": "belief"}, "min_advantage": 0.5}
CHOICE_OF_PAIRS = {
    "type": "thompson",
    "draws": 16,
    "headroom": 1.0,
    "refill": False,
    "candidates": 1024,
}

LR, HYBRID_LR = 1e-4, 2e-4
"""Where an arm has not been tuned by itself: the same as for GRPO."""

ARMS: dict[str, Arm] = {
    "grpo": Arm("GRPO", UNIFORM, {"type": "uniform", "refill": False}, LR),
    "dapo": Arm("DAPO dynamic sampling", UNIFORM, {"type": "uniform", "refill": True}, 2e-4),
    "depo": Arm(
        "DEPO: encoder, window",
        {"type": "depo", "frozen": True},
        {"type": "window", "refill": False, "warmup_steps": 10, **PUBLISHED},
        LR,
        needs_encoder=True,
    ),
    "hybrid": Arm("hybrid", HYBRID, CHOICE, HYBRID_LR),
    "greso": Arm("GRESO", {"type": "greso"}, {"type": "skip", "refill": True, **PUBLISHED}, 2e-4),
    "mopps": Arm(
        "MoPPS", {"type": "mopps"}, {"type": "thompson", "draws": 1, "refill": False, **PUBLISHED}, LR
    ),
    "dps": Arm(
        "DPS",
        {"type": "dps", "prior_count": 1, "discount": 0.7, "confusion": 0},
        {"type": "greedy", "refill": False, **PUBLISHED},
        LR,
    ),
    "oracle": Arm(
        "knows every pass rate", {"type": "oracle", "live": True}, {"type": "greedy", **ROUND}, HYBRID_LR
    ),
    "greedy": Arm("hybrid, greedy", HYBRID, {"type": "greedy", **ROUND, **ASKED}, HYBRID_LR),
    "one_draw": Arm("hybrid, Thompson sampling", HYBRID, CHOICE | {"draws": 1}, HYBRID_LR),
    "no_probe": Arm("hybrid without the prefill probe", HYBRID, CHOICE | {"prefill_probe": False}, HYBRID_LR),
    "no_text": Arm("hybrid without text", HYBRID | {"text": "none"}, CHOICE, HYBRID_LR),
    "no_audit": Arm("hybrid without audit", HYBRID, CHOICE | {"audit": 0.0, "min_window": 0}, HYBRID_LR),
    "refill": Arm("hybrid with refill", HYBRID, CHOICE | {"refill": True}, HYBRID_LR),
    "grpo_full_batch": Arm(
        "GRPO, batch sized for as many effective groups",
        UNIFORM,
        {"type": "uniform", "refill": False},
        LR,
        batches=4,
    ),
    "pairs": Arm("GRPO in pairs", UNIFORM, {"type": "uniform", "refill": False}, 2e-4, 2),
    "dapo_pairs": Arm("DAPO in pairs", UNIFORM, {"type": "uniform", "refill": True}, 2e-4, 2),
    "pilot_commit": Arm(
        "Pilot-Commit",
        UNIFORM,
        {"type": "uniform", "refill": True, "pilot": 4, "evict_mastered": True},
        2e-4,
        16,
    ),
    "spo": Arm(
        "SPO",
        {"type": "spo"},
        {"type": "prioritized", "refill": False, **PUBLISHED},
        2e-4,
        1,
        learner={"baseline": {"type": "belief", "scale": "batch"}},
    ),
    "belief": Arm("hybrid as baseline, in pairs", HYBRID, CHOICE_OF_PAIRS, HYBRID_LR, 2, learner=BELIEF),
    "belief_uniform": Arm(
        "hybrid as baseline only, in pairs",
        HYBRID,
        {"type": "uniform", "refill": False},
        HYBRID_LR,
        2,
        learner=BELIEF,
    ),
    "belief_choice": Arm("hybrid for the choice only, in pairs", HYBRID, CHOICE_OF_PAIRS, HYBRID_LR, 2),
    "belief_8": Arm("hybrid as baseline, in groups of 8", HYBRID, CHOICE_OF_PAIRS, HYBRID_LR, learner=BELIEF),
    "belief_probe": Arm(
        "hybrid as baseline, in pairs, with the prefill probe",
        HYBRID,
        CHOICE_OF_PAIRS | {"prefill_probe": True, "candidates": 512},
        HYBRID_LR,
        2,
        learner=BELIEF,
    ),
    "oracle_belief": Arm(
        "knows every pass rate: as baseline, in pairs",
        {"type": "oracle", "live": True},
        CHOICE_OF_PAIRS | {"candidates": 256},
        HYBRID_LR,
        2,
        learner=BELIEF,
    ),
    "belief_mopps": Arm(
        "MoPPS as baseline, in pairs",
        {"type": "mopps"},
        CHOICE_OF_PAIRS,
        HYBRID_LR,
        2,
        learner=BELIEF,
    ),
}

PRIMARY = ("grpo", "pairs", "dapo", "pilot_commit", "spo", "belief")


@dataclass(frozen=True)
class World:
    """A policy and how it answers. ``families``: the reported one and the one for tuning; ``scale``: of the
    pools' prompts; ``passes`` over the usual pool, in rollouts; ``heldout``: prompts; ``checks``: evaluations
    over the horizon, which measure by ``evaluation``; ``limits``: tokens of a prompt and of an answer;
    ``rollouts`` of a step; ``lr`` of all arms but those in ``tuned``, both found by ``--tune``; None: the
    arm's own; ``oracle_samples``: completions of each candidate that tell an oracle its pass rate, 0 where it
    is exact. The rest is what the recipe's blocks say beside `plan.base`."""

    about: str
    families: tuple[str, str]
    scale: float
    passes: float
    passes_quick: float
    heldout: int
    checks: int
    evaluation: Mapping[str, Any]
    limits: tuple[int, int]
    rollouts: int = 256
    lr: float | None = None
    tuned: Mapping[str, float] = field(default_factory=dict)
    oracle_samples: int = 0
    policy: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    grading: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)


WORLDS = {
    "answers": World(
        about="answers of three to seven tokens; accuracy is exact: the probability of the gold answer by "
        "teacher forcing",
        families=("three-digit", "two-digit"),
        scale=1.0,
        passes=10,
        passes_quick=1.5,
        heldout=1_000,
        checks=50,
        evaluation={"method": "exact"},
        limits=(16, 8),
    ),
    "chains": World(
        about="sums written out column by column, 40 to 90 tokens, in an order and in words that the policy "
        "chooses; accuracy by 8 samples of each held-out prompt",
        families=("four-digit chains", "three-digit chains"),
        scale=0.25,
        passes=1.6,
        passes_quick=0.32,
        heldout=120,
        checks=16,
        evaluation={"method": "sample", "n": 8, "temperature": 1.0},
        limits=(24, 96),
        rollouts=128,
        lr=1e-3,
        tuned={"dapo": 2e-3},
        oracle_samples=16,
        policy={"hidden_size": 64, "layers": 2, "experts": 4, "expert_size": 64, "init_std": 0.08},
        source={"phrasing": "columns", "carries": "even"},
        grading={"samples": 8, "mastered_above": 0.85},
        reward={"after": "#"},
    ),
}


def arms_of(world: World) -> dict[str, Arm]:
    """With the learning rates that they have in this world, and oracles that can be told pass rates in it."""
    told = {"samples": world.oracle_samples}
    return {
        name: replace(
            arm,
            lr=world.tuned.get(name, world.lr or arm.lr),
            estimator={**arm.estimator, **told} if arm.estimator["type"] == "oracle" else arm.estimator,
        )
        for name, arm in ARMS.items()
    }


@dataclass(frozen=True)
class Family:
    """``digits`` of the operands; ``candidates`` for a pool of the usual size; ``lessons``: what the warm
    start teaches, and the band of solvable accuracy it ends in (half, when mastered problems are mastered and
    learnable ones hardly begun)."""

    digits: int
    candidates: int
    lessons: Mapping[str, Any]


REPORTED, TUNING = WORLDS["answers"].families

CHAINS = {
    "written": True,
    "problems": 32_000,
    "batch_size": 32,
    "forgotten_carries": 0.1,
    "lr": 3e-3,
    "max_steps": 1_200,
    "check_every": 50,
    "band": (0.85, 0.95),
}

FAMILIES = {
    "four-digit chains": Family(
        4, 12_000, CHAINS | {"families": {"+4": 0.85, "*4": 0.15}, "unsure_facts": 0.3}
    ),
    "three-digit chains": Family(
        3, 9_000, CHAINS | {"families": {"+3": 0.85, "*3": 0.15}, "unsure_facts": 0.4}
    ),
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
