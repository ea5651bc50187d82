"""What the hybrid keeps: exactly, within bounds, and whatever it is asked."""

import json
import time

import numpy as np
import pytest
from hybrid_questions import at, candidate, plain, seen

from depo.estimators.base import State
from depo.estimators.hybrid import SCHEMA_VERSION, SPANS, WINDOW, HybridEstimator


def test_state_round_trips_exactly_and_learning_goes_on_as_if_never_stopped():
    rng = np.random.default_rng(5)

    def groups(step):
        return [
            seen(
                str(i), int(rng.integers(9)), text=f"word{i % 7} {i}", step=step, features=rng.normal(size=3)
            )
            for i in rng.choice(60, 12, replace=False)
        ]

    history = [groups(step) for step in range(1, 21)]
    original, restored = HybridEstimator(), HybridEstimator()
    for step, batch in enumerate(history[:10], 1):
        original.observe(batch, at(step))
    state = original.state_dict()
    values = json.loads(json.dumps(dict(state.values)))
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    restored.load_state_dict(State(state.schema_version, values, arrays))
    asked = [candidate(str(i), text=f"word{i % 7} {i}", features=np.ones(3)) for i in range(80)]
    for step, batch in enumerate([[], *history[10:]], 10):
        assert restored.observe(batch, at(step)) == original.observe(batch, at(step))
        for name in ("mean", "sd", "p_informative", "p_all_wrong", "p_all_right"):
            np.testing.assert_array_equal(
                getattr(original.predict(asked, at(30)), name), getattr(restored.predict(asked, at(30)), name)
            )
    with pytest.raises(ValueError, match=f"schema_version 5, expected {SCHEMA_VERSION}"):
        restored.load_state_dict(State(5))


def test_predicting_changes_nothing():
    estimator = HybridEstimator()
    estimator.observe([seen("a", 3, text="x y z"), seen("b", 0, text="u v w")], at(1))
    asked = [candidate(key, text=f"{key} text") for key in "abcd"]
    before = estimator.predict(asked, at(2)).p_informative
    estimator.predict(asked, at(50))
    np.testing.assert_array_equal(estimator.predict(asked, at(2)).p_informative, before)


def test_a_step_may_bring_more_first_visits_than_the_population_is_fitted_to():
    """What is believed of a prompt depends on its outcome, not on whether it is among the newest."""
    estimator, prompts = plain(), WINDOW + 200
    estimator.observe([seen(f"{i:05d}", i % 9) for i in range(prompts)], at(1))
    mean_N = estimator.predict([candidate(f"{i:05d}") for i in range(prompts)], at(1)).mean
    by_outcome = [mean_N[k::9] for k in range(9)]
    assert max(np.ptp(mean_n) for mean_n in by_outcome) < 1e-6
    assert (np.diff([mean_n.mean() for mean_n in by_outcome]) > 0.05).all()


def test_odd_prompts_are_read_and_impossible_ones_refused():
    estimator = HybridEstimator()
    odd = ["", "🤯" * 50, "word " * 10_000, "\x00\n\t"]
    estimator.observe([seen(str(i), 4, text=text) for i, text in enumerate(odd)], at(1))
    estimates = estimator.predict([candidate(f"new {i}", text=text) for i, text in enumerate(odd)], at(2))
    assert np.isfinite(estimates.p_informative).all()
    assert len(estimator.predict([], at(2)).mean) == 0
    assert estimator.observe([], at(2))["prompts_visited"] == 4
    estimator.observe([seen("unscorable", 0, n=0)], at(2))
    assert estimator.observe([], at(2))["prompts_visited"] == 4
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        estimator.observe([seen("a", 9)], at(3))
    with pytest.raises(ValueError, match=r"prior must lie in \[0, 1\]"):
        estimator.predict([candidate("b", prior=float("nan"))], at(3))
    with pytest.raises(ValueError, match="group size"):
        estimator.predict([candidate("b")], at(3, group_size=0))


def test_groups_of_any_size_teach_something_finite():
    estimator = plain()
    for step in range(1, 4):
        estimator.observe([seen("a", 4096, n=4096), seen("b", 0, n=4096), seen("c", 1, n=1)], at(step))
    mean = estimator.predict([candidate(key) for key in "abcd"], at(4)).mean
    assert mean[0] > 0.99
    assert mean[1] < 0.01
    assert mean[1] < mean[3] < mean[0]


def test_memory_grows_with_visited_prompts_only():
    estimator = plain()
    estimator.predict([candidate(str(i)) for i in range(20_000)], at(1))
    assert sum(array.nbytes for array in estimator.state_dict().arrays.values()) < 10_000
    estimator.observe([seen(str(i), 1) for i in range(1000)], at(1))
    assert estimator.state_dict().arrays["counts"].shape == (1000, len(SPANS), 2)


@pytest.mark.slow
def test_a_step_of_800_candidates_takes_a_tenth_of_a_second_of_one_core():
    rng = np.random.default_rng(6)
    words = np.array([f"word{i}" for i in range(500)])
    asked = [
        candidate(str(i), text=" ".join(words[row]), features=rng.normal(size=130))
        for i, row in enumerate(rng.integers(500, size=(800, 20)))
    ]
    estimator, seconds = HybridEstimator(), []
    for step in range(1, 16):
        rows = rng.choice(800, 64, replace=False)
        start = time.process_time()
        estimator.predict(asked, at(step))
        groups = [
            seen(asked[i].key, int(rng.integers(9)), text=asked[i].text, features=asked[i].features)
            for i in rows
        ]
        estimator.observe(groups, at(step))
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 0.2  # half of that on a core that is not shared


def test_an_encoder_can_read_the_texts_and_its_state_goes_along(minilm):
    def reading():
        return HybridEstimator(text="encoder", text_model=str(minilm))

    rng = np.random.default_rng(7)
    problems = {True: "Add {} and {}.", False: "Prove that no integers satisfy {}x = {}y + 1 for odd n."}
    estimator = reading()
    for step in range(1, 9):
        easy = rng.random(16) < 0.5
        k = rng.binomial(8, np.where(easy, 0.9, 0.05))
        texts = [problems[bool(e)].format(step, i) for i, e in enumerate(easy)]
        estimator.observe([seen(f"{step}-{i}", int(k[i]), text=texts[i]) for i in range(16)], at(step))
    new = [
        candidate("x", text=problems[True].format(99, 98)),
        candidate("y", text=problems[False].format(9, 8)),
    ]
    easy, hard = estimator.predict(new, at(9)).mean
    assert easy > hard + 0.3
    restored = reading()
    restored.load_state_dict(estimator.state_dict())
    np.testing.assert_array_equal(
        restored.predict(new, at(9)).p_informative, estimator.predict(new, at(9)).p_informative
    )
