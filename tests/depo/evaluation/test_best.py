"""Keeping the best policy, and stopping when none gets better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from depo.errors import UserError
from depo.recipe.schema import EarlyStopping, Evaluation
from depo.train.best import BestPolicy, check_measure


def watcher(directory: Path, **stopping) -> tuple[BestPolicy, list[float]]:
    """A BestPolicy whose policy is the value just evaluated."""
    now: list[float] = []

    def export(target: Path) -> None:
        target.mkdir()
        (target / "weights").write_text(str(now[-1]))

    early = EarlyStopping(**stopping) if stopping else None
    config = Evaluation(best="math/avg", early_stopping=early, every=1)
    return BestPolicy(config, directory / "best", export), now


def feed(best: BestPolicy, now: list[float], *values: float) -> list[bool]:
    news = []
    for value in values:
        now.append(value)
        news.append(best.consider(len(now), {"eval/math/avg": value}))
    return news


def test_the_best_policy_is_kept_and_equal_ones_do_not_replace_it(tmp_path):
    best, now = watcher(tmp_path)
    assert feed(best, now, 0.3, 0.5, 0.4, 0.5) == [True, True, False, False]
    assert (tmp_path / "best/policy/weights").read_text() == "0.5"
    assert json.loads((tmp_path / "best/best.json").read_text()) == {
        "measure": "math/avg",
        "value": 0.5,
        "step": 2,
    }
    assert not best.run_out, "without early stopping patience is endless"


def test_patience_counts_evaluations_without_a_new_best(tmp_path):
    best, now = watcher(tmp_path, patience=2, min_delta=0.05)
    feed(best, now, 0.3, 0.34)
    assert not best.run_out
    feed(best, now, 0.36)
    assert best.value == 0.36
    feed(best, now, 0.4, 0.4)
    assert best.run_out, "0.4 does not lie 0.05 above 0.36"
    assert (best.value, best.step) == (0.4, 4), "the best is kept however small its lead"
    assert (tmp_path / "best/policy/weights").read_text() == "0.4"


def test_many_small_gains_are_an_improvement_once_they_add_up(tmp_path):
    best, now = watcher(tmp_path, patience=3, min_delta=0.05)
    feed(best, now, 0.30, 0.32, 0.34, 0.36, 0.38, 0.40)
    assert not best.run_out
    feed(best, now, 0.405)
    assert best.run_out, "0.36 began the wait"
    assert best.value == 0.405


def test_a_resumed_run_waits_no_longer_than_an_undisturbed_one(tmp_path):
    best, now = watcher(tmp_path, patience=3)
    feed(best, now, 0.5, 0.4)
    resumed, later = watcher(tmp_path, patience=3)
    resumed.load_state_dict(json.loads(json.dumps(best.state_dict())))
    assert feed(resumed, later, 0.45, 0.5) == [False, False]
    assert resumed.run_out
    assert resumed.summary() == {"measure": "math/avg", "value": 0.5, "step": 1}


def test_a_policy_that_is_evaluated_twice_counts_once(tmp_path):
    best, now = watcher(tmp_path, patience=2)
    feed(best, now, 0.5, 0.4)
    assert not best.consider(2, {"eval/math/avg": 0.4})
    assert best.since == 1


def test_a_measure_that_nobody_takes_is_told():
    config = Evaluation(best="math/avg")
    check_measure(config, ["all", "math/avg"])
    with pytest.raises(UserError, match=r"no measure 'math/avg'; this run has all, sums/avg"):
        check_measure(config, ["all", "sums/avg"])


def test_an_evaluation_without_a_verdict_is_not_a_bad_one(tmp_path):
    best, now = watcher(tmp_path, patience=1)
    feed(best, now, 0.5)
    assert not best.consider(2, {"eval/all": 0.1})
    assert not best.run_out


def test_another_measure_on_resume_is_looked_for_afresh(tmp_path):
    best, now = watcher(tmp_path, patience=1)
    feed(best, now, 0.7, 0.6)
    config = Evaluation(best="all", early_stopping=EarlyStopping(patience=1), every=1)
    resumed = BestPolicy(config, tmp_path / "best", lambda target: target.mkdir())
    resumed.load_state_dict(best.state_dict())
    assert not resumed.run_out
    assert resumed.consider(3, {"eval/all": 0.3})
    assert resumed.summary() == {"measure": "all", "value": 0.3, "step": 3}


def test_a_policy_kept_after_the_checkpoint_outlives_a_resume_that_does_worse(tmp_path):
    best, now = watcher(tmp_path)
    feed(best, now, 0.5)
    checkpoint = best.state_dict()
    feed(best, now, 0.6)  # then a kill; the second time round, that step comes to 0.55
    resumed, later = watcher(tmp_path)
    resumed.load_state_dict(checkpoint)
    assert feed(resumed, later, 0.5, 0.55) == [False, False]
    assert resumed.summary() == {"measure": "math/avg", "value": 0.6, "step": 2}
    assert (tmp_path / "best/policy/weights").read_text() == "0.6"


def test_early_stopping_needs_something_to_watch():
    with pytest.raises(ValidationError, match=r"needs evaluation\.best"):
        Evaluation(early_stopping=EarlyStopping(patience=1), every=1)
    with pytest.raises(ValidationError, match=r"needs evaluation\.every"):
        Evaluation(early_stopping=EarlyStopping(patience=1), best="all")
