"""Warnings are said once; a reward that judges nothing ends the run instead of burning it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import selector_of

from depo.errors import FAILED, RunFailed, report_failure
from depo.train.alarms import Alarms
from depo.train.ledger import Ledger
from depo.train.metrics import Clock, step_metrics
from depo.types import Group, Origin, Pick, Prompt, Rollout
from reward.base import Score, unscorable

BROKEN = [unscorable("KeyError: 'answer'")] * 3 + [unscorable("timeout after 5 s")]


def group(scores: Sequence[Score]) -> Group:
    pick = Pick(Prompt("a", "a", (1, 2), "1"), Origin.SELECTED, "uniform", True, math.nan, math.nan, math.nan)
    rollouts = [
        Rollout("a", i, i, np.zeros(3, np.int32), np.zeros(3, np.float32), "stop", 0)
        for i in range(len(scores))
    ]
    return Group(pick, rollouts, list(scores), ["" for _ in scores])


def judged(*verdicts: bool) -> list[Score]:
    return [Score(float(verdict), verdict) for verdict in verdicts]


def test_a_reward_that_judges_nothing_is_told_at_once_and_ends_the_run() -> None:
    said: list[str] = []
    alarms = Alarms(said.append)
    alarms.step(1, [group(BROKEN)], {})
    alarms.step(2, [group(BROKEN)], {})
    assert said == [
        "warning: step 1: 100% of the rollouts got no verdict and teach nothing; most often: "
        "KeyError: 'answer' (3 of 4)"
    ]
    with pytest.raises(RunFailed, match=r"not one verdict in the last 3 steps, up to step 3.*KeyError"):
        alarms.step(3, [group(BROKEN)], {})


def test_gradients_that_are_not_finite_are_told_once_with_the_step() -> None:
    said: list[str] = []
    alarms = Alarms(said.append)
    for step, skipped in ((1, 0.0), (2, 3.0), (3, 4.0)):
        alarms.step(step, [], {"skipped_steps": skipped})
    assert said == [
        "warning: step 2: gradients were not finite, 3 optimizer steps were left out (skipped_steps in "
        "metrics.jsonl); if it goes on, lower learner.lr"
    ]


def test_an_outage_that_passes_ends_nothing() -> None:
    alarms = Alarms(lambda text: None)
    for step in range(1, 9):
        verdicts = BROKEN if step % 3 else judged(True, False, False, False)
        alarms.step(step, [group(verdicts)], {})
    for step in range(9, 20):
        alarms.step(step, [], {})  # nothing was picked: nothing to judge


def test_a_timeout_here_and_there_is_not_worth_a_line() -> None:
    said: list[str] = []
    alarms = Alarms(said.append)
    groups = [group(judged(True, False, False, True)) for _ in range(5)]
    alarms.step(1, [*groups, group([*judged(True, False, True), unscorable("timeout")])], {})
    assert said == []
    alarms.step(2, groups, {"routing/collapsing": 1.0})
    alarms.step(3, groups, {"routing/collapsing": 1.0})
    assert len(said) == 1
    assert "routing collapses" in said[0]


def test_without_a_verdict_nothing_is_called_wrong_or_without_variance() -> None:
    clock = Clock()
    with clock.phase("verify"):
        selector = selector_of(type="uniform")
    groups = [group(BROKEN), group([Score(1.0, True), *BROKEN[1:]])]
    metrics = step_metrics(1, groups[:1], [], selector, Ledger(4), clock)
    assert math.isnan(metrics["accuracy"])
    assert math.isnan(metrics["zero_variance_share"])
    metrics = step_metrics(1, groups, [], selector, Ledger(4), clock)
    assert metrics["accuracy"] == 1.0
    assert math.isnan(metrics["zero_variance_share"])
    assert metrics["unscorable_share"] == 7 / 8


def test_updates_that_are_left_out_one_after_another_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A step without an update says nothing either way; one that goes well begins the count anew."""
    alarms = Alarms(lambda line: None)
    bad, empty, good = {"skipped_steps": 1.0, "optimizer_steps": 0.0}, {}, {"optimizer_steps": 1.0}
    for step, metrics in enumerate([bad, empty] * 9 + [good] + [bad, empty] * 9):
        alarms.step(step, [], metrics)
    with pytest.raises(
        RunFailed, match=r"not one finite gradient in the last 10 steps .* up to step 40"
    ) as caught:
        alarms.step(40, [], bad)
    assert report_failure(caught.value, None) == FAILED == 1, "the input was not bad"
    assert capsys.readouterr().err == f"error: {caught.value}\n"
