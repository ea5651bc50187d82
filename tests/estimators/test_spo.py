"""SPO's tracker against updates worked by hand and the published constants."""

from __future__ import annotations

import numpy as np
import pytest

from depo.estimators import build
from depo.estimators.base import Candidate, Context, Observation

KEY = Candidate("a", "?")


def seen(successes: int, trials: int = 1) -> Observation:
    return Observation("a", "?", successes, trials, step=1)


def counts(estimator, kl: float = 0.0) -> tuple[float, float]:
    found = estimator.predict([KEY], Context(2, 1, kl))
    total = found.mean[0] * (1 - found.mean[0]) / found.sd[0] ** 2 - 1
    return float(found.mean[0] * total), float((1 - found.mean[0]) * total)


def test_counts_fade_by_the_kl_travelled_since_the_last_visit() -> None:
    estimator = build({"type": "spo"})
    assert counts(estimator) == pytest.approx((4, 4))  # 1 / (1 − 0.875) = 8 at a half
    estimator.observe([seen(1)], Context(1, 1, 0.0))  # nothing travelled: ρ is at its upper bound
    assert counts(estimator) == pytest.approx((0.96 * 4 + 1, 0.96 * 4))
    estimator.observe([seen(0)], Context(1, 2, 0.006))  # 2^(−0.1) = 0.933
    keep = 2**-0.1
    assert counts(estimator) == pytest.approx((keep * 4.84, keep * 3.84 + 1))
    estimator.observe([seen(0)], Context(1, 3, 9.0))  # far: ρ is at its lower bound
    assert counts(estimator)[0] == pytest.approx(0.875 * keep * 4.84)


def test_a_recorded_pass_rate_is_where_a_prompt_starts() -> None:
    estimator = build({"type": "spo", "start": 0.2})
    found = estimator.predict([KEY, Candidate("b", "?", prior=0.75)], Context(2, 1))
    np.testing.assert_allclose(found.mean, [0.2, 0.75])


def test_its_state_comes_back() -> None:
    one, other = build({"type": "spo"}), build({"type": "spo"})
    one.observe([seen(1, 2)], Context(2, 1, 0.01))
    other.load_state_dict(one.state_dict())
    for estimator in (one, other):
        estimator.observe([seen(2, 2)], Context(2, 2, 0.05))
    assert counts(other) == counts(one)


@pytest.mark.parametrize("wrong", [{"start": 2.0}, {"kl_half": 0.0}, {"keep_min": 0.99}, {"keep_max": 1.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected start"):
        build({"type": "spo", **wrong})
