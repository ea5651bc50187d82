"""Replaying a run that depo made: the trace against the Parquet files, and what can be said about it."""

import json

import numpy as np
import pandas as pd
import pytest

from depo.cli import main
from depo.data import save_prompts
from depo.errors import UserError
from depo.estimators import build
from depo.recipe.loading import load_recipe
from depo.replay.full import full_feedback
from depo.replay.run_directory import Recorded, kl_before, read_run, trace_of
from depo.reward.base import Score
from depo.trackers.rollouts import ParquetRollouts
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout


def test_trace_says_what_the_rollout_log_says(finished):
    trace, group_size = read_run(finished)
    rows = pd.concat(pd.read_parquet(path) for path in sorted((finished / "rollouts").glob("step_*.parquet")))
    assert group_size == 4
    assert trace.steps_T.tolist() == sorted(rows["step"].unique())
    row = {prompt.key: i for i, prompt in enumerate(trace.prompts)}
    column = {step: t for t, step in enumerate(trace.steps_T.tolist())}
    groups = rows.groupby(["step", "prompt_key"])
    for (step, key), group in groups:
        cell = row[key], column[step]
        assert trace.successes_NT[cell] == group["correct"].sum()
        assert trace.trials_NT[cell] == group["correct"].notna().sum()
        assert trace.graded_NT[cell] == (group["selector"].iloc[0] == "uniform")
        assert trace.origin_NT[cell] == group["origin"].iloc[0]
        logprobs = np.concatenate(group["engine_logprobs"].to_list())
        assert trace.logprob_NT[cell] == pytest.approx(logprobs.mean(), rel=1e-5)
        assert trace.prompts[row[key]].text == group["prompt"].iloc[0]
    assert trace.recorded_NT.sum() == len(groups)
    policy_kl = [json.loads(line).get("policy_kl") or 0.0 for line in (finished / "metrics.jsonl").open()]
    assert trace.kl_T.tolist() == pytest.approx([sum(policy_kl[:t]) for t in range(6)])


def test_predictions_replayed_are_those_that_the_run_made(finished):
    """The run's own estimator on its own outcomes gives the predictions that the run logged."""
    trace, group_size = read_run(finished)
    estimator = load_recipe(finished / "recipe.yaml").estimator
    predictions, _ = full_feedback(trace, lambda: build(estimator.model_dump()), group_size)
    rows = pd.concat(pd.read_parquet(path) for path in sorted((finished / "rollouts").glob("step_*.parquet")))
    uniform = rows[(rows["selector"] == "uniform") & (rows["sample_index"] == 0)]
    assert len(predictions.informative_M) == len(uniform) > 0
    logged = {(r.step, r.prompt_key): r.predicted_informative for r in uniform.itertuples()}
    position = iter(zip(predictions.prompt_M, predictions.informative_M, strict=True))
    for t, step in enumerate(trace.steps_T.tolist()):
        for _ in range(int(trace.graded_NT[:, t].sum())):
            i, informative = next(position)
            assert informative == pytest.approx(logged[step, trace.prompts[i].key])


def test_a_run_is_graded_on_uniform_draws_and_has_no_censored_replay(finished, tmp_path, capsys):
    out = tmp_path / "out.json"
    status = main(
        [
            "replay",
            str(finished),
            "--estimator",
            "mopps",
            "--split",
            "all",
            "--resamples",
            "50",
            "--json",
            str(out),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    found = json.loads(out.read_text())
    trace, _ = read_run(finished)
    assert found["trace"]["kind"] == "run"
    assert found["estimators"]["mopps"]["full"]["predictions"] == trace.graded_NT.sum() > 0
    assert found["estimators"]["mopps"]["censored"] is None
    assert "groups that the run drew uniformly" in printed.out
    assert "censored replay left out: a run shows only what it picked" in printed.out
    assert main(["replay", str(finished), "--estimator", "mopps", "--visits", "2"]) == 2
    assert main(["replay", str(finished), "--estimator", "mopps", "--group-size", "8"]) == 2


def test_summary_of_the_run_has_cost_and_a_reliability_table_with_picture(finished):
    summary = json.loads((finished / "summary.json").read_text())
    groups, rollouts = summary["groups"], summary["rollouts"]
    assert groups["rollouts_per_effective_group"] == rollouts["generated"] / groups["effective"]
    assert sum(row["groups"] for row in summary["reliability"]) == summary["selection"]["calibration/groups"]
    assert (finished / "reliability.png").read_bytes().startswith(b"\x89PNG")
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["cost/rollouts_per_effective_group"] == pytest.approx(groups["rollouts_per_effective_group"])
    assert 0 < last["seconds_share/select"] < 1


def test_directories_without_rollouts_or_with_other_files_are_errors(tmp_path):
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(UserError, match="no rollouts/step_"):
        read_run(tmp_path)
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "rollouts" / "step_000001.parquet")
    with pytest.raises(UserError, match="not a rollout log"):
        read_run(tmp_path)


# ---------------------------------------------------------------- runs written by hand


PROMPTS = [
    Prompt("a", "A", (1,), "1", prior=0.25),
    Prompt("b", "B", (1,), "1"),
    Prompt("c", "C", (1,), "1", 0.5),
]


@pytest.fixture
def run(tmp_path):
    """A run of two steps, each with a uniform group of two prompts; c was never picked."""
    for step in (1, 2):
        ParquetRollouts(tmp_path).write(step, [rolled_out(prompt, step) for prompt in PROMPTS[:2]])
    save_prompts(tmp_path / "prompts.parquet", PROMPTS)
    return tmp_path


def rolled_out(prompt, step):
    pick = Pick(prompt, Origin.SELECTED, "uniform", True, 1 / 3, 0.5, 0.5)
    rollouts = [
        Rollout(prompt.key, i, i, np.ones(2, np.int32), np.zeros(2, np.float32), "stop", step)
        for i in range(2)
    ]
    return Group(pick, rollouts, [Score(1.0, True), Score(0.0, False)], ["", ""], Outcome.TRAINED)


def test_estimators_are_given_the_pass_rates_that_the_run_was_trained_with(run):
    trace, _ = read_run(run)
    assert {prompt.key: prompt.prior for prompt in trace.prompts} == {"a": 0.25, "b": None}
    predictions, _ = full_feedback(trace, lambda: build({"type": "mopps"}), 2)
    first = {trace.prompts[predictions.prompt_M[m]].key: predictions.mean_M[m] for m in range(2)}
    assert first == {"a": pytest.approx(0.25), "b": pytest.approx(0.5)}
    assert not any("prompts.parquet" in note for note in trace.notes)


def test_a_run_without_its_prompts_is_replayed_without_pass_rates_and_says_so(run):
    (run / "prompts.parquet").unlink()
    trace, _ = read_run(run)
    assert [prompt.prior for prompt in trace.prompts] == [None, None]
    assert any(note.startswith("prompts.parquet is missing") for note in trace.notes)


@pytest.mark.parametrize(
    ("estimator", "selection", "said"),
    [
        ("hybrid", "{prefill_probe: true, answer_rescoring: 0}", "(prefill_probe: True)"),
        ("hybrid", "{prefill_probe: auto, answer_rescoring: 0}", "(prefill_probe: True)"),
        ("hybrid", "{prefill_probe: false, answer_rescoring: 8}", "(answer_rescoring: 8)"),
        (
            "hybrid",
            "{prefill_probe: auto, answer_rescoring: 8}",
            "(prefill_probe: True, answer_rescoring: 8)",
        ),
        ("hybrid", "{prefill_probe: false, answer_rescoring: 0}", None),
        ("hybrid, features: policy, recall: 8", "{}", "(features: policy, recall: 8)"),
        ("mopps", "{prefill_probe: auto, answer_rescoring: 0}", None),
    ],
)
def test_what_the_policy_showed_is_not_in_the_log_and_the_reader_is_told(
    run, estimator, selection, said, capsys
):
    (run / "recipe.yaml").write_text(f"estimator: {{type: {estimator}}}\nselection: {selection}\n")
    assert main(["replay", str(run), "--estimator", "mopps", "--split", "all", "--resamples", "2"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "the policy's side" in line]
    assert [said in note for note in notes] == ([True] if said else [])


def test_kl_travelled_is_added_up_as_the_loop_does_whatever_steps_were_logged(run):
    rng = np.random.default_rng(0)
    kl = {step: float(rng.exponential(1e-3)) for step in range(1, 4001)}
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "policy_kl": value}) + "\n" for step, value in kl.items())
    )
    travelled, expected = 0.0, {}
    for step, value in kl.items():
        expected[step] = travelled
        travelled += value
    groups = {(step, "a"): Recorded("A", "selected", "uniform", 0.5, 1, 2, 2) for step in (1, 7, 500, 4000)}
    assert trace_of(run, groups).kl_T.tolist() == [expected[step] for step in (1, 7, 500, 4000)]
    assert trace_of(run, {(9000, "a"): groups[1, "a"]}).kl_T.tolist() == [travelled]


def test_a_run_too_large_for_memory_is_refused_with_its_size(run):
    groups = {(i, f"k{i}"): Recorded("x", "selected", "thompson", 0.5) for i in range(100_000)}
    with pytest.raises(UserError, match=r"100,000 prompts at 100,000 steps take 381\.8 GiB to replay"):
        trace_of(run, groups)


def test_garbage_in_the_metrics_is_left_out_and_noted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "policy_kl": 0.5}\n{"st\n{"step": 2, "policy_kl": 0.25}\n'
    )
    travelled, (note,) = kl_before(tmp_path, [1, 2, 3])
    assert travelled.tolist() == [0.0, 0.5, 0.75]
    assert "1 lines are not rows of metrics" in note
