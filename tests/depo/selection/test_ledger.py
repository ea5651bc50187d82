"""The ledger against counts made by hand and against Monte Carlo for its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from depo.report.statistics import wilson_interval
from depo.reward.base import Score, unscorable
from depo.selection.ledger import Ledger
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout


def group(
    key: str,
    verdicts: Sequence[bool | None],
    outcome: Outcome | None,
    origin: Origin = Origin.SELECTED,
    uniform: bool = False,
    tokens: int = 3,
    step: int = 0,
) -> Group:
    """A group whose rollout i has ``tokens + i`` tokens."""
    pick = Pick(Prompt(key, key, (1, 2), "1"), origin, "thompson", uniform, math.nan, 0.5, 0.5)
    rollouts = [
        Rollout(key, i, 100 * step + i, np.zeros(tokens + i, np.int32), np.zeros(tokens + i), "stop", step)
        for i in range(len(verdicts))
    ]
    scores = [unscorable("timeout") if v is None else Score(float(v), v) for v in verdicts]
    return Group(pick, rollouts, scores, [""] * len(verdicts), outcome)


def mixed_bag() -> list[Group]:
    return [
        group("a", [True, False, None], Outcome.TRAINED),
        group("b", [True, True, True], Outcome.ZERO_VARIANCE, Origin.AUDIT, uniform=True),
        group("c", [True, False, False], Outcome.SURPLUS, Origin.REFILL),
        group("d", [None, None, True], Outcome.UNSCORABLE, Origin.REFILL),
        group("e", [False, True, True], Outcome.TRAINED, Origin.AUDIT, uniform=True),
        group("f", [False, True, True], Outcome.STALE),
    ]


def test_counts_equal_those_made_by_hand() -> None:
    ledger = Ledger(group_size=3)
    ledger.record(mixed_bag())
    summary = ledger.summary()
    assert summary["rollouts"]["by_outcome"] == {
        "trained": 5,  # a and e, but for a's rollout without verdict
        "zero_variance": 3,
        "negligible": 0,
        "surplus": 3,
        "unscorable": 4,
        "cancelled": 0,
        "stale": 3,
        "lost": 0,
    }
    assert summary["rollouts"]["by_origin"] == {"selected": 6, "audit": 6, "refill": 6}
    assert summary["tokens"]["by_outcome"]["trained"] == (3 + 4) + (3 + 4 + 5)
    assert summary["tokens"]["trained"] == 19
    assert summary["tokens"]["generated"] == 6 * 12
    assert summary["tokens"]["prompt"] == 12
    assert ledger.prefilled_tokens == 12
    ledger.record_probe([group.pick.prompt for group in mixed_bag()])
    assert ledger.prefilled_tokens == 24
    assert ledger.trained_tokens == summary["tokens"]["trained"]
    assert summary["groups"] == {
        "generated": 6,
        "informative": 4,
        "effective": 2,
        "effective_ratio": 2 / 6,
        "rollouts_per_effective_group": 18 / 2,
        "tokens_per_effective_group": 72 / 2,
        "uniform": {"drawn": 2, "informative": 1, "rate": 0.5},
    }
    assert summary["prompts"] == {"seen": 6}


def test_tokens_are_trained_on_once_in_each_epoch() -> None:
    once, thrice = Ledger(group_size=3), Ledger(group_size=3, epochs=3)
    for ledger in (once, thrice):
        ledger.record(mixed_bag())
    assert 0 < 3 * once.trained_tokens == thrice.trained_tokens
    assert once.generated_tokens == thrice.generated_tokens


def test_cost_of_an_effective_group_is_unknown_before_the_first() -> None:
    ledger = Ledger(group_size=3)
    ledger.record([group("b", [False, False, False], Outcome.ZERO_VARIANCE)])
    assert ledger.cost() == {"rollouts_per_effective_group": None, "tokens_per_effective_group": None}


def test_both_breakdowns_add_up_to_what_was_generated_in_rollouts_and_tokens() -> None:
    rng = np.random.default_rng(0)
    ledger, rollouts, tokens = Ledger(group_size=4), 0, 0
    for step in range(20):
        groups = [
            group(
                f"{rng.integers(30)}-{i}",
                [(True, False, None)[v] for v in rng.integers(0, 3, size=rng.integers(1, 6))],
                list(Outcome)[rng.integers(len(Outcome))],
                (Origin.SELECTED, Origin.AUDIT, Origin.REFILL)[rng.integers(3)],
                tokens=int(rng.integers(0, 9)),
                step=step,
            )
            for i in range(7)
        ]
        ledger.record(groups)
        ledger.record_ungrouped(Origin.REFILL, Outcome.LOST, rollouts=2, tokens=5)
        ledger.record_ungrouped(Origin.SELECTED, Outcome.CANCELLED, rollouts=1, tokens=9)
        rollouts += 3 + sum(len(g.rollouts) for g in groups)
        tokens += 14 + sum(len(r.token_ids) for g in groups for r in g.rollouts)
    summary = ledger.summary()
    for unit, expected in (("rollouts", rollouts), ("tokens", tokens)):
        assert summary[unit]["generated"] == expected
        assert sum(summary[unit]["by_outcome"].values()) == expected
        assert sum(summary[unit]["by_origin"].values()) == expected
    assert summary["rollouts"]["by_outcome"]["lost"] >= 40
    assert summary["tokens"]["by_outcome"]["cancelled"] >= 180


def test_evaluation_is_counted_apart() -> None:
    ledger = Ledger(group_size=3)
    ledger.record_evaluation(rollouts=100, tokens=700)
    ledger.record_evaluation(rollouts=50, tokens=300)
    summary = ledger.summary()
    assert summary["evaluation"] == {"rollouts": 150, "tokens": 1000}
    assert summary["rollouts"]["generated"] == summary["tokens"]["generated"] == 0
    with pytest.raises(ValueError, match="not recorded as training"):
        ledger.record_ungrouped(Origin.EVAL, Outcome.LOST, 1, 1)


def test_a_rollout_that_has_a_group_is_recorded_with_it() -> None:
    with pytest.raises(ValueError, match="outcome stale is recorded with its group"):
        Ledger(group_size=3).record_ungrouped(Origin.AUDIT, Outcome.STALE, 1, 1)


def test_group_without_outcome_is_refused_and_nothing_of_the_call_is_counted() -> None:
    ledger = Ledger(group_size=2)
    with pytest.raises(ValueError, match="prompt b: the group has no outcome"):
        ledger.record([group("a", [True, False], Outcome.TRAINED), group("b", [True, False], None)])
    assert ledger.generated == ledger.prompts_seen == 0


def test_rollout_recorded_before_is_refused_and_nothing_of_the_call_is_counted() -> None:
    ledger = Ledger(group_size=2)
    first = group("a", [True, False], Outcome.TRAINED)
    ledger.record([first])
    with pytest.raises(ValueError, match="prompt a: rollout 0 is recorded twice"):
        ledger.record([group("b", [True, False], Outcome.TRAINED), first])
    twin = group("c", [True, True], Outcome.ZERO_VARIANCE)
    with pytest.raises(ValueError, match="prompt c: rollout 0 is recorded twice"):
        ledger.record([twin, twin])
    assert ledger.generated == 2
    ledger.record([group("a", [True, False], Outcome.TRAINED, step=1)])
    assert (ledger.generated, ledger.prompts_seen, ledger.visits["a"]) == (4, 1, 2)


def test_group_recorded_once_more_after_an_update_is_still_refused() -> None:
    ledger = Ledger(group_size=2)
    first = group("a", [True, False], Outcome.TRAINED)
    ledger.record([first])
    ledger.record([group("a", [True, False], Outcome.TRAINED, step=1)])
    with pytest.raises(ValueError, match="recorded twice"):
        ledger.record([first])


def test_scores_that_do_not_match_the_rollouts_are_an_error() -> None:
    broken = group("a", [True, False], Outcome.TRAINED)
    broken.scores.pop()
    with pytest.raises(ValueError, match="prompt a: 2 rollouts, 1 scores"):
        Ledger(group_size=2).record([broken])


# ---------------------------------------------------------------- saved


def recorded(
    uniform_informative: int, uniform_zero: int, chosen_informative: int, chosen_zero: int
) -> Ledger:
    ledger = Ledger(group_size=2)
    kinds = [
        (uniform_informative, Outcome.TRAINED, True),
        (uniform_zero, Outcome.ZERO_VARIANCE, True),
        (chosen_informative, Outcome.TRAINED, False),
        (chosen_zero, Outcome.ZERO_VARIANCE, False),
    ]
    for n, outcome, uniform in kinds:
        verdicts = [True, outcome != Outcome.TRAINED]
        ledger.record([group(f"{outcome}{uniform}{i}", verdicts, outcome, uniform=uniform) for i in range(n)])
    return ledger


def test_saved_equals_its_definition_worked_by_hand() -> None:
    """Uniform draws: 10 of 40 mixed, rate 1/4. Effective groups 10 + 30 = 40, so uniform sampling would need
    40 / (1/4) = 160 groups of 2 = 320 rollouts; 40 + 40 groups = 160 rollouts were generated."""
    saved = recorded(10, 30, 30, 10).saved()
    assert saved.rollouts == pytest.approx(320 - 160)
    low_rate, high_rate = wilson_interval(10, 40)
    assert saved.low == pytest.approx(2 * 40 / high_rate - 160)
    assert saved.high == pytest.approx(2 * 40 / low_rate - 160)
    assert saved.low < saved.rollouts < saved.high


def test_uniform_sampling_saves_nothing_against_itself() -> None:
    saved = recorded(10, 30, 0, 0).saved()
    assert saved.rollouts == 0
    assert saved.low < 0 < saved.high


def test_uniform_sampling_saves_nothing_against_itself_where_verdicts_are_missing() -> None:
    """40 groups with verdicts and 10 without: uniform sampling would have paid for these as well. Rate 10/50,
    so that 10 effective groups take 50, which is what was generated."""
    ledger = recorded(10, 30, 0, 0)
    ledger.record([group(f"u{i}", [None, True], Outcome.UNSCORABLE, uniform=True) for i in range(10)])
    saved = ledger.saved()
    assert saved.rollouts == 0
    low_rate, high_rate = wilson_interval(10, 50)
    assert saved.low == pytest.approx(2 * 10 / high_rate - 100)
    assert saved.high == pytest.approx(2 * 10 / low_rate - 100)
    assert ledger.summary()["groups"]["uniform"] == {"drawn": 50, "informative": 10, "rate": 0.2}


def test_surplus_groups_are_not_counted_as_gain() -> None:
    ledger = recorded(10, 30, 0, 0)
    ledger.record([group("s", [True, False], Outcome.SURPLUS, uniform=False)])
    assert ledger.saved().rollouts == -2


def test_nothing_is_claimed_while_no_uniform_group_was_informative() -> None:
    for ledger in (Ledger(group_size=2), recorded(0, 5, 20, 0)):
        saved = ledger.saved()
        assert (saved.rollouts, saved.low, saved.high) == (None, None, None)
        assert ledger.summary()["rollouts"]["saved"] is None
        assert ledger.summary()["rollouts"]["saved_interval"] is None


def test_wilson_interval_solves_its_quadratic_and_covers() -> None:
    """Its ends are the rates p with |k/n − p| = 1.96·√(p(1−p)/n); over repetitions it covers 95 %."""
    for k, n in ((0, 7), (3, 10), (40, 400), (7, 7)):
        for end in wilson_interval(k, n):
            assert abs(k / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-6)
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 0.9, size=4000)  # averaged over rates, as coverage jumps with each of them
    covered = 0
    for rate in rates:
        low, high = wilson_interval(int(rng.binomial(60, rate)), 60)
        covered += low <= rate <= high
    assert covered / 4000 == pytest.approx(0.95, abs=0.012)


# ---------------------------------------------------------------- state


def test_state_round_trips_through_json_and_goes_on_alike() -> None:
    first, second = Ledger(group_size=3), Ledger(group_size=3)
    first.record(mixed_bag())
    first.record_evaluation(10, 20)
    first.record_ungrouped(Origin.AUDIT, Outcome.LOST, 1, 2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for ledger in (first, second):
        ledger.record([group("a", [True, False], Outcome.TRAINED, uniform=True, step=1)])
    assert second.summary() == first.summary()
    assert second.state_dict() == first.state_dict()
    assert second.visits == first.visits
    json.dumps(second.summary(), allow_nan=False)


def test_state_of_another_group_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="group_size 3, expected 4"):
        Ledger(group_size=4).load_state_dict(Ledger(group_size=3).state_dict())


def test_by_signal_a_group_is_worth_its_squared_advantages() -> None:
    """By hand: uniform groups have Σ A² = 1, 2 and 1.25, trained ones these and 9 (a rollout left out)."""
    ledger = Ledger(group_size=2, by_signal=True)
    told = [("a", [1, 0], True), ("b", [1, -1], True), ("c", [1, 0.5], True), ("d", [3, 0.1], False)]
    groups = []
    for step, (key, advantages, uniform) in enumerate(told):
        made = group(key, [True, False], Outcome.TRAINED, uniform=uniform, step=step)
        made.advantages = np.array(advantages, dtype=np.float32)
        made.left_out = frozenset([1]) if key == "d" else frozenset()
        groups.append(made)
    ledger.record(groups)
    mean, needed = 4.25 / 3, 2 * 13.25
    error = 1.96 * np.std([1, 2, 1.25], ddof=1) / math.sqrt(3)
    expected = [needed / rate - 8 for rate in (mean, mean + error, mean - error)]
    saved = ledger.saved()
    assert [saved.rollouts, saved.low, saved.high] == pytest.approx(expected, rel=1e-4)
    other = Ledger(group_size=2, by_signal=True)
    other.load_state_dict(ledger.state_dict())
    assert other.saved() == saved
