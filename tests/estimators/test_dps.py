"""The three-state filter against steps worked by hand, an independent recursion and simulated chains."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.estimators.base import Candidate, Context, Estimates, Observation, State
from depo.estimators.dps import DpsEstimator

AS_PUBLISHED = {"prior_count": 1.0, "discount": 1.0, "confusion": 0.0}


def seen(key: str, successes: int, step: int, trials: int = 8) -> Observation:
    return Observation(key=key, text="?", successes=successes, trials=trials, step=step)


def observe(estimator: DpsEstimator, step: int, **successes: int) -> None:
    estimator.observe([seen(key, k, step) for key, k in successes.items()], Context(8, step))


def outcomes(estimator: DpsEstimator, key: str, step: int) -> list[float]:
    """[all wrong, mixed, all right]"""
    found = estimator.predict([Candidate(key, "?")], Context(8, step))
    return [found.p_all_wrong[0], found.p_informative[0], found.p_all_right[0]]


def test_prompt_never_visited_may_be_in_any_state() -> None:
    assert outcomes(DpsEstimator(**AS_PUBLISHED), "a", 9) == pytest.approx([1 / 3] * 3)


def test_two_visits_equal_the_filter_worked_by_hand() -> None:
    """Prior counts 1, no discount, the outcome is the state.

    First visit, mixed: coming from anywhere, ξ = 1/3 in each row of the column "mixed"; every row of counts
    is (1, 4/3, 1) and the belief in "mixed" becomes (1, 4/3, 1) / (10/3) = (0.3, 0.4, 0.3).
    Second visit, a step later, mixed again: ξ = 1 at mixed → mixed, that row becomes (1, 7/3, 1).
    """
    estimator = DpsEstimator(**AS_PUBLISHED)
    observe(estimator, 1, a=3)
    assert outcomes(estimator, "a", 2) == pytest.approx([0.3, 0.4, 0.3])
    observe(estimator, 2, a=5)
    assert outcomes(estimator, "a", 3) == pytest.approx(np.array([1, 7 / 3, 1]) / (13 / 3))


def test_belief_moves_by_the_matrix_once_a_step_while_the_prompt_is_not_visited() -> None:
    """After the first visit above all rows are (0.3, 0.4, 0.3): any number of steps gives the same. One more
    visit tells the rows apart; two transitions are then the square of the matrix."""
    estimator = DpsEstimator(**AS_PUBLISHED)
    observe(estimator, 1, a=3)
    assert outcomes(estimator, "a", 50) == pytest.approx([0.3, 0.4, 0.3])
    observe(estimator, 2, a=5)
    counts = np.array([[1, 4 / 3, 1], [1, 7 / 3, 1], [1, 4 / 3, 1]])
    matrix = counts / counts.sum(axis=1, keepdims=True)
    assert outcomes(estimator, "a", 4) == pytest.approx((matrix @ matrix)[1])
    assert outcomes(estimator, "a", 7) == pytest.approx(np.linalg.matrix_power(matrix, 5)[1])


class Products:
    """Counts the batched products of beliefs and matrices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, einsum = 0, np.einsum

        def counting(*arguments: object) -> np.ndarray:
            self.count += 1
            return einsum(*arguments)

        monkeypatch.setattr(np, "einsum", counting)


def test_without_decay_a_gap_of_a_million_steps_is_a_matrix_power_of_a_few_products(monkeypatch) -> None:
    estimator = DpsEstimator(**AS_PUBLISHED)
    for step, k in ((1, 3), (2, 5)):
        observe(estimator, step, a=k)
    counts = np.array([[1, 4 / 3, 1], [1, 7 / 3, 1], [1, 4 / 3, 1]])
    matrix = counts / counts.sum(axis=1, keepdims=True)
    for ahead in (2, 3, 10, 31, 64):
        expected = np.linalg.matrix_power(matrix, ahead)[1]
        assert outcomes(estimator, "a", 2 + ahead) == pytest.approx(expected, rel=1e-12)
    products = Products(monkeypatch)
    found = outcomes(estimator, "a", 1_000_000)
    assert 0 < products.count <= 21, "one a binary digit, and the last transition"
    assert found == pytest.approx(np.linalg.matrix_power(matrix, 100)[1], rel=1e-12), "where it assigns"


def test_learned_counts_decay_towards_the_prior_at_each_transition() -> None:
    """λ = 1/2. First visit as above. Two steps on, mixed again. The belief makes one transition by rows
    (1, 4/3, 1) to (0.3, 0.4, 0.3); by then the counts have decayed to (1, 7/6, 1) in each row. Into "mixed"
    all rows are equally likely, so ξ = (0.3, 0.4, 0.3); the learned third has decayed twice: 1/12."""
    estimator = DpsEstimator(prior_count=1.0, discount=0.5, confusion=0.0)
    observe(estimator, 1, a=3)
    observe(estimator, 3, a=5)
    row = np.array([1, 1 + 1 / 12 + 0.4, 1])
    assert outcomes(estimator, "a", 4) == pytest.approx(row / row.sum())


def test_confusion_lets_one_lucky_rollout_pass_without_a_change_of_mind() -> None:
    """Bayes by hand: from (1/3, 1/3, 1/3), mixed with c = 0.1 leaves (0.1, 0.8, 0.1); the transition by rows
    of (1, 1, 1) + ξ, ξ = (0.1, 0.8, 0.1)/3; then what a group shows: 0.9·wrong + 0.1·mixed and so on."""
    estimator = DpsEstimator(prior_count=1.0, discount=1.0, confusion=0.1)
    observe(estimator, 1, a=3)
    row = np.array([1 + 0.1 / 3, 1 + 0.8 / 3, 1 + 0.1 / 3])
    wrong, informative, right = row / row.sum()
    expected = [
        0.9 * wrong + 0.1 * informative,
        0.1 * wrong + 0.8 * informative + 0.1 * right,
        0.9 * right + 0.1 * informative,
    ]
    assert outcomes(estimator, "a", 2) == pytest.approx(expected)

    careful, hasty = DpsEstimator(confusion=0.1), DpsEstimator(confusion=0.0)
    for estimator in (careful, hasty):
        for step in range(1, 21):
            observe(estimator, step, a=0)
        observe(estimator, 21, a=1)
    assert outcomes(careful, "a", 22)[0] > 0.5 > outcomes(hasty, "a", 22)[0]


def test_slow_clock_moves_less_often_but_always_between_visits() -> None:
    slow, fast = DpsEstimator(steps_per_transition=10), DpsEstimator()
    for estimator in (slow, fast):
        for step in (1, 2, 3, 4):
            observe(estimator, step, a=0)
    assert outcomes(slow, "a", 5) == outcomes(fast, "a", 5)
    assert outcomes(slow, "a", 23) == outcomes(slow, "a", 5)
    assert outcomes(fast, "a", 23)[0] < outcomes(slow, "a", 23)[0]
    assert outcomes(slow, "a", 24) == outcomes(fast, "a", 6)


@given(
    visits=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), max_size=8),
    discount=st.floats(0, 1),
    confusion=st.floats(0, 0.3),
    ahead=st.integers(1, 5),
)
def test_equals_the_published_recursion_that_touches_every_prompt_at_every_step(
    visits: list[tuple[int, int]], discount: float, confusion: float, ahead: int
) -> None:
    """The paper's code moves all beliefs and decays all counts at each step; here it is done on demand."""
    estimator = DpsEstimator(prior_count=0.5, discount=discount, confusion=confusion)
    c = confusion
    emission = np.array([[1 - c, c, 0], [c, 1 - 2 * c, c], [0, c, 1 - c]])
    step, due = 1, {}
    for k, gap in visits:
        due[step] = k
        step += gap
    last = max(due, default=0)
    counts, before, now = np.full((3, 3), 0.5), np.full(3, 1 / 3), np.full(3, 1 / 3)
    for step in range(1, last + ahead):
        matrix = counts / counts.sum(axis=1, keepdims=True)
        xi = np.zeros((3, 3))
        if step in due:
            observe(estimator, step, a=due[step])
            outcome = 0 if due[step] == 0 else 2 if due[step] == 8 else 1
            xi = before[:, None] * matrix * emission[:, outcome]
            xi /= xi.sum()
            now = xi.sum(axis=0)
        elif not any(visit < step for visit in due):
            continue
        counts = discount * counts + (1 - discount) * 0.5 + xi
        before, now = now, now @ (counts / counts.sum(axis=1, keepdims=True))
    expected = now @ emission
    assert outcomes(estimator, "a", last + ahead) == pytest.approx(expected, abs=1e-7)


def test_learns_the_transitions_and_rates_of_simulated_prompts() -> None:
    """300 prompts that stay in their state with 0.9; mixed ones have p = 0.3. The forecast for the next visit
    must be calibrated: the true chance of "mixed" is 0.9 from mixed and 0.05 from either side."""
    rng = np.random.default_rng(0)
    truth = np.full((3, 3), 0.05) + 0.85 * np.eye(3)
    state = rng.integers(0, 3, 300)
    estimator = DpsEstimator(prior_count=0.3, discount=1.0, confusion=0.0)
    names = [f"{i}" for i in range(300)]
    for step in range(1, 201):
        k = np.where(state == 0, 0, np.where(state == 2, 8, 1 + rng.binomial(6, 0.3, 300)))
        observe(estimator, step, **dict(zip(names, k.tolist(), strict=True)))
        before, state = state, np.array([rng.choice(3, p=truth[s]) for s in state])
    found = estimator.predict([Candidate(name, "?") for name in names], Context(8, 201))
    for s, chance in ((0, 0.05), (1, 0.9), (2, 0.05)):
        assert found.p_informative[before == s].mean() == pytest.approx(chance, abs=0.03)
    rate_informative = (1 + 6 * 0.3) / 8
    for s in range(3):
        expected = truth[s] @ np.array([0, rate_informative, 1])
        assert found.mean[before == s].mean() == pytest.approx(expected, abs=0.03)


def belief_arrays(found: Estimates) -> np.ndarray:
    return np.stack([found.p_all_wrong, found.p_informative, found.p_all_right])


@given(
    visits=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), max_size=10),
    group_size=st.sampled_from([1, 2, 8]),
    ahead=st.integers(0, 2000),
)
def test_outcome_probabilities_sum_to_one(visits: list[tuple[int, int]], group_size: int, ahead: int) -> None:
    estimator, step = DpsEstimator(), 0
    for k, gap in visits:
        step += gap
        observe(estimator, step, a=k)
    found = estimator.predict(
        [Candidate("a", "?"), Candidate("b", "?", 0.2)], Context(group_size, step + ahead)
    )
    np.testing.assert_allclose(belief_arrays(found).sum(axis=0), 1)
    assert (belief_arrays(found) >= 0).all()
    assert ((found.mean >= 0) & (found.mean <= 1)).all()
    if group_size == 1:
        assert found.p_informative.tolist() == [0, 0]


@given(visits=st.integers(1, 12), k=st.integers(0, 7), ahead=st.integers(1, 5))
def test_prompt_that_does_better_at_every_visit_never_has_the_lower_mean(
    visits: int, k: int, ahead: int
) -> None:
    """A single success more can lower it, and rightly so: a prompt may be known to fall back from there."""
    means = []
    for successes in (k, k + 1):
        estimator = DpsEstimator()
        for step in range(1, visits + 1):
            observe(estimator, step, a=successes)
        means.append(estimator.predict([Candidate("a", "?")], Context(8, visits + ahead)).mean[0])
    assert means[1] > means[0]


def test_samples_have_the_reported_mean_and_spread() -> None:
    estimator = DpsEstimator()
    for step, k in enumerate((0, 0, 3, 8, 4), start=1):
        observe(estimator, step, a=k, b=0, c=8)
    found = estimator.predict([Candidate(key, "?") for key in "abcd"], Context(8, 6))
    draws = np.array([found.sample(np.random.default_rng(seed)) for seed in range(4000)])
    np.testing.assert_allclose(draws.mean(axis=0), found.mean, atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), found.sd, atol=0.02)


def test_recorded_rate_sets_the_belief_before_the_first_visit() -> None:
    """Rate 1/2, G = 2: all wrong 1/4, mixed 1/2, all right 1/4."""
    estimator = DpsEstimator(confusion=0.0)
    found = estimator.predict([Candidate("a", "?", prior=0.5)], Context(2, 1))
    assert belief_arrays(found)[:, 0] == pytest.approx([0.25, 0.5, 0.25])
    with pytest.raises(ValueError, match="prompt a: prior"):
        estimator.predict([Candidate("a", "?", prior=float("nan"))], Context(2, 1))


def test_order_of_groups_and_candidates_does_not_matter() -> None:
    first, second = DpsEstimator(), DpsEstimator()
    for step in range(1, 5):
        groups = [seen(f"{i}", (i * step) % 9, step) for i in range(30)]
        first.observe(groups, Context(8, step))
        second.observe(groups[::-1], Context(8, step))
    candidates = [Candidate(f"{i}", "?") for i in range(35)]
    there = first.predict(candidates, Context(8, 9)).p_informative
    np.testing.assert_array_equal(there, first.predict(candidates[::-1], Context(8, 9)).p_informative[::-1])
    np.testing.assert_allclose(there, second.predict(candidates, Context(8, 9)).p_informative, rtol=1e-12)


def test_groups_without_verdicts_say_nothing_and_impossible_counts_leave_no_trace() -> None:
    estimator = DpsEstimator()
    estimator.observe([seen("a", 0, 1, trials=0)], Context(8, 1))
    with pytest.raises(ValueError, match="prompt b: successes and trials"):
        estimator.observe([seen("a", 3, 1), seen("b", 9, 1)], Context(8, 1))
    assert estimator.state_dict().values["keys"] == []


def test_state_round_trips_exactly_and_goes_on_alike() -> None:
    first, second = DpsEstimator(), DpsEstimator()
    for step in range(1, 6):
        first.observe([seen(f"{i}", (i + step) % 9, step) for i in range(100)], Context(8, step))
    second.load_state_dict(first.state_dict())
    for estimator in (first, second):
        observe(estimator, 9, new=3, **{"7": 8})
    candidates = [Candidate(f"{i}", "?") for i in range(101)] + [Candidate("new", "?")]
    a, b = (estimator.predict(candidates, Context(8, 30)) for estimator in (first, second))
    np.testing.assert_array_equal(a.p_informative, b.p_informative)
    np.testing.assert_array_equal(a.mean, b.mean)
    for name, array in first.state_dict().arrays.items():
        np.testing.assert_array_equal(array, second.state_dict().arrays[name])


def test_broken_states_are_errors() -> None:
    with pytest.raises(ValueError, match="schema_version 2"):
        DpsEstimator().load_state_dict(State(schema_version=2))
    estimator = DpsEstimator()
    observe(estimator, 1, a=3)
    state = estimator.state_dict()
    broken = State(1, state.values, dict(state.arrays) | {"counts": np.zeros((2, 3, 3))})
    with pytest.raises(ValueError, match="counts must have shape"):
        DpsEstimator().load_state_dict(broken)


@pytest.mark.parametrize(
    "options",
    [{"prior_count": 0}, {"discount": 1.1}, {"confusion": 0.5}, {"steps_per_transition": 0}],
)
def test_settings_that_make_no_filter_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        DpsEstimator(**options)


def test_no_candidates_give_empty_arrays() -> None:
    estimates = DpsEstimator().predict([], Context(8, 1))
    assert estimates.p_informative.shape == estimates.sample(np.random.default_rng(0)).shape == (0,)
    assert DpsEstimator().observe([], Context(8, 1))["prompts_visited"] == 0


def test_prompts_are_moved_together_however_many_there_are(monkeypatch) -> None:
    """Visited at 50 different steps: the beliefs of most of them have moved many times since."""
    estimator = DpsEstimator()
    candidates = [Candidate(f"{i:064x}", "?") for i in range(5_000)]
    for step in range(50):
        estimator.observe([seen(c.key, 3, step) for c in candidates[step::50]], Context(8, step))
    products = Products(monkeypatch)
    estimator.predict(candidates, Context(8, 50))
    assert 0 < products.count <= 51, "one a step, not one a prompt"


def test_duplicates_in_one_call_count_as_one_visit_with_all_their_rollouts() -> None:
    """8 of 8 and 0 of 8 together are 8 of 16: mixed."""
    estimator, once = DpsEstimator(), DpsEstimator()
    estimator.observe([seen("🙂", 8, 1), seen("🙂", 0, 1)], Context(8, 1))
    once.observe([seen("🙂", 8, 1, trials=16)], Context(8, 1))
    assert outcomes(estimator, "🙂", 2) == outcomes(once, "🙂", 2)
    twice = estimator.predict([Candidate("🙂", "wörd 🙂 " * 10_000), Candidate("🙂", "")], Context(8, 2))
    assert twice.p_informative[0] == twice.p_informative[1]
