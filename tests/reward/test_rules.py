"""Exact match, format, overlong and weighted sums."""

from __future__ import annotations

import math

import pytest

from depo import reward
from depo.reward.rules import overlong_punishment


def test_surrounding_space_does_not_matter_and_anything_else_does(sample) -> None:
    exact = reward.build({"type": "exact"})
    right, wrong, empty = exact.score([sample(" 42\n"), sample("42."), sample("  ")])
    assert (right.value, right.correct, right.unparseable) == (1.0, True, False)
    assert (wrong.value, wrong.correct, wrong.unparseable) == (0.0, False, False)
    assert (empty.value, empty.correct, empty.unparseable) == (0.0, False, True)


def test_only_what_follows_the_last_mark_is_compared_and_without_a_mark_there_is_no_answer(sample) -> None:
    exact = reward.build({"type": "exact", "after": "#"})
    scores = exact.score([sample("4+0#41#42"), sample("42#41"), sample("42"), sample("42#")])
    assert [score.correct for score in scores] == [True, False, False, False]
    assert [score.unparseable for score in scores] == [False, False, True, True]


def test_the_whole_completion_must_match_and_dots_match_newlines(sample) -> None:
    format_reward = reward.build({"type": "format", "pattern": r"<think>.*</think>\d+"})
    scores = format_reward.score(
        [sample("<think>a\nb</think>42"), sample("<think>a</think>42 so"), sample("so <think>a</think>42")]
    )
    assert [(score.value, score.correct) for score in scores] == [(1.0, True), (0.0, False), (0.0, False)]


def test_a_pattern_that_does_not_compile_is_named() -> None:
    with pytest.raises(ValueError, match=r"reward format: pattern '\(' is no regular expression"):
        reward.build({"type": "format", "pattern": "("})


@pytest.mark.parametrize(
    ("tokens", "punishment"),
    [
        (1, 0.0),
        (16_384, 0.0),  # the expected maximum length of the DAPO runs
        (16_385, -1 / 4096),
        (17_408, -0.25),
        (18_432, -0.5),  # half of the buffer
        (20_480, -1.0),  # the generation limit
        (20_481, -1.0),
    ],
)
def test_dapo_equation_13_with_the_papers_lengths(tokens: int, punishment: float) -> None:
    assert overlong_punishment(tokens, max_tokens=20_480, buffer=4096) == punishment


def test_the_limit_is_the_samples_own_and_a_punished_completion_is_not_correct(sample) -> None:
    overlong = reward.build({"type": "overlong", "buffer": 10})
    free, punished, other_limit = overlong.score(
        [sample("x", tokens=90), sample("x", tokens=95), sample("x", tokens=95, max_tokens=200)]
    )
    assert (free.value, free.correct) == (0.0, True)
    assert (punished.value, punished.correct) == (-0.5, False)
    assert other_limit.value == 0.0


def test_a_buffer_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer must be a positive number of tokens, found 0"):
        reward.build({"type": "overlong", "buffer": 0})


def weighted(*parts: tuple[float, dict]) -> reward.Reward:
    return reward.build(
        {"type": "weighted", "parts": [{"weight": weight, "reward": spec} for weight, spec in parts]}
    )


def test_value_is_the_weighted_sum_and_correctness_the_first_parts(sample) -> None:
    total = weighted(
        (1.0, {"type": "exact"}),
        (0.2, {"type": "format", "pattern": r"\d+"}),
        (0.5, {"type": "overlong", "buffer": 10}),
    )
    right, wrong = total.score([sample("42", tokens=95), sample("43", tokens=1)])
    assert right.value == pytest.approx(1.0 + 0.2 - 0.5 * 0.5)
    assert right.correct
    assert right.components == {"exact": 1.0, "format": 1.0, "overlong": -0.5}
    assert wrong.value == pytest.approx(0.2)
    assert wrong.correct is False


def test_the_order_of_parts_decides_correctness(sample) -> None:
    total = weighted((0.0, {"type": "format", "pattern": "x"}), (1.0, {"type": "exact"}))
    (score,) = total.score([sample("42")])
    assert (score.value, score.correct) == (1.0, False)


def test_an_unscorable_part_makes_the_whole_unscorable_and_says_which(sample, functions) -> None:
    total = weighted(
        (1.0, {"type": "exact"}), (0.1, {"type": "function", "path": "functions_of_a_user:by_word"})
    )
    raised, fine = total.score([sample("raise"), sample("42")])
    assert raised.correct is None
    assert math.isnan(raised.value)
    assert raised.detail == "by_word: KeyError: 'no such answer'"
    assert fine.value == pytest.approx(1.1)


def test_repeated_and_nested_parts_keep_their_components_apart(sample, functions) -> None:
    inner = {
        "type": "weighted",
        "parts": [{"reward": {"type": "function", "path": "functions_of_a_user:full"}}],
    }
    total = weighted(
        (1.0, inner),
        (1.0, {"type": "format", "pattern": r"\d+"}),
        (1.0, {"type": "format", "pattern": "x"}),
    )
    (score,) = total.score([sample("42")])
    assert score.components == {
        "weighted": 0.25,
        "weighted.full": 0.25,
        "weighted.full.style": 0.25,
        "format": 1.0,
        "format_2": 0.0,
    }


def test_unparseable_is_the_first_parts(sample) -> None:
    total = weighted((1.0, {"type": "math"}), (1.0, {"type": "format", "pattern": ".*"}))
    (score,) = total.score([sample("no idea")])
    assert score.unparseable
    assert score.correct is False


def test_no_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="parts is empty"):
        weighted()
