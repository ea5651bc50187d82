from __future__ import annotations

import math

import pytest

import reward


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
