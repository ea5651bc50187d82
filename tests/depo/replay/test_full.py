"""Full feedback: what is predicted before it is observed, and the figures on a recorded training run."""

import math
from dataclasses import replace

import numpy as np
import pytest

from depo.estimators.base import State
from depo.estimators.baselines import UniformEstimator
from depo.estimators.moments import beta_estimates
from depo.estimators.mopps import MoppsEstimator
from depo.replay.full import differences, full_feedback, full_quality, observations_at, smoother
from depo.replay.parquet import read_parquet
from depo.replay.trace import split_rows
from depo.report.statistics import resample_prompts


class Recorder:
    """Believes Beta(1 + successes, 1 + failures) and remembers the order of what it was asked and told."""

    def __init__(self):
        self.events, self.counts = [], {}

    def predict(self, candidates, context):
        self.events.append(("predict", context.step, [(one.key, one.prior) for one in candidates]))
        k_N, n_N = np.array([self.counts.get(one.key, (0, 0)) for one in candidates]).T
        return beta_estimates(1 + k_N, 1 + n_N - k_N, context.group_size)

    def observe(self, observations, context):
        self.events.append(("observe", context.step, [(one.key, one.successes) for one in observations]))
        assert all(one.step == context.step and one.propensity == 1.0 for one in observations)
        for one in observations:
            k, n = self.counts.get(one.key, (0, 0))
            self.counts[one.key] = k + one.successes, n + one.trials
        return {}

    def state_dict(self):
        return State(1)

    def load_state_dict(self, state):
        raise NotImplementedError


def test_all_prompts_are_predicted_before_any_of_the_steps_outcomes_is_observed(make_trace):
    recorder = Recorder()
    predictions, _ = full_feedback(make_trace([[1, 2], [8, 0]]), lambda: recorder, 8)
    assert recorder.events == [
        ("predict", 1, [("p0", None), ("p1", None)]),
        ("observe", 1, [("p0", 1), ("p1", 8)]),
        ("predict", 2, [("p0", None), ("p1", None)]),
        ("observe", 2, [("p0", 2), ("p1", 0)]),
    ]
    np.testing.assert_allclose(predictions.mean_M, [0.5, 0.5, 2 / 10, 9 / 10])
    assert predictions.visits_M.tolist() == [0, 0, 1, 1]
    assert predictions.was_mixed_M.tolist() == [1, 0, 1, 0]
    assert predictions.was_all_wrong_M.tolist() == [0, 0, 0, 1]
    assert predictions.was_all_right_M.tolist() == [0, 1, 0, 0]


def test_observations_bring_the_recorded_pass_rate_along(make_trace):
    trace = make_trace([[1], [8]])
    trace = replace(trace, prompts=[replace(trace.prompts[0], prior=0.25), trace.prompts[1]])
    assert [one.prior for one in observations_at(trace, 0, np.array([0, 1]), 1)] == [0.25, None]


def test_what_is_not_recorded_is_neither_predicted_nor_observed(make_trace):
    recorder = Recorder()
    predictions, _ = full_feedback(make_trace([[1, -1], [-1, 5]]), lambda: recorder, 8)
    assert [keys for kind, _, keys in recorder.events if kind == "observe"] == [[("p0", 1)], [("p1", 5)]]
    assert predictions.visits_M.tolist() == [0, 0]


def test_ungraded_prompts_are_observed_all_the_same(make_trace):
    recorder = Recorder()
    trace = make_trace([[1, 2], [8, 0]]).grade_only(np.array([True, False]))
    predictions, _ = full_feedback(trace, lambda: recorder, 8)
    assert predictions.prompt_M.tolist() == [0, 0]
    assert recorder.counts["p1"] == (8, 16)


def test_in_passes_every_prompt_comes_once_a_pass_and_later_ones_profit_from_earlier_ones(make_trace):
    recorder = Recorder()
    trace = make_trace([[i % 9, 4] for i in range(10)])
    predictions, _ = full_feedback(trace, lambda: recorder, 8, batch=4)
    batches = [keys for kind, _, keys in recorder.events if kind == "observe"]
    assert [len(keys) for keys in batches] == [4, 4, 2, 4, 4, 2]
    assert [step for kind, step, _ in recorder.events if kind == "predict"] == [1, 2, 3, 4, 5, 6]
    for one_pass in (batches[:3], batches[3:]):
        assert sorted(key for keys in one_pass for key, _ in keys) == sorted(f"p{i}" for i in range(10))
    assert predictions.visits_M.tolist() == [0] * 10 + [1] * 10
    assert [key for keys in batches[:3] for key, _ in keys] != [f"p{i}" for i in range(10)]


def test_oracle_is_told_the_smoothed_rate_and_that_of_a_count_file(make_trace):
    recorder = Recorder()
    full_feedback(make_trace([[0, 8, 4]]), lambda: recorder, 8, told_rates=True)
    near, far = math.exp(-0.5 / 9), math.exp(-0.5 * 4 / 9)
    priors = [keys[0][1] for kind, _, keys in recorder.events if kind == "predict"]
    assert priors == pytest.approx(
        [(8 * near + 4 * far) / (8 * near + 8 * far), 0.25, (8 * near + 0 * far) / (8 * near + 8 * far)]
    )
    recorder = Recorder()
    counts = make_trace([[0, 8]], kind="counts", rate_N=np.array([0.3]))
    full_feedback(counts, lambda: recorder, 8, told_rates=True)
    assert [keys[0][1] for kind, _, keys in recorder.events if kind == "predict"] == [0.3, 0.3]


@pytest.mark.parametrize("bad", [float("nan"), 1.5])
def test_beliefs_that_are_no_probabilities_are_an_error(make_trace, bad):
    class Broken(Recorder):
        def predict(self, candidates, context):
            return replace(super().predict(candidates, context), p_all_wrong=np.full(len(candidates), bad))

    with pytest.raises(ValueError, match="Broken: p_all_wrong must be"):
        full_feedback(make_trace([[1, 2]]), Broken, 8)


def test_figures_on_a_recorded_training_run(test_data):
    """The lab's figures for the same definitions: mopps 0.88, smoother 0.906, an uninformed estimator 0.5."""
    path = test_data / "traces" / "dsrsub_qwen25math15b_grpo_epochs_n8.parquet"
    trace, group_size = read_parquet(path, None, {}, None, None, 0)
    assert (group_size, trace.trials_NT.shape[1]) == (8, 44)
    odd = trace.take(split_rows(trace, "odd"))
    assert len(odd.prompts) == 368
    weights_RN = resample_prompts(368, 200, seed=0)
    qualities = {
        "mopps": full_quality(full_feedback(odd, MoppsEstimator, 8)[0], weights_RN),
        "slow": full_quality(full_feedback(odd, lambda: MoppsEstimator(0.5, 0.5, 0.9), 8)[0], weights_RN),
        "smoother": full_quality(smoother(odd, 8), weights_RN),
        "uniform": full_quality(full_feedback(odd, UniformEstimator, 8)[0], weights_RN),
    }
    mopps = qualities["mopps"].figures
    assert mopps["predictions"] == 368 * 44
    assert mopps["auroc"] >= 0.88
    low, high = mopps["intervals"]["auroc"]
    assert low < mopps["auroc"] < high
    assert 0.02 < high - low < 0.05, "the standard error of one AUROC is near 0.007 here"
    assert 0.90 < qualities["smoother"].figures["auroc"] < 0.912
    assert qualities["uniform"].figures["auroc"] == 0.5
    assert math.isnan(qualities["uniform"].figures["spearman"])
    assert mopps["by_visits"]["0"]["auroc"] == 0.5
    assert mopps["by_visits"]["1"]["auroc"] < mopps["by_visits"]["5+"]["auroc"]
    pair = next(
        one for one in differences(qualities) if (one["estimator"], one["minus"]) == ("mopps", "slow")
    )
    assert pair["auroc"] == pytest.approx(mopps["auroc"] - qualities["slow"].figures["auroc"])
    paired_low, paired_high = pair["auroc_interval"]
    assert paired_low < pair["auroc"] < paired_high < 0
    assert paired_high - paired_low < (high - low) / 3, (
        "pairing by prompt is what makes the difference visible"
    )
