"""A suite during training, the best policy, early stopping, with real Ray; then ``depo eval`` on that run."""

from __future__ import annotations

import json
import re

import pytest

from depo.cli import main

pytestmark = pytest.mark.usefixtures("cluster")

SUITE = """\
name: sums
raw: true
max_prompt_tokens: 16
reward: {type: function, path: "even_reward:judge"}
sampling: {n: 4, temperature: 1.0, max_new_tokens: 5}
dtype: float32
threads: 1
resamples: 50
benchmarks:
  first: {source: {type: file, path: sums.jsonl, limit: 30}}
  exact: {source: {type: file, path: sums.jsonl, limit: 10}, reward: {type: exact}}
"""


def test_a_suite_decides_which_policy_is_best_and_when_to_stop(workdir, monkeypatch, capsys):
    monkeypatch.chdir(workdir)
    (workdir / "sums.yaml").write_text(SUITE)
    command = ["train", "tiny.yaml", "--run-dir", "run", "steps=6", "evaluation.suite=sums.yaml"]
    watch = ["evaluation.every=1", "evaluation.best=sums/first/avg", "evaluation.early_stopping.patience=2"]
    # So much is never gained: two evaluations are enough, whichever of the policies is the best.
    shown = ["selection.prefill_probe=true"]
    assert main([*command, *watch, *shown, "evaluation.early_stopping.min_delta=1.0"]) == 0
    said = capsys.readouterr().out
    assert "early stopping after step 2" in said
    # The suite asks what the policy is trained on (but for what is held out of it), and that is told.
    assert re.search(r"warning: sums/first: (2\d|30) of its 30 problems are in the training pool too", said)
    summary = json.loads((workdir / "run/summary.json").read_text())
    assert summary["steps"] == 2
    before, after = summary["eval"]["before"]["suite"], summary["eval"]["after"]["suite"]
    assert before.keys() >= {"sums/avg", "sums/pass@4", "sums/first/avg", "sums/exact/pass@2"}
    assert after["sums/avg"] == pytest.approx((after["sums/first/avg"] + after["sums/exact/avg"]) / 2)
    rows = [json.loads(line) for line in (workdir / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/sums/first/avg"] == after["sums/first/avg"], "the same policy, the same samples"
    values = [before["sums/first/avg"], *(row["eval/sums/first/avg"] for row in rows)]
    best = {"measure": "sums/first/avg", "value": max(values), "step": values.index(max(values))}
    assert summary["best"] == best
    assert f"evaluation after step 1: sums/first/avg {values[1]:.3f}" in said
    assert summary["evaluation"]["rollouts"] >= 4 * 40 * 4, "before, two steps, after: recorded"

    # The finished run by the harness: the same prompts, seeds and policy give the same figures.
    assert main(["eval", "run", "--suite", "sums.yaml", "--run-dir", "out", "--quiet"]) == 0
    document = json.loads((workdir / "out/results.json").read_text())
    for name in ("first", "exact"):
        assert document["benchmarks"][name]["avg"][0] == pytest.approx(after[f"sums/{name}/avg"])
    # The estimator trained beside the policy is asked about the same problems.
    estimator = document["estimator"]
    assert estimator["why_not"] == ""
    assert estimator["without"] == "the prefill probe of a problem"
    assert "It did without the prefill probe of a problem" in (workdir / "out/results.md").read_text()
    assert estimator["problems"] == 40
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        assert (workdir / f"out/results_reliability{suffix}").read_bytes().startswith(begins)
    measured = (
        sum(document["benchmarks"][name]["avg"][0] * n for name, n in (("first", 30), ("exact", 10))) / 40
    )
    assert sum(row["observed"] * row["groups"] for row in estimator["bins"]) / 40 == pytest.approx(measured)

    # The best policy is a model like any other.
    assert main(["eval", "run/best/policy", "--suite", "sums.yaml", "--run-dir", "best", "--quiet"]) == 0
    found = json.loads((workdir / "best/results.json").read_text())
    assert found["benchmarks"]["first"]["avg"][0] == pytest.approx(best["value"])


@pytest.mark.slow
def test_a_suite_that_outgrows_the_models_positions_is_refused_before_training(workdir, monkeypatch, capsys):
    monkeypatch.chdir(workdir)
    (workdir / "sums.yaml").write_text(SUITE.replace("max_new_tokens: 5", "max_new_tokens: 4000"))
    assert main(["train", "tiny.yaml", "--run-dir", "run", "evaluation.suite=sums.yaml"]) == 2
    said = capsys.readouterr().err
    assert "evaluation.suite: sums: sampling.max_new_tokens: 4,000" in said
    assert "the 64 positions" in said


def test_a_recipe_with_a_wrong_suite_or_measure_is_told_in_one_line(workdir, monkeypatch, capsys):
    monkeypatch.chdir(workdir)
    assert main(["train", "tiny.yaml", "--dry-run", "evaluation.suite=mth"]) == 2
    assert "evaluation.suite mth: no such suite; did you mean math?" in capsys.readouterr().err
    assert main(["train", "tiny.yaml", "--dry-run", "evaluation.early_stopping.patience=2"]) == 2
    assert "needs evaluation.best" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_remembers_its_best_policy(workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    (workdir / "sums.yaml").write_text(SUITE)
    watch = ["evaluation.suite=sums.yaml", "evaluation.every=1", "evaluation.best=sums/first/avg"]
    watch += ["evaluation.early_stopping.patience=9", "tracking.rollouts=false", "checkpoint.every=1"]
    for name, stages in (("straight", (3,)), ("resumed", (2, 3))):
        for steps in stages:
            resume = ["--resume"] if (workdir / name).exists() else []
            command = ["train", "tiny.yaml", "--run-dir", name, "--quiet", f"steps={steps}"]
            assert main([*command, *watch, *resume]) == 0
    straight, resumed = (
        json.loads((workdir / n / "summary.json").read_text()) for n in ("straight", "resumed")
    )
    assert straight["best"] == resumed["best"]
    assert straight["eval"] == resumed["eval"]
    states = [
        json.loads((workdir / n / "checkpoints/step_000003/run.json").read_text())["best"]
        for n in ("straight", "resumed")
    ]
    assert states[0] == states[1], "also what the evaluation after the first two steps said"
    kept = json.loads((workdir / "resumed/best/best.json").read_text())
    assert kept == resumed["best"]
