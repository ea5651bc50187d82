"""The MoPPS posterior against hand-worked updates and an independent recursion."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.estimators.base import Candidate, Context, Estimates, Observation, State
from depo.estimators.mopps import MoppsEstimator

CONTEXT = Context(group_size=8, step=1)


def candidate(key: str, prior: float | None = None, text: str = "?") -> Candidate:
    return Candidate(key=key, text=text, prior=prior)


def seen(key: str, successes: int, trials: int = 8) -> Observation:
    return Observation(key=key, text="?", successes=successes, trials=trials, step=1)


def parameters(estimates: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) back from mean and sd: a + b = mean·(1 − mean)/variance − 1."""
    total = estimates.mean * (1 - estimates.mean) / estimates.sd**2 - 1
    return estimates.mean * total, (1 - estimates.mean) * total


def assert_belief(
    estimator: MoppsEstimator, key: str, a: float, b: float, prior: float | None = None
) -> None:
    found_a, found_b = parameters(estimator.predict([candidate(key, prior)], CONTEXT))
    assert (found_a[0], found_b[0]) == (pytest.approx(a), pytest.approx(b))


def test_update_equals_mopps_worked_by_hand() -> None:
    """Beta(1, 1), λ = 0.5. First visit 6 of 8: α = 0.5·1 + 0.5·1 + 6 = 7, β = 3. Second visit 1 of 8:
    α = 0.5·7 + 0.5·1 + 1 = 5, β = 0.5·3 + 0.5·1 + 7 = 9."""
    estimator = MoppsEstimator(prior_successes=1, prior_failures=1, discount=0.5)
    assert_belief(estimator, "a", 1, 1)
    estimator.observe([seen("a", 6)], CONTEXT)
    assert_belief(estimator, "a", 7, 3)
    estimator.observe([seen("a", 1)], CONTEXT)
    assert_belief(estimator, "a", 5, 9)
    assert_belief(estimator, "b", 1, 1)


def test_discount_one_is_the_plain_posterior_and_zero_forgets() -> None:
    for discount, a, b in ((1.0, 1 + 6 + 1, 2 + 2 + 7), (0.0, 1 + 1, 2 + 7)):
        estimator = MoppsEstimator(prior_successes=1, prior_failures=2, discount=discount)
        estimator.observe([seen("a", 6)], CONTEXT)
        estimator.observe([seen("a", 1)], CONTEXT)
        assert_belief(estimator, "a", a, b)


@given(
    counts=st.lists(st.integers(0, 8), max_size=6),
    discount=st.floats(0, 1),
    prior=st.one_of(st.none(), st.floats(0.01, 0.99)),
)
def test_belief_equals_the_papers_recursion_whatever_the_prior(
    counts: list[int], discount: float, prior: float | None
) -> None:
    estimator = MoppsEstimator(prior_successes=1.5, prior_failures=0.5, discount=discount)
    a0, b0 = (1.5, 0.5) if prior is None else (2 * prior, 2 * (1 - prior))
    a, b = a0, b0
    for k in counts:
        estimator.observe([seen("a", k)], CONTEXT)
        a = discount * a + (1 - discount) * a0 + k
        b = discount * b + (1 - discount) * b0 + 8 - k
    assert_belief(estimator, "a", a, b, prior)


def test_prior_of_the_data_set_is_worth_the_pseudo_counts() -> None:
    estimator = MoppsEstimator(prior_successes=3, prior_failures=1)
    assert_belief(estimator, "a", 4 * 0.25, 4 * 0.75, prior=0.25)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_prior_at_the_ends_stays_a_proper_belief(prior: float) -> None:
    estimates = MoppsEstimator().predict([candidate("a", prior)], CONTEXT)
    assert abs(estimates.mean[0] - prior) < 0.02
    assert 0 < estimates.p_informative[0] < 0.2
    assert 0 <= estimates.sample(np.random.default_rng(0))[0] <= 1


@pytest.mark.parametrize("prior", [float("nan"), -0.01, 1.01])
def test_prior_that_is_no_pass_rate_is_an_error_naming_the_prompt(prior: float) -> None:
    with pytest.raises(ValueError, match="prompt a: prior"):
        MoppsEstimator().predict([candidate("a", prior)], CONTEXT)


@pytest.mark.parametrize(("successes", "trials"), [(9, 8), (-1, 8), (1.5, 8), (1, 0)])
def test_impossible_counts_are_errors_and_leave_no_trace(successes: float, trials: int) -> None:
    estimator = MoppsEstimator()
    with pytest.raises(ValueError, match="prompt b: successes and trials"):
        estimator.observe([seen("a", 3), seen("b", successes, trials)], CONTEXT)  # type: ignore[arg-type]
    assert_belief(estimator, "a", 1, 1)


def test_group_without_scorable_rollouts_says_nothing_and_does_not_discount() -> None:
    estimator = MoppsEstimator(discount=0.5)
    estimator.observe([seen("a", 6)], CONTEXT)
    estimator.observe([seen("a", 0, 0), seen("b", 0, 0)], CONTEXT)
    assert_belief(estimator, "a", 7, 3)
    assert estimator.state_dict().values["keys"] == ["a"]


def test_duplicates_in_one_call_count_as_one_visit_in_either_order() -> None:
    for groups in ([seen("a", 6), seen("a", 1)], [seen("a", 1), seen("a", 6)]):
        estimator = MoppsEstimator(discount=0.5)
        estimator.observe(groups, CONTEXT)
        assert_belief(estimator, "a", 1 + 7, 1 + 9)
        twice = estimator.predict([candidate("a"), candidate("b"), candidate("a")], CONTEXT)
        assert twice.mean[0] == twice.mean[2] != twice.mean[1]


def test_group_of_one_is_never_informative() -> None:
    estimates = MoppsEstimator().predict([candidate("a")], Context(group_size=1, step=0))
    assert estimates.p_informative[0] == 0
    assert estimates.p_all_right[0] + estimates.p_all_wrong[0] == 1


def test_no_candidates_give_empty_arrays() -> None:
    estimates = MoppsEstimator().predict([], CONTEXT)
    assert estimates.mean.shape == estimates.p_informative.shape == (0,)
    assert estimates.sample(np.random.default_rng(0)).shape == (0,)
    assert MoppsEstimator().observe([], CONTEXT) == {"prompts_visited": 0.0}


@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=5), at=st.integers(0, 4))
def test_one_more_success_never_lowers_the_mean(counts: list[int], at: int) -> None:
    means = []
    for extra in (0, 1):
        estimator = MoppsEstimator()
        for i, k in enumerate(counts):
            estimator.observe([seen("a", k + extra * (i == at % len(counts)))], CONTEXT)
        means.append(estimator.predict([candidate("a")], CONTEXT).mean[0])
    assert means[1] > means[0]


def test_order_of_candidates_does_not_matter() -> None:
    estimator = MoppsEstimator()
    estimator.observe([seen(f"{i}", i) for i in range(9)], CONTEXT)
    candidates = [candidate(f"{i}") for i in range(12)]
    there = estimator.predict(candidates, CONTEXT).p_informative
    back = estimator.predict(candidates[::-1], CONTEXT).p_informative
    np.testing.assert_array_equal(there, back[::-1])


def test_state_round_trips_exactly_and_goes_on_alike() -> None:
    first, second = MoppsEstimator(), MoppsEstimator()
    first.observe([seen(f"{i}", i % 9) for i in range(100)], CONTEXT)
    second.load_state_dict(first.state_dict())
    candidates = [candidate(f"{i}", 0.3) for i in range(120)]
    for estimator in (first, second):
        estimator.observe([seen("99", 8), seen("new", 2)], CONTEXT)
    a, b = (estimator.predict(candidates, CONTEXT) for estimator in (first, second))
    np.testing.assert_array_equal(a.p_informative, b.p_informative)
    np.testing.assert_array_equal(
        first.state_dict().arrays["evidence"], second.state_dict().arrays["evidence"]
    )


def test_state_is_a_snapshot() -> None:
    estimator = MoppsEstimator()
    estimator.observe([seen("a", 6)], CONTEXT)
    state = estimator.state_dict()
    estimator.observe([seen("a", 1)], CONTEXT)
    other = MoppsEstimator()
    other.load_state_dict(state)
    assert_belief(other, "a", 7, 3)
    other.observe([seen("a", 1)], CONTEXT)
    np.testing.assert_array_equal(state.arrays["evidence"], [[6, 2]])


def test_state_of_another_version_or_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="schema_version 2"):
        MoppsEstimator().load_state_dict(State(schema_version=2))
    broken = State(schema_version=1, values={"keys": ["a"]}, arrays={"evidence": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="evidence of shape"):
        MoppsEstimator().load_state_dict(broken)


@pytest.mark.parametrize(
    "options", [{"prior_successes": 0}, {"prior_failures": float("nan")}, {"discount": 1.5}]
)
def test_settings_that_make_no_belief_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        MoppsEstimator(**options)


def test_long_prompts_and_emoji_are_only_text() -> None:
    estimator = MoppsEstimator()
    estimator.observe([seen("🙂" * 50, 3)], CONTEXT)
    estimates = estimator.predict([candidate("🙂" * 50, text="wörd 🙂 " * 10_000)], CONTEXT)
    assert estimates.mean[0] == pytest.approx(0.4)


@pytest.mark.slow
def test_predicts_100_000_prompts_in_a_second_of_one_core() -> None:
    estimator = MoppsEstimator()
    candidates = [candidate(f"{i:064x}", 0.3) for i in range(100_000)]
    estimator.observe([seen(one.key, 3) for one in candidates[::2]], CONTEXT)
    start = time.process_time()
    estimator.predict(candidates, CONTEXT)
    assert time.process_time() - start < 2.0


def test_memory_grows_only_with_visited_prompts() -> None:
    estimator = MoppsEstimator()
    estimator.observe([seen("a", 3)], CONTEXT)
    candidates = [candidate(f"{i:064x}") for i in range(20_000)]
    tracemalloc.start()
    estimator.predict(candidates, CONTEXT)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000  # bytes; one float per candidate would already be more
