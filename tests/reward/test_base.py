"""Whatever a reward hands back, what goes on from here is a score that can be trained on and stored."""

from __future__ import annotations

from typing import Any

import pytest

from depo.reward.base import DETAIL_LENGTH, Score, checked, describe


@pytest.mark.parametrize(
    "given",
    [
        Score(1.0, True, detail=None),  # type: ignore[arg-type]
        Score(1.0, True, unparseable=None),  # type: ignore[arg-type]
        Score(1, 1, unparseable=0),  # type: ignore[arg-type]
        Score(1.0, True, components=None),  # type: ignore[arg-type]
        Score(1, True, components=None),  # type: ignore[arg-type]
    ],
)
def test_fields_come_out_in_their_types(given: Score) -> None:
    score = checked(given)
    assert (score.value, score.correct, score.unparseable, score.detail) == (1.0, True, False, "")
    assert score.components == {}
    assert [type(field) for field in (score.value, score.correct, score.unparseable)] == [float, bool, bool]


@pytest.mark.parametrize("detail", [7, "half a pair \ud83d", "long" * DETAIL_LENGTH])
@pytest.mark.parametrize("correct", [True, None])
def test_a_detail_can_be_stored(detail: Any, correct: bool | None) -> None:
    text = checked(Score(1.0, correct, detail=detail)).detail
    assert text.encode("utf-8")
    assert 0 < len(text) <= DETAIL_LENGTH


def test_an_exception_that_quotes_half_a_surrogate_pair_can_be_stored() -> None:
    assert describe(ValueError("unknown tool \ud83d")) == "ValueError: unknown tool ?"


def test_a_verdict_that_is_not_a_number_is_none() -> None:
    """bool(nan) is True: half of a broken judge's answers would be right."""
    score = checked(Score(0.0, float("nan")))
    assert score.correct is None


@pytest.mark.parametrize("value", [1e39, -1e19, float("inf")])
def test_a_value_that_32_bits_cannot_compute_with_is_none(value: float) -> None:
    score = checked(Score(value, True))
    assert (score.correct, score.detail) == (None, f"returned the value {value:g}; rewards lie within ±1e+18")
