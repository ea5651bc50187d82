from __future__ import annotations

import pytest

import reward
from reward.overlong import overlong_punishment


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
