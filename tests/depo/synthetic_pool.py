"""A pool whose pass rates are known, and groups as a policy with these rates would give them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Estimator, Observation
from depo.estimators.moments import beta_estimates
from depo.reward.base import Score, unscorable
from depo.rng import generator
from depo.selection import OpenStep, Selector, build_selector
from depo.selection.pool import PromptPool
from depo.types import Group, Pick, Prompt, Rollout

G = 8


def pool_of(size: int, seed: int = 0) -> PromptPool:
    prompts = [
        Prompt(hashlib.sha256(f"{i}".encode()).hexdigest(), f"problem {i}", (1, 2, 3), "42")
        for i in range(size)
    ]
    return PromptPool(prompts, seed)


def pass_rate(prompt: Prompt) -> float:
    """Half of the pool is impossible, a quarter mastered, a quarter learnable."""
    kind = int(prompt.key[:8], 16) % 4
    return (0.0, 0.0, 0.995, 0.2 + int(prompt.key[8:16], 16) % 600 / 1000)[kind]


def group(pick: Pick, verdicts: Sequence[bool | None]) -> Group:
    rollouts = [
        Rollout(pick.prompt.key, i, i, np.zeros(4, np.int32), np.zeros(4, np.float32), "stop", 0)
        for i in range(len(verdicts))
    ]
    scores = [
        unscorable("timeout") if verdict is None else Score(float(verdict), verdict) for verdict in verdicts
    ]
    return Group(pick, rollouts, scores, ["" for _ in verdicts])


def rolled_out(picks: Sequence[Pick], step: int, seed: int = 0) -> list[Group]:
    """Groups as a policy with ``pass_rate`` would give them."""
    return [
        group(
            pick,
            [
                bool(v)
                for v in generator(seed, "world", step, pick.prompt.key).random(G) < pass_rate(pick.prompt)
            ],
        )
        for pick in picks
    ]


def selector_of(prompts: int = 16, seed: int = 0, **options: object) -> Selector:
    """Unless the options say otherwise: Thompson sampling over the whole pool, refilled, without places
    reserved for overdue prompts."""
    options = {"type": "thompson", "refill": True, "candidates": 8192, "revisit_after": None} | options
    if options["type"] == "thompson":
        options.setdefault("draws", 1)
    return build_selector(options, prompts, seed)


def first_round(
    selector: Selector, pool: PromptPool, estimator: Estimator, step: int
) -> tuple[OpenStep, list[Pick]]:
    """A step that begins now, and its first round."""
    open_step = selector.begin(Context(G, step))
    return open_step, selector.pick(open_step, pool, estimator)


def run_step(selector: Selector, pool: PromptPool, estimator: Estimator, step: int) -> list[Group]:
    """One step as the loop takes it; all its groups."""
    context = Context(G, step)
    groups: list[Group] = []
    open_step = selector.begin(context)
    while picks := selector.pick(open_step, pool, estimator, groups):
        groups += rolled_out(picks, step)
    estimator.observe(
        [Observation(g.pick.prompt.key, g.pick.prompt.text, g.successes, g.trials, step) for g in groups],
        context,
    )
    selector.observe(open_step, groups)
    selector.assign(open_step, groups)
    return groups


class Oracle:
    """Knows p, up to a narrow belief."""

    def __init__(self, pool: PromptPool) -> None:
        self.rate = {prompt.key: pass_rate(prompt) for prompt in pool.prompts}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        p_N = np.clip([self.rate[candidate.key] for candidate in candidates], 1e-4, 1 - 1e-4)
        return beta_estimates(p_N * 1e4, (1 - p_N) * 1e4, context.group_size)


def keys(picks: Sequence[Pick]) -> list[str]:
    return [pick.prompt.key for pick in picks]
