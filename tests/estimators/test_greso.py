"""GRESO's keep probabilities, worked by hand."""

import numpy as np
import pytest

from depo.estimators.base import Candidate, Context, Observation, State
from depo.estimators.greso import GresoEstimator

CONTEXT = Context(group_size=8, step=1)


def seen(key: str, successes: int, trials: int = 8) -> Observation:
    return Observation(key=key, text="?", successes=successes, trials=trials, step=1)


def keep(estimator: GresoEstimator, *keys: str) -> list[float]:
    return estimator.predict([Candidate(key, "?") for key in keys], CONTEXT).p_informative.tolist()


def frozen(**options: float) -> GresoEstimator:
    return GresoEstimator(adjustment=0.0, **options)


def test_kept_with_base_probability_to_the_length_of_the_run() -> None:
    """p_easy = 0.5, p_hard = 0.4. Easy after 3 all-right groups: 0.5³. Hard after 2 all-wrong: 0.4²."""
    estimator = frozen(p_easy=0.5, p_hard=0.4)
    for _ in range(2):
        estimator.observe([seen("easy", 8), seen("hard", 0), seen("mixed", 3)], CONTEXT)
    estimator.observe([seen("easy", 8)], CONTEXT)
    assert keep(estimator, "easy", "hard", "mixed", "new") == pytest.approx([0.125, 0.16, 1.0, 1.0])


def test_informative_group_ends_a_run_and_a_change_of_sides_starts_a_new_one() -> None:
    estimator = frozen(p_easy=0.5, p_hard=0.4)
    for k in (8, 8, 0):
        estimator.observe([seen("a", k)], CONTEXT)
    assert keep(estimator, "a") == pytest.approx([0.4])
    estimator.observe([seen("a", 7)], CONTEXT)
    assert keep(estimator, "a") == [1.0]


def test_base_probabilities_adjust_themselves_towards_the_targets() -> None:
    """Second visit of 12 prompts: 1 all right is a share of exactly 1/12, hence too many; 1 all wrong is
    below 1/6, hence too few. Third visit: 0 all right, 2 all wrong of 12: the other way round."""
    estimator = GresoEstimator()
    everybody = [f"{i}" for i in range(12)]
    estimator.observe([seen(key, 0) for key in everybody], CONTEXT)
    assert (estimator.p_easy, estimator.p_hard) == (0.5, 0.5)  # nobody had been visited before
    estimator.observe([seen(k, {"0": 8, "1": 0}.get(k, 4)) for k in everybody], CONTEXT)
    assert (estimator.p_easy, estimator.p_hard) == (pytest.approx(0.49), pytest.approx(0.51))
    metrics = estimator.observe([seen(k, {"0": 0, "1": 0}.get(k, 4)) for k in everybody], CONTEXT)
    assert (metrics["p_easy"], metrics["p_hard"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_base_probabilities_stay_within_their_bounds() -> None:
    estimator = GresoEstimator()
    for _ in range(60):
        estimator.observe([seen("a", 8)], CONTEXT)
    assert (estimator.p_easy, estimator.p_hard) == (0.05, 0.95)


def test_mass_not_kept_goes_to_the_side_last_seen() -> None:
    estimator = frozen()
    estimator.observe([seen("easy", 8), seen("hard", 0)], CONTEXT)
    found = estimator.predict([Candidate(key, "?") for key in ("easy", "hard", "new")], CONTEXT)
    np.testing.assert_allclose(found.p_informative + found.p_all_wrong + found.p_all_right, 1)
    assert found.p_all_right.tolist() == [0.5, 0.0, 0.0]
    assert found.mean.tolist() == [0.75, 0.25, 0.5]
    draws = np.array([found.sample(np.random.default_rng(seed)) for seed in range(4000)])
    np.testing.assert_allclose(draws.mean(axis=0), found.mean, atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), found.sd, atol=0.02)


def test_groups_that_cannot_show_variance_change_no_run() -> None:
    estimator = frozen()
    estimator.observe([seen("a", 8)], CONTEXT)
    estimator.observe([seen("a", 1, 1), seen("b", 0, 0)], CONTEXT)
    assert keep(estimator, "a", "b") == [0.5, 1.0]


def test_group_of_one_is_never_informative() -> None:
    found = GresoEstimator().predict([Candidate("a", "?")], Context(1, 1))
    assert found.p_informative[0] == 0
    assert found.p_all_right[0] + found.p_all_wrong[0] == 1


def test_impossible_counts_leave_no_trace() -> None:
    estimator = frozen()
    with pytest.raises(ValueError, match="prompt b: successes and trials"):
        estimator.observe([seen("a", 8), seen("b", 9)], CONTEXT)
    assert keep(estimator, "a") == [1.0]


def test_order_of_groups_and_candidates_does_not_matter() -> None:
    groups = [seen(f"{i}", (0, 8, 4)[i % 3]) for i in range(30)]
    first, second = GresoEstimator(), GresoEstimator()
    for _ in range(3):
        first.observe(groups, CONTEXT)
        second.observe(groups[::-1], CONTEXT)
    names = [f"{i}" for i in range(32)]
    assert keep(first, *names) == keep(second, *names) == keep(first, *names[::-1])[::-1]


def test_state_round_trips_exactly_and_goes_on_alike() -> None:
    first, second = GresoEstimator(), GresoEstimator()
    for k in (8, 8, 3, 0):
        first.observe([seen("a", k), seen("b", 0), seen("c", 8)], CONTEXT)
    second.load_state_dict(first.state_dict())
    for estimator in (first, second):
        estimator.observe([seen("a", 0), seen("new", 8)], CONTEXT)
    assert keep(first, "a", "b", "c", "new") == keep(second, "a", "b", "c", "new")
    assert first.state_dict().values == second.state_dict().values


def test_broken_states_are_errors() -> None:
    with pytest.raises(ValueError, match="schema_version 2"):
        GresoEstimator().load_state_dict(State(schema_version=2))
    values = {"keys": ["a"], "p_easy": 0.5, "p_hard": 0.5}
    with pytest.raises(ValueError, match="streak of shape"):
        GresoEstimator().load_state_dict(State(1, values, {"streak": np.zeros(2)}))
    with pytest.raises(ValueError, match="numbers p_easy and p_hard"):
        GresoEstimator().load_state_dict(State(1, values | {"p_easy": "x"}, {"streak": np.zeros(1)}))


@pytest.mark.parametrize(
    "options", [{"p_easy": 0.99}, {"p_hard": 0.0}, {"p_min": 0.6, "p_max": 0.5}, {"target_easy": 1.5}]
)
def test_settings_that_are_no_probabilities_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        GresoEstimator(**options)


def test_no_candidates_give_empty_arrays() -> None:
    estimates = GresoEstimator().predict([], CONTEXT)
    assert estimates.p_informative.shape == estimates.sample(np.random.default_rng(0)).shape == (0,)


def test_duplicates_in_one_call_count_as_one_visit_with_all_their_rollouts() -> None:
    """8 of 8 and 0 of 8 together are 8 of 16: mixed. Twice 8 of 8 is one all-right visit."""
    estimator = frozen()
    estimator.observe([seen("a", 8), seen("a", 0), seen("b", 8), seen("b", 8)], CONTEXT)
    assert keep(estimator, "a", "b", "b") == [1.0, 0.5, 0.5]


def test_long_prompts_and_emoji_are_only_text() -> None:
    estimator = frozen()
    estimator.observe([seen("🙂" * 50, 8)], CONTEXT)
    assert estimator.predict([Candidate("🙂" * 50, "wörd 🙂 " * 10_000)], CONTEXT).p_informative[0] == 0.5
