"""Censored feedback: the figures by hand, and selection by the product's own selector."""

import math

import numpy as np
import pytest

from depo.estimators.base import Estimates, State
from depo.estimators.mopps import MoppsEstimator
from depo.replay.censored import censored_feedback, figures, informative_later, picks_per_step
from depo.replay.comparison import over_seeds, parse_spec, selection_block
from depo.replay.report import front


def thompson(prompts: int, audit: float = 0.0):
    return selection_block(parse_spec("thompson", "--selector"), prompts, audit)


def test_figures_of_three_prompts_worked_by_hand(make_trace):
    """Six steps; later half is t = 3, 4, 5. p0 is informative in 2 of 3 there, p1 in 1 of 3, p2 in 3 of 3."""
    trace = make_trace([[0, 0, 0, 4, 4, 0], [4, 4, 4, 4, 8, 8], [8, 8, 8, 1, 2, 3]])
    picked = np.array([[1, 0, 0, 0, 1, 0], [1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=bool)
    assert informative_later(trace).tolist() == [True, False, True]
    found = figures(trace, picked)
    # Step 0 does not count. Steps 1 … 5: p1 mixed, p1 mixed, p1 mixed, p0 mixed, p1 not.
    assert found["effective_ratio"] == pytest.approx((1 + 1 + 1 + 1 + 0) / 5)
    assert found["starvation"] == 1.0  # p0 visited twice, p2 never; p1 is not among those that count
    assert found["never_visited"] == pytest.approx(1 / 3)
    since = [1, 0, 6]  # p0 last at t = 4, p1 at 5, p2 never
    assert found["since_visit_p50"] == np.percentile(since, 50)
    assert found["since_visit_p99"] == pytest.approx(np.percentile(since, 99))


def test_ratio_averages_steps_and_not_picks(make_trace):
    trace = make_trace([[4, 4, 0], [4, 4, 0], [4, 0, 4]])
    picked = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
    assert figures(trace, picked)["effective_ratio"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_prompt_visited_three_times_is_not_starved_and_half_of_the_visits_is_enough(make_trace):
    trace = make_trace([[0, 0, 4, 0], [8, 8, 8, 8]])
    assert informative_later(trace).tolist() == [True, False]
    assert figures(trace, np.array([[1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool))["starvation"] == 0.0
    assert math.isnan(figures(trace.take(np.array([1])), np.zeros((1, 4), dtype=bool))["starvation"])


def test_budget_is_rounded_up_without_rounding_noise():
    assert [picks_per_step(0.25, n) for n in (400, 401, 3, 1)] == [100, 101, 1, 1]
    assert picks_per_step(0.07, 100) == 7
    assert picks_per_step(1.0, 37) == 37


class Spy:
    """A sharp belief that p is 1/2 for the even prompts and 0 for the odd ones."""

    def __init__(self):
        self.seen, self.asked = [], set()

    def predict(self, candidates, context):
        self.asked |= {one.key for one in candidates}
        p_N = np.array([0.5 if int(one.key[1:]) % 2 == 0 else 0.0 for one in candidates])
        informative_N = np.where(p_N > 0, 0.99, 0.01)
        return Estimates(p_N, 0 * p_N, informative_N, 1 - informative_N, 0 * p_N, lambda rng: p_N)

    def observe(self, observations, context):
        self.seen += [(context.step, one.key, one.successes, one.trials) for one in observations]
        return {}

    def state_dict(self):
        return State(1)

    def load_state_dict(self, state):
        raise NotImplementedError


def test_the_estimator_chooses_by_its_beliefs_and_sees_only_what_was_picked(make_trace):
    spy = Spy()
    trace = make_trace([[4, 5, 6] if i % 2 == 0 else [0, 0, 0] for i in range(20)])
    found = censored_feedback(trace, lambda: spy, thompson(20), 0.25, 8, seed=0)
    assert len(spy.seen) == 3 * 5
    assert all(int(key[1:]) % 2 == 0 for _, key, _, _ in spy.seen)
    assert all((successes, trials) == (3 + step, 8) for step, _, successes, trials in spy.seen)
    assert found["effective_ratio"] == 1.0
    assert found["never_visited"] >= 0.5
    assert len(spy.asked) == 20, "all prompts are candidates at each step"


def test_audit_picks_count_as_picks_and_grade_the_estimator(make_trace):
    trace = make_trace([[4] * 40 if i % 2 == 0 else [0] * 40 for i in range(40)])
    spies = []
    found = censored_feedback(
        trace, lambda: spies.append(Spy()) or spies[-1], thompson(40, audit=0.3), 0.25, 8, seed=0
    )
    assert found["audit_groups"] == 40 * 3
    assert found["audit_auroc"] == 1.0
    assert found["effective_ratio"] == pytest.approx(1 - 0.3 / 2, abs=0.04)
    assert len(spies[0].seen) == 40 * 10


class Believer(Spy):
    """Takes each candidate's prior for the truth."""

    def predict(self, candidates, context):
        self.seen.append([one.prior for one in candidates])
        p_N = np.array([one.prior for one in candidates])
        return Estimates(p_N, 0 * p_N, 4 * p_N * (1 - p_N), (1 - p_N) ** 8, p_N**8, lambda rng: p_N)

    def observe(self, observations, context):
        return {}


def test_the_oracle_is_told_the_rate_of_the_step_it_is_asked_at(make_trace):
    """Half of the prompts are learnable in the first ten steps, the others in the last ten."""
    early, late = [4] * 10 + [8] * 10, [0] * 10 + [4] * 10
    trace = make_trace([early if i % 2 == 0 else late for i in range(20)])
    believer = Believer()
    found = censored_feedback(trace, lambda: believer, thompson(20), 0.25, 8, seed=0, told_rates=True)
    assert found["effective_ratio"] > 0.85, (
        "all but the steps around the turn; rates of step 0 would give half"
    )
    assert found["never_visited"] == 0.0
    asked = [priors for priors in believer.seen if priors]  # nobody was drawn for the audit slice
    assert len(asked) == 20
    assert (min(asked[1]), max(asked[1])) == pytest.approx((0, 0.5), abs=0.01)
    assert (min(asked[18]), max(asked[18])) == pytest.approx((0.5, 1), abs=0.01)


def test_replays_are_reproducible_and_differ_between_seeds(make_trace):
    rng = np.random.default_rng(0)
    trace = make_trace(rng.binomial(8, rng.beta(0.5, 0.5, size=(50, 1)), size=(50, 10)).tolist())

    def replay(seed):
        found = censored_feedback(trace, MoppsEstimator, thompson(50, 0.1), 0.2, 8, seed)
        return {name: value for name, value in found.items() if "seconds" not in name}

    assert replay(0) == replay(0)
    assert replay(0) != replay(1)


def test_front_is_made_of_the_points_that_none_beats_on_both():
    points = [(0.4, 0.8), (0.0, 0.5), (0.1, 0.85), (0.2, 0.7), (0.3, 0.9), (0.0, 0.4), (0.1, 0.6)]
    assert front(points) == [(0.0, 0.5), (0.1, 0.85), (0.3, 0.9)]


def test_an_interval_over_seeds_needs_two_that_define_the_figure():
    found = over_seeds([{"x": 1.0, "y": math.nan}, {"x": 3.0, "y": 5.0}])
    assert found["x"] == 2.0
    assert found["y"] == 5.0
    assert found["intervals"]["y"] is None
    assert over_seeds([{"starvation": 0.0}, {"starvation": 0.1}])["intervals"]["starvation"][0] == 0.0
