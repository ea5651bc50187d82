"""Censored feedback: a selector picks a share of the prompts at each step, and only their outcomes are seen.

The picks are made by the product's own ``Selector``, audit slice included: a replay measures what training
would run. N: prompts, T: steps, G: group size, W: picks that were drawn uniformly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Context
from depo.recipe import schema
from depo.replay.full import Factory, Timed
from depo.replay.trace import Told, Trace
from depo.report.calibration import auroc, brier, brier_skill, expected_calibration_error
from depo.reward.base import Score
from depo.selection import build_selector
from depo.selection.picks import observations
from depo.selection.pool import PromptPool
from depo.selection.visits import FEW_VISITS, since_visit
from depo.types import Group, Pick, Rollout

RIGHT, WRONG = Score(1.0, True), Score(0.0, False)

NO_TOKENS = np.zeros(1, dtype=np.int32)

NO_LOGPROBS = np.full(1, np.nan, dtype=np.float32)  # a trace does not record them


def picks_per_step(budget: float, prompts: int) -> int:
    """ceil(budget · N), audit included; rounding noise does not add a prompt."""
    return math.ceil(budget * prompts - 1e-9)


def censored_feedback(
    trace: Trace,
    factory: Factory,
    selection: schema.Selection,
    budget: float,
    group_size: int,
    seed: int,
    told_rates: bool = False,
) -> dict[str, float]:
    """One replay of the trace; its figures, NaN where they are undefined (``figures`` defines them).

    ``told_rates`` as in ``full_feedback``.
    """
    size = picks_per_step(budget, len(trace.prompts))
    selector = build_selector(selection.spec, size, seed)
    pool = PromptPool(trace.prompts, seed)
    row = {prompt.key: number for number, prompt in enumerate(trace.prompts)}
    picked_NT = np.zeros(trace.trials_NT.shape, dtype=bool)
    uniform: list[Group] = []
    told = Told(factory(), trace) if told_rates else None
    estimator = Timed(told or factory())
    for t, step in enumerate(trace.steps_T):
        if told is not None:
            told.column = t
        context = Context(group_size, int(step), float(trace.kl_T[t]))
        open_step = selector.begin(context)
        picks = selector.pick(open_step, pool, estimator)
        groups = [answered(pick, trace, row[pick.prompt.key], t) for pick in picks]
        estimator.observe(observations(groups, int(step)), context)
        selector.observe(open_step, groups)
        selector.assign(open_step, groups)
        uniform += [group for group in groups if group.pick.uniform]
        picked_NT[[row[pick.prompt.key] for pick in picks], t] = True
    return (
        figures(trace, picked_NT)
        | audit_figures(uniform)
        | {"estimator_seconds_per_step": estimator.seconds / len(trace.steps_T)}
    )


def answered(pick: Pick, trace: Trace, row: int, t: int) -> Group:
    """The recorded outcome of this prompt at step t, as a group of rollouts without content."""
    right, trials = int(trace.successes_NT[row, t]), int(trace.trials_NT[row, t])
    rollouts = [
        Rollout(pick.prompt.key, index, 0, NO_TOKENS, NO_LOGPROBS, "stop", t) for index in range(trials)
    ]
    return Group(pick, rollouts, [RIGHT] * right + [WRONG] * (trials - right), [""] * trials)


# ---------------------------------------------------------------- figures


def figures(trace: Trace, picked_NT: np.ndarray) -> dict[str, float]:
    """What the picks were worth, and whom they left behind.

    ``effective_ratio``: share of informative groups among the picks, averaged over steps t ≥ 1 (at t = 0
    nothing is known yet). ``starvation``: share of prompts picked fewer than 3 times, among those informative
    in at least half of their visits of the later half of the trace. ``since_visit_pXX``: percentiles over all
    prompts, after the last step, of the steps since they were picked; T for a prompt that never was.
    """
    informative_NT = trace.informative_NT
    steps = picked_NT.shape[1]
    picks_T = picked_NT[:, 1:].sum(axis=0)
    ratio_T = (picked_NT & informative_NT)[:, 1:].sum(axis=0)[picks_T > 0] / picks_T[picks_T > 0]
    learnable_N = informative_later(trace)
    visits_N = picked_NT.sum(axis=1)
    last_N = np.where(picked_NT.any(axis=1), steps - 1 - np.argmax(picked_NT[:, ::-1], axis=1), -1)
    return {
        "effective_ratio": float(ratio_T.mean()) if len(ratio_T) else math.nan,
        "starvation": float((visits_N[learnable_N] < FEW_VISITS).mean()) if learnable_N.any() else math.nan,
        "never_visited": float((visits_N == 0).mean()),
        **since_visit(steps - 1 - last_N),
    }


def informative_later(trace: Trace) -> np.ndarray:
    """(N,) bool: prompts informative in at least half of their visits of the trace's later half, t ≥ T/2."""
    later = slice(math.ceil(trace.trials_NT.shape[1] / 2), None)
    visits_N = trace.recorded_NT[:, later].sum(axis=1)
    informative_N = trace.informative_NT[:, later].sum(axis=1)
    return (visits_N > 0) & (2 * informative_N >= visits_N)


def audit_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Quality of the predictions on the picks that were drawn uniformly (all of them for ``uniform``)."""
    predicted_W = np.array([group.pick.predicted_informative for group in groups])
    informative_W = np.array([float(group.informative) for group in groups])
    return {
        "audit_groups": float(len(groups)),
        "audit_auroc": auroc(predicted_W, informative_W),
        "audit_brier": brier(predicted_W, informative_W),
        "audit_brier_skill": brier_skill(predicted_W, informative_W),
        "audit_ece": expected_calibration_error(predicted_W, informative_W),
    }
