from __future__ import annotations

import pytest

import reward


def test_the_whole_completion_must_match_and_dots_match_newlines(sample) -> None:
    format_reward = reward.build({"type": "format", "pattern": r"<think>.*</think>\d+"})
    scores = format_reward.score(
        [sample("<think>a\nb</think>42"), sample("<think>a</think>42 so"), sample("so <think>a</think>42")]
    )
    assert [(score.value, score.correct) for score in scores] == [(1.0, True), (0.0, False), (0.0, False)]


def test_a_pattern_that_does_not_compile_is_named() -> None:
    with pytest.raises(ValueError, match=r"reward format: pattern '\(' is no regular expression"):
        reward.build({"type": "format", "pattern": "("})
