"""Coverage on a story of four prompts told by hand."""

import json

import numpy as np
import pytest

from depo.selection.visits import Visits
from depo.types import Group, Origin, Pick, Prompt, Rollout
from reward.base import Score, unscorable


def group(key: str, verdicts: list[bool | None]) -> Group:
    pick = Pick(Prompt(key, key, (), ""), Origin.SELECTED, "thompson", False, float("nan"), 0.5, 0.5)
    rollouts = [
        Rollout(key, i, i, np.zeros(1, np.int32), np.zeros(1, np.float32), "stop", 0)
        for i in range(len(verdicts))
    ]
    scores = [unscorable("timeout") if v is None else Score(float(v), v) for v in verdicts]
    return Group(pick, rollouts, scores, [""] * len(verdicts))


MIXED, WRONG = [True, False], [False, False]


def told() -> Visits:
    visits = Visits()
    visits.record([group("often", WRONG), group("early", MIXED), group("lost", MIXED)], 1)
    visits.record([group("often", MIXED), group("lost", WRONG)], 2)
    visits.record([group("often", MIXED)], 5)
    visits.record([group("late", MIXED)], 8)
    return visits


def test_starved_prompts_were_informative_last_and_visited_fewer_than_three_times() -> None:
    """Informative: often (3 visits), early (1), late (1); not lost, whose latest group was all wrong."""
    metrics = told().coverage(10)
    assert metrics["prompts_visited"] == 4
    assert metrics["prompts_informative"] == 3
    assert metrics["starvation"] == pytest.approx(2 / 3)


def test_steps_since_the_last_visit_are_percentiles_over_visited_prompts() -> None:
    since = [10 - 5, 10 - 1, 10 - 2, 10 - 8]
    metrics = told().coverage(10)
    for percent in (50, 90, 99):
        assert metrics[f"since_visit_p{percent}"] == pytest.approx(np.percentile(since, percent))


def test_nothing_is_said_before_the_first_visit_or_about_starvation_while_nothing_is_informative() -> None:
    visits = Visits()
    assert visits.coverage(3) == {}
    visits.record([group("a", WRONG)], 3)
    assert "starvation" not in visits.coverage(3)


def test_group_without_verdicts_is_a_visit_that_does_not_change_what_is_known() -> None:
    visits = Visits()
    visits.record([group("a", MIXED)], 1)
    visits.record([group("a", [None, True])], 2)
    assert visits.count("a") == 2
    assert visits.count("never") == 0
    assert visits.coverage(2)["starvation"] == 1.0


def test_state_round_trips_through_json() -> None:
    visits, other = told(), Visits()
    visits.record([group("unknown", [None, None])], 9)
    state = json.loads(json.dumps(visits.state_dict(), allow_nan=False))
    other.load_state_dict(state)
    assert other.state_dict() == visits.state_dict()
    for one in (visits, other):
        one.record([group("early", MIXED), group("unknown", MIXED)], 11)
    assert other.coverage(12) == visits.coverage(12)
