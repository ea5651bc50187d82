"""The numpy text head: stable hashes, exact features, learning, exact state."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from estimators.base import Observation
from estimators.text_head import PRIOR_TRIALS, FeatureRows, HashedNgramHead, hashed_ngrams, sigmoid


def observed(text: str, successes: int, trials: int = 8) -> Observation:
    return Observation(key=text, text=text, successes=successes, trials=trials, step=0)


def rated(head: HashedNgramHead, *texts: str) -> np.ndarray:
    return head.pass_rate(texts, texts)


def test_hashes_are_the_same_in_another_process():
    text = "Prove that 2 + 2 = 4 🙂"
    program = f"from estimators.text_head import hashed_ngrams; print(hashed_ngrams({text!r}, 18).tolist())"
    for salt in ("1", "2"):
        outcome = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
        )
        assert outcome.stdout.strip() == str(hashed_ngrams(text, 18).tolist())


def test_the_number_of_features_is_that_of_distinct_ngrams():
    # "abab": one word, no pair; runs of 3 bytes aba bab, of 4 abab, of 5 none; one length bucket.
    assert len(hashed_ngrams("abab", 24)) == 1 + 2 + 1 + 1
    # "a b a": words a b, pairs (a b) (b a); runs "a b" " b ", "b a" / "a b " " b a" / "a b a"; one length.
    assert len(hashed_ngrams("a b a", 24)) == 2 + 2 + 3 + 2 + 1 + 1


def test_texts_that_share_words_share_features_and_others_hardly_any():
    one, other, far = (
        set(hashed_ngrams(text, 24).tolist())
        for text in ("compute the integral", "compute the sum", "größter Teiler")
    )
    assert len(one & other) > 10
    assert len(one & far) <= 1  # the length at most


@pytest.mark.parametrize("text", ["", " ", "🙂", "\ud83d", "한국어 문제", "a"])
def test_any_text_has_features_and_a_rate(text):
    assert len(hashed_ngrams(text, 12)) >= 1
    head = HashedNgramHead(bits=12)
    head.fit([observed(text, 1)])
    assert 0 < rated(head, text)[0] < 0.5


@pytest.mark.slow
def test_a_ten_thousand_token_prompt_takes_milliseconds():
    text = " ".join(f"token{i}" for i in range(10_000))
    start = time.process_time()
    hashed_ngrams(text, 18)
    assert time.process_time() - start < 1.0


def test_known_prompts_are_not_featurised_again(monkeypatch):
    head = HashedNgramHead(bits=16)
    keys = [str(i) for i in range(100)]
    rates_N = head.pass_rate([f"What is {i} + 1?" for i in range(100)], keys)
    monkeypatch.setattr("estimators.text_head.hashed_ngrams", lambda *_: pytest.fail("read once more"))
    np.testing.assert_array_equal(head.pass_rate([""] * 100, keys), rates_N)  # keys are of the content
    with pytest.raises(pytest.fail.Exception):
        head.pass_rate([""], ["new"])


def test_dropping_the_cache_changes_nothing():
    texts = [f"prompt number {i}" for i in range(50)]
    small, large = FeatureRows(16, limit=100), FeatureRows(16)
    for _ in range(3):
        for part in (texts[:25], texts[10:], texts):
            for left, right in zip(small.rows(part, part), large.rows(part, part), strict=True):
                np.testing.assert_array_equal(left, right)


def test_past_the_limit_only_the_oldest_prompts_are_featurised_again():
    """20 prompts, room for about half of them. A text that has changed shows which were read again."""
    keys = [str(i) for i in range(20)]
    texts, others = [f"{'prompt ' * 5}{i:02d}" for i in range(20)], ["another text"] * 20
    rows = FeatureRows(16, limit=10 * len(hashed_ngrams(texts[0], 16)))
    rows.rows(texts, keys)
    buckets, counts_N = rows.rows(others, keys)
    found = np.split(buckets, np.cumsum(counts_N)[:-1])
    kept = [np.array_equal(one, hashed_ngrams(text, 16)) for one, text in zip(found, texts, strict=True)]
    read_again = [np.array_equal(one, hashed_ngrams("another text", 16)) for one in found]
    assert 8 <= sum(kept) <= 10
    assert kept == sorted(kept), "the oldest were dropped"
    assert read_again == [not one for one in kept]


def test_before_any_group_every_rate_is_a_half():
    np.testing.assert_array_equal(rated(HashedNgramHead(), "a", "", "b c"), 0.5)


def test_the_first_step_is_adagrads():
    """By hand: p = 1/2, pull = n/(n+2)·(1/2 − k/n); AdaGrad's first step is the learning rate against its
    sign, for the bias and each of F weights, which count 1/√F: the logit moves by lr·(1 + √F)."""
    head = HashedNgramHead(bits=20, learning_rate=0.1, l2=0.0)
    text = "a word"
    metrics = head.fit([observed(text, 8)])
    features = len(hashed_ngrams(text, 20))
    np.testing.assert_allclose(rated(head, text), sigmoid(np.array([0.1 * (1 + np.sqrt(features))])))
    assert metrics["nll"] == pytest.approx(np.log(2))
    pull = 8 / (8 + PRIOR_TRIALS) * (0.5 - 1.0)
    np.testing.assert_allclose(head.state_dict().arrays["bias"], [0.1, pull**2])


def test_a_word_that_decides_is_learned_and_carries_over_to_new_prompts():
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(200)]
    head = HashedNgramHead(bits=16)

    def prompt(hard: bool) -> str:
        return " ".join([*rng.choice(words, 8), "integral" if hard else "sum"])

    for _ in range(20):
        hard_N = rng.random(32) < 0.5
        texts = [prompt(hard) for hard in hard_N]
        head.fit(
            [observed(t, rng.binomial(8, 0.1 if h else 0.8)) for t, h in zip(texts, hard_N, strict=True)]
        )
    hard_M = np.arange(200) % 2 == 0
    rates_M = rated(head, *[prompt(hard) for hard in hard_M])
    assert rates_M[hard_M].max() < rates_M[~hard_M].min()
    assert abs(rates_M[hard_M].mean() - 0.1) < 0.1
    assert abs(rates_M[~hard_M].mean() - 0.8) < 0.1


def test_order_within_a_fit_and_splitting_a_group_do_not_matter():
    groups = [observed(f"prompt {i}", i % 9) for i in range(40)]
    one, other = HashedNgramHead(bits=14), HashedNgramHead(bits=14)
    for part in (groups[:20], groups[20:]):
        one.fit(part)
        halves = [observed(g.text, min(g.successes, 4), 4) for g in part]
        halves += [observed(g.text, g.successes - min(g.successes, 4), 4) for g in part]
        other.fit(halves[::-1])
    np.testing.assert_array_equal(
        rated(one, *[g.text for g in groups]), rated(other, *[g.text for g in groups])
    )


def test_state_round_trips_exactly_and_the_next_fit_is_the_same():
    groups = [observed(f"prompt {i} 🙂", i % 9) for i in range(60)]
    head = HashedNgramHead(bits=14, replay=3)
    head.fit(groups[:30])
    restored = HashedNgramHead(bits=14, replay=3)
    restored.load_state_dict(head.state_dict())
    texts = [g.text for g in groups]
    np.testing.assert_array_equal(rated(restored, *texts), rated(head, *texts))
    assert restored.fit(groups[30:]) == head.fit(groups[30:])
    np.testing.assert_array_equal(rated(restored, *texts), rated(head, *texts))
    for name, array in head.state_dict().arrays.items():
        np.testing.assert_array_equal(restored.state_dict().arrays[name], array)


def test_replay_draws_old_groups_again():
    with_replay, without = HashedNgramHead(bits=14, replay=4), HashedNgramHead(bits=14, replay=0)
    for head in (with_replay, without):
        head.fit([observed("an old group", 0)])
        head.fit([observed("entirely other matter", 8)])
    assert rated(with_replay, "an old group")[0] < rated(without, "an old group")[0]


def test_nothing_to_learn_from_changes_nothing():
    head = HashedNgramHead(bits=12)
    assert head.fit([]) == {}
    assert head.fit([observed("unscorable", 0, 0)]) == {}
    np.testing.assert_array_equal(rated(head, "unscorable"), 0.5)
    assert head.pass_rate([], []).shape == (0,)


def test_impossible_counts_are_an_error_before_any_update():
    head = HashedNgramHead(bits=12)
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        head.fit([observed("fine", 1), observed("broken", 9)])
    np.testing.assert_array_equal(rated(head, "fine"), 0.5)


def test_wrong_settings_and_states_say_so():
    with pytest.raises(ValueError, match="bits must lie"):
        HashedNgramHead(bits=30)
    with pytest.raises(ValueError, match="as many keys as texts"):
        HashedNgramHead(bits=12).pass_rate(["a"], [])
    with pytest.raises(ValueError, match="expected 1 and 13"):
        HashedNgramHead(bits=13).load_state_dict(HashedNgramHead(bits=12).state_dict())


def test_rates_stay_inside_zero_and_one_for_good():
    head = HashedNgramHead(bits=12, learning_rate=50.0)
    for _ in range(20):
        head.fit([observed("always right", 8)])
    assert 0 < rated(head, "always right")[0] < 1
