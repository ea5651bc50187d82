"""Paired ratios against a hand computation, and the driver's shares of hand-written steps."""

from __future__ import annotations

import math

import pytest

from benchmarks.throughput.measurements import driver_shares, paired_ratio, spread


def test_paired_ratio_is_a_geometric_mean_with_a_t_interval() -> None:
    """Ratios 1, 2 and 4: logarithms 0, ln 2, 2 ln 2, so mean ln 2 and standard error ln 2 / √3; t(0.975, 2)
    from a table."""
    found = paired_ratio([3.0, 4.0, 20.0], [3.0, 2.0, 5.0])
    reach = 4.302653 * math.log(2) / math.sqrt(3)
    assert found["geometric_mean"] == pytest.approx(2.0)
    assert found["low"] == pytest.approx(2.0 * math.exp(-reach), rel=1e-6)
    assert found["high"] == pytest.approx(2.0 * math.exp(reach), rel=1e-6)


def test_one_pair_has_no_interval() -> None:
    assert paired_ratio([3.0], [2.0]) == {"geometric_mean": pytest.approx(1.5), "low": None, "high": None}


def test_spread_names_median_and_extremes() -> None:
    assert spread([5.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 5.0}


def test_driver_has_what_generation_update_and_verification_leave() -> None:
    """Two steps of 1.0 and 1.2 s of wall time. The first one's estimator takes 0.5 s where the update takes
    0.4, so 0.1 s of it is waited for; the second one's hides."""
    shared = {"seconds/generate": 0.4, "seconds/verify": 0.05, "groups": 40, "selection/active": 1.0}
    rows = [
        shared | {"seconds/select": 0.02, "seconds/estimate": 0.5, "seconds": 0.4},
        shared | {"seconds/select": 0.04, "seconds/estimate": 0.1, "seconds": 0.6},
    ]
    found = driver_shares(rows, [10.0, 11.0, 12.2])
    assert found["step_seconds"] == pytest.approx(1.1)
    assert found["shares"]["driver"] == pytest.approx((2.2 - 0.8 - 0.1 - 1.0) / 2.2)
    assert found["shares"]["estimate_exposed"] == pytest.approx(0.1 / 2.2)
    assert found["shares"]["estimate_hidden"] == pytest.approx(0.5 / 2.2)
    assert found["critical_path_share"] == pytest.approx((0.06 + 0.1) / 2.2)
    assert found["critical_path_share_long_step"] == pytest.approx((0.06 + 0.1) / 2 / 120)
