"""The guards of a run: a table. Each looks at one figure of a finished step. Limits and patience are
those of the recipe's ``guards``; docs/reliability.md says what each means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from depo.report.statistics import wilson_interval
from depo.types import Group

Metrics = Mapping[str, float | None]

Memory = dict[str, Any]
"""What a guard remembers of earlier steps: JSON, its own."""

Figure = Callable[[Metrics, Memory, int], float | None]
"""Of a step's metrics, the guard's memory and its window; None where the step has no such figure."""


# ---------------------------------------------------------------- figures


def of(name: str) -> Figure:
    """A metric of the rollouts; NaN says that there was nothing to judge by."""

    def figure(metrics: Metrics, memory: Memory, window: int) -> float | None:
        value = metrics.get(name)
        return None if value is None or math.isnan(value) else value

    return figure


def of_update(name: str) -> Figure:
    """A metric of the update; NaN is as bad as infinity."""

    def figure(metrics: Metrics, memory: Memory, window: int) -> float | None:
        value = metrics.get(name)
        return value if value is None or math.isfinite(value) else math.inf

    return figure


def against_start(name: str) -> Figure:
    """A metric of the update, divided by its median over the run's first ``window`` updates."""

    def figure(metrics: Metrics, memory: Memory, window: int) -> float | None:
        value = of_update(name)(metrics, memory, window)
        if value is None or value == math.inf:
            return value
        first: list[float] = memory.setdefault("first", [])
        if len(first) < window:
            first.append(value)
            return None
        level = median(first[:window])
        return value / level if level else None

    return figure


def against_best(metrics: Metrics, memory: Memory, window: int) -> float | None:
    """Pass rate of the newest ``window`` uniformly drawn groups, by that of the best such stretch so far.

    Only uniform draws can be compared: a rule that starts to choose changes the pass rate of what is rolled
    out, though nothing was learned or lost. Of the two Wilson intervals the near ends are compared, with a
    group as one trial: rollouts of a group are too alike to count as several.
    """
    groups = metrics.get("uniform/groups")
    if not groups:
        return None
    recent: list[list[float]] = memory.setdefault("recent", [])
    recent.append([groups, groups * (metrics["uniform/accuracy"] or 0.0)])
    while sum(n for n, _ in recent[1:]) >= window:
        recent.pop(0)
    drawn = sum(n for n, _ in recent)
    if drawn < window:
        return None
    low, high = wilson_interval(round(sum(passed for _, passed in recent)), round(drawn))
    best = memory["best"] = max(memory.get("best", 0.0), low)
    return high / best if best else None


def left_out(metrics: Metrics, memory: Memory, window: int) -> float | None:
    """Share of an update's optimizer steps that were left out."""
    taken, skipped = metrics.get("optimizer_steps") or 0.0, metrics.get("skipped_steps") or 0.0
    return skipped / (taken + skipped) if taken + skipped else None


# ---------------------------------------------------------------- which rollouts to show, the worst first


def of_no_group(group: Group, index: int) -> float:
    return float(group.trials > 0 and not group.informative)


def cut_off(group: Group, index: int) -> float:
    return float(group.rollouts[index].finish_reason == "length")


def without_answer(group: Group, index: int) -> float:
    return float(group.scores[index].unparseable)


def without_verdict(group: Group, index: int) -> float:
    return float(group.scores[index].correct is None)


def wrong(group: Group, index: int) -> float:
    return float(group.pick.uniform and group.scores[index].correct is False)


def engine_apart(group: Group, index: int) -> float:
    """Largest difference between learner and engine, nats."""
    learner = None if group.learner_logprobs is None else group.learner_logprobs[index]
    return 0.0 if learner is None else float(np.abs(learner - group.rollouts[index].logprobs).max(initial=0))


def trained_on(group: Group, index: int) -> float:
    return 0.0 if group.advantages is None else float(abs(group.advantages[index]))


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Watch:
    """``name`` is the key below ``guards``. ``says``: what the figure tells, with a place for it. ``low``:
    the limit is a lower one."""

    name: str
    figure: Figure
    says: str
    remedy: str
    shown: Callable[[Group, int], float]
    low: bool = False

    def at_limit(self, value: float, limit: float) -> bool:
        return value <= limit if self.low else value >= limit


SLOWER = "begin again with a lower learner.lr, from this run's start or an earlier checkpoint"

WATCHES = (
    Watch(
        "truncated",
        of("truncated_share"),
        "{:.0%} of the completions were cut off",
        "raise rollout.max_new_tokens; or the policy never ends its answers: check its chat template and end "
        "token",
        cut_off,
    ),
    Watch(
        "unparseable",
        of("unparseable_share"),
        "{:.0%} of the completions have no readable answer",
        "ask for the answer's format in data.template or data.system, or take a reward that reads it",
        without_answer,
    ),
    *(
        Watch(
            name,
            of("unscorable_share"),
            "{:.0%} of the rollouts got no verdict and teach nothing",
            "mend the reward or what it needs, or the gold answers, then go on with --resume",
            without_verdict,
        )
        for name in ("unscorable", "no_verdict")
    ),
    Watch(
        "reward_collapse",
        against_best,
        "the pass rate of uniformly drawn prompts is down to {:.0%} of its best level in this run",
        SLOWER,
        wrong,
        low=True,
    ),
    # After those that name a cause: of several that end a run, the first is its headline.
    Watch(
        "no_signal",
        of("uninformative_share"),
        "{:.0%} of the groups taught nothing: all right, all wrong, or just as expected",
        "all wrong: check the reward and the gold answers, or take easier prompts or a better policy; "
        "all right: take harder prompts",
        of_no_group,
    ),
    Watch(
        "entropy_collapse",
        against_start("entropy"),
        "the policy's entropy is down to {:.1%} of its level at the start: it hardly explores any more",
        "begin again with a lower learner.lr, a larger learner.loss.clip_high or a learner.kl_coef",
        trained_on,
        low=True,
    ),
    Watch(
        "entropy_explosion",
        against_start("entropy"),
        "the policy's entropy is {:.1f} times its level at the start",
        SLOWER,
        trained_on,
    ),
    Watch(
        "mismatch_kl",
        of_update("mismatch_kl"),
        "learner and engine are {:.2g} nats a token apart (mismatch_kl)",
        "set learner.correction, for a mixture of experts learner.routing_replay; or take the same dtype for "
        "both",
        engine_apart,
    ),
    Watch(
        "clip_fraction",
        of_update("clip_fraction"),
        "{:.0%} of the trained tokens are outside the clip range",
        "begin again with a lower learner.lr, fewer learner.epochs or fewer learner.minibatches",
        trained_on,
    ),
    Watch(
        "grad_norm",
        against_start("grad_norm"),
        "the gradient norm is {:.0f} times its level at the start",
        SLOWER,
        trained_on,
    ),
    Watch(
        "policy_kl",
        of_update("policy_kl"),
        "one update moved the policy by {:.2g} nats a token",
        SLOWER,
        trained_on,
    ),
    *(
        Watch(
            name,
            left_out,
            "gradients were not finite: {:.0%} of the optimizer steps were left out",
            "if it goes on, begin again with a lower learner.lr, or from an earlier policy",
            trained_on,
        )
        for name in ("skipped_updates", "not_finite")
    ),
    Watch(
        "no_gradient",
        of_update("grad_norm"),
        "the gradient norm is {:.1g}: whatever the rewards, the policy does not answer to them",
        "its activations are saturated or what should be trained is cut off: " + SLOWER,
        trained_on,
        low=True,
    ),
    Watch(
        "frozen_policy",
        of_update("weights_changed"),
        "an update changed {:.1%} of the weights",
        "raise learner.lr (the weights' precision swallows smaller changes), or thaw what is to be trained",
        trained_on,
        low=True,
    ),
    Watch(
        "routing_collapse",
        of("routing/collapsing"),
        "routing collapses: some layers have lost half of the experts they used in the first steps "
        "(routing/experts_in_use in metrics.jsonl, by layer in routing.jsonl)",
        "see docs/moe.md",
        trained_on,
    ),
)
