"""What the hybrid keeps: exactly, in any order, within bounds, and whatever it is asked."""

import json
import math
import time

import numpy as np
import pytest
from hybrid_questions import at, candidate, plain, seen

from estimators.base import State
from estimators.hybrid import POPULATION_WINDOW, HybridEstimator
from estimators.online_learning import OnlineRidge


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
    restored.load_state_dict(
        State(state.schema_version, values, {k: v.copy() for k, v in state.arrays.items()})
    )
    for step, batch in enumerate(history[10:], 11):
        metrics = original.observe(batch, at(step))
        assert restored.observe(batch, at(step)) == metrics
    asked = [candidate(str(i), text=f"word{i % 7} {i}", features=np.ones(3)) for i in range(80)]
    for name in ("mean", "sd", "p_informative", "p_all_wrong", "p_all_right"):
        np.testing.assert_array_equal(
            getattr(original.predict(asked, at(30)), name), getattr(restored.predict(asked, at(30)), name)
        )
    with pytest.raises(ValueError, match="schema_version 99"):
        restored.load_state_dict(State(99))


def test_predicting_and_preparing_change_nothing():
    estimator = HybridEstimator()
    estimator.observe([seen("a", 3, text="x y z"), seen("b", 0, text="u v w")], at(1))
    asked = [candidate(key, text=f"{key} text") for key in "abcd"]
    before = estimator.predict(asked, at(2)).p_informative
    estimator.prepare(asked, 2)
    estimator.predict(asked, at(50))
    np.testing.assert_array_equal(estimator.predict(asked, at(2)).p_informative, before)


def test_what_was_prepared_is_neither_kept_past_an_observation_nor_used_at_another_step():
    prepared, plain = HybridEstimator(), HybridEstimator()
    asked = [candidate(key, text=f"{key} text") for key in "abcd"]
    for subject in (prepared, plain):
        subject.observe([seen("a", 3), seen("b", 0)], at(1))
    prepared.prepare(asked, 2)
    for question, context in ((asked[::-1], at(2)), (asked[1:3], at(9)), (asked, at(2, group_size=4))):
        np.testing.assert_array_equal(
            prepared.predict(question, context).p_informative, plain.predict(question, context).p_informative
        )
    for subject in (prepared, plain):
        subject.observe([seen("a", 8), seen("c", 8)], at(2))
    np.testing.assert_array_equal(
        prepared.predict(asked, at(2)).p_informative, plain.predict(asked, at(2)).p_informative
    )


def test_the_prefill_probe_of_a_new_prompt_is_heard_although_it_came_after_the_preparation():
    rng = np.random.default_rng(3)

    def groups(step):
        easy_N = rng.random(16) < 0.5
        return [
            seen(f"{step} {i}", 8 if easy else 0, features=np.array([2.0 * easy - 1.0, 1.0]))
            for i, easy in enumerate(easy_N)
        ]

    estimator = HybridEstimator(text="none")
    for step in range(1, 21):
        estimator.observe(groups(step), at(step))
    estimator.prepare([candidate("new")], 21)
    views = [[candidate("new", features=np.array([sign, 1.0]))] for sign in (-1.0, 1.0)]
    hard, easy = (estimator.predict(view, at(21)).mean[0] for view in views)
    assert hard < 0.2
    assert easy > 0.8


def test_a_prepared_question_costs_a_look_and_no_computation(monkeypatch):
    estimator = HybridEstimator()
    estimator.observe([seen("a", 3), seen("b", 0)], at(1))
    asked = [candidate(key) for key in "abcd"]
    estimator.prepare(asked, 2)
    monkeypatch.setattr(estimator.movement, "spread", lambda *_: pytest.fail("worked it out again"))
    estimator.predict(asked[:2], at(2))


def test_a_step_may_bring_more_first_visits_than_the_population_remembers():
    """What is believed of a prompt depends on its outcome, not on whether it is among the newest."""
    estimator, prompts = plain(), POPULATION_WINDOW + 200
    groups = [seen(f"{i:05d}", i % 9) for i in range(prompts)]
    estimator.observe(groups, at(1))
    mean_N = estimator.predict([candidate(f"{i:05d}") for i in range(prompts)], at(1)).mean
    by_outcome = [mean_N[k::9] for k in range(9)]
    assert max(np.ptp(mean_n) for mean_n in by_outcome) < 1e-6
    assert (np.diff([mean_n.mean() for mean_n in by_outcome]) > 0.05).all()
    estimator.observe([seen(f"{i:05d}", i % 9, step=2) for i in range(prompts)], at(2))
    assert math.isfinite(estimator.ability)


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
    with pytest.raises(ValueError, match="same number of features"):
        estimator.predict([candidate("c", features=np.ones(2)), candidate("d", features=np.ones(3))], at(3))
    with pytest.raises(ValueError, match="text must be"):
        HybridEstimator(text="tea leaves")


def test_memory_grows_with_visited_prompts_only():
    estimator = plain()
    estimator.predict([candidate(str(i)) for i in range(20_000)], at(1))
    assert sum(array.nbytes for array in estimator.state_dict().arrays.values()) < 10_000
    assert isinstance(estimator.prior.regression, OnlineRidge)
    estimator.observe([seen(str(i), 1) for i in range(1000)], at(1))
    arrays = estimator.state_dict().arrays
    assert arrays["beliefs"].shape == (1000, len(estimator.grid))


@pytest.mark.slow
def test_a_hundred_thousand_prompts_are_predicted_in_a_second_of_one_core():
    """Their texts read before, as the loop does while the learner updates."""
    rng = np.random.default_rng(6)
    words = np.array([f"word{i}" for i in range(500)])
    asked = [
        candidate(f"{i}", text=" ".join(words[row]))
        for i, row in enumerate(rng.integers(500, size=(100_000, 6)))
    ]
    estimator = HybridEstimator()
    for step in range(1, 11):
        rows = rng.choice(100_000, 500, replace=False)
        estimator.observe(
            [seen(asked[i].key, int(rng.integers(9)), text=asked[i].text) for i in rows], at(step)
        )
    estimator.prepare(asked, 12)
    start = time.process_time()
    estimates = estimator.predict(asked, at(12))
    seconds = time.process_time() - start
    assert len(estimates.mean) == 100_000
    assert seconds < 2.0


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
