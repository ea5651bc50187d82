from __future__ import annotations

import pytest

from depo.learner.optimizer import lr_factor


def test_warm_up_rises_linearly_and_no_update_is_wasted_at_zero() -> None:
    assert [lr_factor("constant", step, 3, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_linear_and_cosine_fall_from_one_towards_zero_at_the_end() -> None:
    assert [lr_factor("linear", step, 2, 6) for step in range(2, 7)] == [1, 0.75, 0.5, 0.25, 0]
    cosine = [lr_factor("cosine", step, 2, 6) for step in range(2, 7)]
    assert cosine == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])


def test_a_run_extended_past_its_end_stays_at_zero() -> None:
    assert lr_factor("linear", 20, 0, 10) == 0
    assert lr_factor("cosine", 20, 0, 10) == pytest.approx(0)
