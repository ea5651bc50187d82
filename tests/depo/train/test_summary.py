"""The end of a run: its verdict, the gain with its interval, and status 1 where nothing was learned."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from tiny_run import run_depo

from depo.selection.gate import Calibration, Graded
from depo.train.summary import why_uniform

pytestmark = pytest.mark.usefixtures("cluster")

NO_EVALUATION = ("evaluation.at_start=false", "evaluation.at_end=false")


def summary_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def test_the_verdict_of_a_run_that_learned(finished: Path) -> None:
    summary = summary_of(finished)
    verdict, before, after = summary["verdict"], summary["eval"]["before"], summary["eval"]["after"]
    mean, low, high = summary["gain"]["heldout"]
    assert mean == pytest.approx(after["all"] - before["all"])
    assert -1 <= low <= mean <= high <= 1
    how = "rose" if low > 0 else "fell" if high < 0 else "did not change measurably"
    interval = f"(95 % interval {low:+.3f} to {high:+.3f}, paired over 10 prompts)"
    assert f"held-out accuracy {how}: {mean:+.3f} {interval}" in verdict
    rows = pd.concat(pd.read_parquet(path) for path in (finished / "rollouts").glob("*.parquet"))
    uniform = set(rows["selector"]) == {"uniform"}
    assert any(line.startswith("selection stayed uniform throughout: ") for line in verdict) == uniform
    assert not any("nothing was trained" in line for line in verdict)
    printed = " ".join((finished.parent / "stdout.txt").read_text().split())
    assert all(f"verdict: {line} " in printed for line in verdict)
    used, saved = (summary["rollouts"][key] for key in ("generated", "saved"))
    assert f"would have needed {used + saved:,.0f} rollouts (95 %: " in printed
    assert f"); used: {used:,} " in printed


@pytest.mark.slow
def test_a_constant_reward_ends_the_run_and_what_it_has_done_is_safe(workdir: Path) -> None:
    """Every group is without variance: no update, ever."""
    (workdir / "no_reward.py").write_text("def judge(sample):\n    return 0.0\n")
    guard = ("reward.path=no_reward:judge", "guards.no_signal.warn=2", "guards.no_signal.end=3")
    done = run_depo("train", "tiny.yaml", "--run-dir", "run", *NO_EVALUATION, *guard, cwd=workdir)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "warning: step 2: 100% of the groups were all right or all wrong" in done.stdout
    assert "error: step 3: 100% of the groups" in done.stderr
    assert "rollouts/step_000001.parquet" in done.stderr
    named = done.stderr.split("prompt_key ")[1].split(",")[0]
    rows = pd.read_parquet(workdir / "run/rollouts/step_000001.parquet")
    assert any(key.startswith(named) for key in rows["prompt_key"])
    assert not (workdir / "run/summary.json").exists()

    again = done.stderr.split("depo ")[-1].split(" (")[0].split()
    done = run_depo(*again, "guards.no_signal.end=null", "steps=4", cwd=workdir)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "resuming after step 2" in done.stdout
    assert "error: nothing was trained: of " in done.stderr
    assert "not one could be learned from (rollouts: zero_variance" in done.stderr
    verdict = summary_of(workdir / "run")["verdict"]
    assert verdict[0].startswith("nothing was trained")
    assert verdict[1].startswith("at the end, 100% of the groups were all right or all wrong")
    assert "4 steps in a row" in verdict[1], "the count went on where the checkpoint had left it"


@pytest.mark.slow
def test_a_learning_rate_that_ruins_the_policy_ends_the_run(workdir: Path) -> None:
    done = run_depo(
        *("train", "tiny.yaml", "--run-dir", "run", "learner.lr=1e3", "guards.no_gradient.end=4"),
        *NO_EVALUATION,
        cwd=workdir,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the gradient norm is 0" in done.stdout
    assert "lower learner.lr" in done.stderr
    assert "safe: run/checkpoints/step_000000" in done.stderr


@pytest.mark.slow
def test_updates_that_change_no_weight_are_no_training(workdir: Path) -> None:
    done = run_depo(
        *("train", "tiny.yaml", "--run-dir", "run", "learner.lr=1e-30", "steps=3", *NO_EVALUATION),
        cwd=workdir,
    )
    assert done.returncode == 1
    assert "an update changed 0.0% of the weights (guards.frozen_policy, 3 steps in a row" in done.stdout
    assert "optimizer steps changed no weight; see learner.lr" in done.stderr


def test_an_estimator_that_told_no_prompts_apart_is_the_reason_for_uniform_selection() -> None:
    gate = Calibration(window=40, min_window=20, confidence=0.95)
    for number in range(30):
        gate.add(Graded(0.5, 0.5, 1, 2, blind=number < 25))
    selection = SimpleNamespace(type="thompson")
    selector = SimpleNamespace(settings=SimpleNamespace(warmup_steps=0), calibration=gate)
    run: Any = SimpleNamespace(recipe=SimpleNamespace(selection=selection), step=9, selector=selector)
    assert why_uniform(run) == (
        "only 5 of the 20 uniformly drawn groups that the gate asks for (selection.min_window) could be "
        "graded; for 25 others the estimator predicted all prompts of the step alike"
    )
