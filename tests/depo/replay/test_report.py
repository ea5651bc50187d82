"""Tables of a replay carry the figures of its JSON."""

from __future__ import annotations

import numpy as np
import pytest

from depo.replay.comparison import SMOOTHER, Settings, compare, parse_spec
from depo.replay.report import front_figure, replay_result, tables


@pytest.fixture
def replayed(make_trace):
    rng = np.random.default_rng(0)
    trace = make_trace(rng.binomial(8, rng.beta(0.5, 0.5, size=(30, 1)), size=(30, 7)).tolist())
    estimators = [parse_spec(name, "--estimator") for name in ("mopps", "uniform")]
    selectors = [parse_spec("thompson", "--selector")]
    comparison = compare(trace, trace, estimators, selectors, Settings(8, 0.25, 0.05, 2, 0, 40))
    return comparison, replay_result(trace, comparison, ["thompson"], {})


def test_every_number_of_a_table_is_one_of_the_json(replayed):
    comparison, result = replayed
    full, strata, differences, censored = tables(comparison)
    stored = {label: one["full"] for label, one in result["estimators"].items()}
    stored[SMOOTHER] = result["trace"]["smoother"]
    assert [row[0] for row in full.rows] == list(stored)
    for label, auroc, *rest in full.rows:
        assert [auroc.value, auroc.low, auroc.high] == [
            stored[label]["auroc"],
            *stored[label]["intervals"]["auroc"],
        ]
        assert rest[4].value == stored[label]["brier_skill"]
    assert strata.head == ["estimator", *stored["mopps"]["by_visits"]]
    first = stored["mopps"]["by_visits"]["5+"]
    assert strata.rows[0][-1] == f"{first['auroc']:.4f} / {first['ece']:.4f}"
    (uniform, _) = differences.rows
    pair = stored["uniform"]["differences"]["mopps"]
    assert [uniform[1].value, uniform[1].low, uniform[1].high] == [pair["auroc"], *pair["auroc_interval"]]
    for row, (label, one) in zip(censored.rows, result["estimators"].items(), strict=True):
        found = one["censored"]
        assert row[:2] == [label, "thompson"]
        assert [row[2].value, row[2].low, row[2].high] == [
            found["effective_ratio"],
            *found["intervals"]["effective_ratio"],
        ]
        assert row[-2] == "/".join(f"{found[f'since_visit_p{share}']:.0f}" for share in (50, 90, 99))


def test_one_stratum_needs_no_table_and_no_selection_no_second(make_trace):
    trace = make_trace([[1], [8], [0], [3]], kind="counts", rate_N=np.array([0.1, 1.0, 0.0, 0.4]))
    comparison = compare(
        trace, trace, [parse_spec("mopps", "--estimator")], [], Settings(8, 0.25, 0.05, 2, 0, 40)
    )
    assert [table.caption.split(";")[0] for table in tables(comparison)] == ["Full feedback"]


def test_the_front_has_a_point_for_each_estimator_and_selector(replayed):
    comparison, _ = replayed
    (axes,) = front_figure(comparison).axes
    points = {(bars[0].get_xdata()[0], bars[0].get_ydata()[0]) for bars in axes.containers}
    assert points == {
        (one["starvation"], one["effective_ratio"])
        for one in comparison.censored.values()
        if not np.isnan(one["starvation"])
    }
