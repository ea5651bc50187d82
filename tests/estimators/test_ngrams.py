"""Hashed n-grams: stable hashes, exact features, a cache that changes nothing."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from depo.estimators.ngrams import NgramCache, hashed_ngrams


def test_hashes_are_the_same_in_another_process():
    text = "Prove that 2 + 2 = 4 🙂"
    program = f"from depo.estimators.ngrams import hashed_ngrams; print(hashed_ngrams({text!r}, 18).tolist())"
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
def test_any_text_has_features(text):
    assert len(hashed_ngrams(text, 12)) >= 1


@pytest.mark.slow
def test_a_ten_thousand_token_prompt_takes_milliseconds():
    text = " ".join(f"token{i}" for i in range(10_000))
    start = time.process_time()
    hashed_ngrams(text, 18)
    assert time.process_time() - start < 1.0


def test_known_prompts_are_not_read_again_and_dropping_the_cache_changes_nothing():
    texts = [f"prompt number {i}" for i in range(50)]
    small, large = NgramCache(16, limit=100), NgramCache(16)
    for _ in range(3):
        for part in (texts[:25], texts[10:], texts):
            for left, right in zip(small.rows(part, part), large.rows(part, part), strict=True):
                np.testing.assert_array_equal(left, right)
    buckets, counts_N = large.rows(["another text"] * 50, texts)  # keys are of the content
    np.testing.assert_array_equal(buckets, large.rows(texts, texts)[0])
    assert counts_N.tolist() == [len(hashed_ngrams(text, 16)) for text in texts]
