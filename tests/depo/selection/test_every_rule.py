"""What holds whatever the rule: audit, no repeats, keyed draws, cooldown, rest, state."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import G, Oracle, first_round, group, keys, pool_of, rolled_out, run_step, selector_of

from depo.estimators.base import Candidate, Context, Estimates, Estimator
from depo.estimators.baselines import UniformEstimator
from depo.estimators.dps import DpsEstimator
from depo.estimators.greso import GresoEstimator
from depo.estimators.mopps import MoppsEstimator
from depo.selection import SelectionSettings, Selector
from depo.selection.picks import observations
from depo.selection.pool import PromptPool
from depo.selection.rules import BUILT_IN, Greedy
from depo.types import Group, Origin, Pick, Prompt

ALL_RULES = pytest.mark.parametrize("rule", sorted(BUILT_IN))


@ALL_RULES
def test_no_prompt_is_picked_twice_in_a_step_and_every_round_is_full(rule: str) -> None:
    selector = selector_of(prompts=8, type=rule, min_window=0, audit=0.25, revisit_after=2, max_rounds=5)
    pool = pool_of(60)
    for step in range(1, 12):
        done: list[Group] = []
        open_step = selector.begin(Context(G, step))
        while picks := selector.pick(open_step, pool, GresoEstimator(), done):
            assert len(picks) == 8
            done += [group(pick, [False] * G) for pick in picks]
        assert len({g.pick.prompt.key for g in done}) == 40
        selector.observe(open_step, done)


@ALL_RULES
def test_audit_share_and_flags_are_the_same_under_every_rule(rule: str) -> None:
    selector, pool = (
        selector_of(prompts=20, type=rule, min_window=0, audit=0.25, revisit_after=5),
        pool_of(60),
    )
    for step in range(1, 13):
        groups = run_step(selector, pool, MoppsEstimator(), step)
        first = [g.pick for g in groups if g.pick.origin != Origin.REFILL]
        audits = [pick for pick in first if pick.origin == Origin.AUDIT]
        assert len(audits) == 5
        assert all(pick.uniform and pick.propensity == 0.25 / 60 for pick in audits)
        assert {pick.selector for pick in first if not pick.uniform} <= {rule, "revisit"}
        assert all(np.isnan(pick.propensity) for pick in first if not pick.uniform)


@ALL_RULES
def test_order_of_the_file_does_not_matter(rule: str) -> None:
    def picks(pool: PromptPool) -> list[str]:
        selector = selector_of(prompts=10, type=rule, min_window=0, audit=0.2, revisit_after=3, cooldown=1)
        estimator = DpsEstimator()
        found: list[str] = []
        for step in range(1, 9):
            found += [g.pick.prompt.key for g in run_step(selector, pool, estimator, step)]
        return found

    pool = pool_of(50)
    assert picks(pool) == picks(PromptPool(pool_of(50).prompts[::-1], 0))


@ALL_RULES
def test_resumed_run_picks_what_the_uninterrupted_one_would_have(rule: str) -> None:
    class SilentOracle(Oracle):
        def observe(self, observations: object, context: Context) -> dict[str, float]:
            return {}

    options = {
        "type": rule,
        "min_window": 30,
        "window": 60,
        "audit": 0.1,
        "revisit_after": 6,
        "refill": False,
        "cooldown": 2,
    }
    selector, pool = selector_of(prompts=12, **options), pool_of(200)
    resumed, resumed_pool = selector_of(prompts=12, **options), pool_of(200)
    oracle = SilentOracle(pool)
    for step in range(1, 11):
        run_step(selector, pool, oracle, step)
    resumed.load_state_dict(json.loads(json.dumps(selector.state_dict(), allow_nan=False)), pool)
    resumed_pool.load_state_dict(pool.state_dict())
    assert resumed.state_dict() == selector.state_dict()
    names = set()
    for step in range(11, 25):
        expected = run_step(selector, pool, oracle, step)
        found = run_step(resumed, resumed_pool, oracle, step)
        assert str([g.pick for g in found]) == str([g.pick for g in expected])
        names |= {g.pick.selector for g in found}
    assert {rule, "revisit"} <= names
    assert resumed.state_dict() == selector.state_dict()


# ---------------------------------------------------------------- cooldown


def first_picks(selector: Selector, pool: PromptPool, estimator: Estimator, step: int) -> list[Pick]:
    open_step, picks = first_round(selector, pool, estimator, step)
    selector.observe(open_step, [group(pick, [True, False]) for pick in picks])
    return picks


@ALL_RULES
def test_prompts_on_cooldown_wait_while_there_are_others(rule: str) -> None:
    """10 of 50 a step and a cooldown of 3: the same prompt can come back in the fourth step after, not
    before. A rule that ranks alike at every step would otherwise take the same ten."""
    selector, pool = selector_of(prompts=10, type=rule, min_window=0, audit=0, cooldown=3), pool_of(50)
    last: dict[str, int] = {}
    gaps = []
    for step in range(1, 20):
        for key in keys(first_picks(selector, pool, Oracle(pool), step)):
            gaps += [step - last[key]] if key in last else []
            last[key] = step
    assert min(gaps) == 4


def test_without_cooldown_greedy_returns_to_the_same_prompts() -> None:
    visited = {}
    for cooldown in (0, 3):
        selector, pool = (
            selector_of(prompts=10, type="greedy", min_window=0, audit=0, cooldown=cooldown),
            pool_of(50),
        )
        picked = [
            key for step in range(1, 6) for key in keys(first_picks(selector, pool, Oracle(pool), step))
        ]
        visited[cooldown] = len(set(picked))
    assert visited[0] < 15
    assert visited[3] >= 40


def test_cooldown_asks_the_policy_for_no_more_prompts_than_without() -> None:
    """What is seen of a candidate takes a prefill: those passed over on cooldown are not to be paid for."""
    seen: list[set[str]] = []

    def probe(prompts: Sequence[Prompt]) -> np.ndarray:
        seen[-1] |= {prompt.key for prompt in prompts}
        return np.zeros((len(prompts), 1))

    settings = SelectionSettings(5, audit=0, min_window=0, candidates=20, revisit_after=None, cooldown=4)
    selector, pool = Selector(settings, Greedy(), 0, prefill_probe=probe), pool_of(100)
    recent: list[set[str]] = []
    for step in range(1, 12):
        seen.append(set())
        picks = first_picks(selector, pool, Oracle(pool), step)
        assert len(seen[-1]) == 20
        assert not seen[-1] & set().union(*recent[-4:])
        recent.append(set(keys(picks)))


def test_cooldown_gives_way_when_candidates_run_out() -> None:
    selector, pool = selector_of(prompts=10, type="greedy", min_window=0, audit=0, cooldown=100), pool_of(25)
    for step in range(1, 8):
        assert len(first_picks(selector, pool, Oracle(pool), step)) == 10


# ---------------------------------------------------------------- prompts that cannot be verified


def run_with_broken(
    selector: Selector, pool: PromptPool, broken: set[str], steps: int, audit: bool = False
) -> list[str]:
    """Keys of all picks (``audit``: those of the audit slice), where no answer to a broken prompt gets a
    verdict. The estimator keeps every prompt that it has seen nothing of, so that broken ones attract it."""
    estimator, picked = GresoEstimator(), []
    for step in range(1, steps + 1):
        open_step, picks = first_round(selector, pool, estimator, step)
        groups = [
            group(g.pick, [None] * G) if g.pick.prompt.key in broken else g for g in rolled_out(picks, step)
        ]
        estimator.observe(observations(groups, step), Context(G, step))
        selector.observe(open_step, groups)
        picked += [p.prompt.key for p in picks if not audit or p.origin == Origin.AUDIT]
    return picked


@ALL_RULES
def test_prompts_never_verified_do_not_take_more_than_their_share_of_the_picks(rule: str) -> None:
    """5 % of the pool; at least 11 % of the picks without rest, whatever the rule."""
    selector, pool = (
        selector_of(prompts=16, type=rule, min_window=0, audit=0, refill=False, revisit_after=10),
        pool_of(200),
    )
    broken = {prompt.key for prompt in pool.by_key[::20]}
    picked = run_with_broken(selector, pool, broken, steps=80)[20 * 16 :]
    assert 0 < np.mean([key in broken for key in picked]) < 0.05
    assert 0 < selector.metrics()["selection/resting"] <= len(broken)


@ALL_RULES
def test_resting_prompts_are_drawn_uniformly_all_the_same_and_fill_up_where_there_is_nothing_else(
    rule: str,
) -> None:
    selector, pool = selector_of(prompts=16, type=rule, min_window=0, audit=0.5, refill=False), pool_of(40)
    broken = {prompt.key for prompt in pool.by_key[::2]}
    audited = run_with_broken(selector, pool, broken, steps=60, audit=True)
    assert np.mean([key in broken for key in audited]) == pytest.approx(0.5, abs=0.05)
    selector, everything = (
        selector_of(prompts=16, type=rule, min_window=0, audit=0, refill=False),
        pool_of(20),
    )
    picked = run_with_broken(selector, everything, {prompt.key for prompt in everything.prompts}, steps=9)
    assert len(picked) == 9 * 16


@ALL_RULES
def test_a_resumed_run_lets_the_same_prompts_rest(rule: str) -> None:
    picks = []
    for resumed in (False, True):
        selector, pool = (
            selector_of(prompts=16, type=rule, min_window=0, audit=0.1, revisit_after=6),
            pool_of(90),
        )
        broken = {prompt.key for prompt in pool.by_key[::3]}
        run_with_broken(selector, pool, broken, steps=8)
        if resumed:
            state = json.loads(json.dumps(selector.state_dict(), allow_nan=False))
            selector = selector_of(prompts=16, type=rule, min_window=0, audit=0.1, revisit_after=6)
            selector.load_state_dict(state, pool)
        picks.append(keys(first_round(selector, pool, UniformEstimator(), 9)[1]))
    assert picks[0] == picks[1]


# ---------------------------------------------------------------- skip and the pool


def test_skip_moves_the_pool_on_past_what_it_skipped() -> None:
    """Every second prompt of the pass is known to be hopeless: 4 places take the first 8 of the order."""
    pool = pool_of(40)
    order = [prompt.key for prompt in pool.peek(40)]

    class EverySecond(MoppsEstimator):
        def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
            estimates = super().predict(candidates, context)
            odd = [order.index(candidate.key) % 2 == 1 for candidate in candidates]
            return Estimates(
                estimates.mean,
                estimates.sd,
                np.where(odd, 1.0, 0.0),
                np.where(odd, 0.0, 1.0),
                np.zeros(len(odd)),
                estimates.sample,
            )

    selector = selector_of(prompts=4, type="skip", min_window=0, audit=0)
    open_step, first = first_round(selector, pool, EverySecond(), 1)
    assert keys(first) == order[1:8:2]
    second = selector.pick(open_step, pool, EverySecond(), [group(pick, [False] * G) for pick in first])
    assert keys(second) == order[9:16:2]
    assert pool.peek(1)[0].key == order[16]


# ---------------------------------------------------------------- signal per token


def test_gumbel_prefers_short_prompts_at_equal_p_informative() -> None:
    """Half of the pool takes 40 tokens a completion, half 4; nobody believes anything else of them."""
    selector, pool = selector_of(prompts=10, type="gumbel", min_window=0, audit=0, refill=False), pool_of(100)
    picked = []
    for step in range(1, 101):
        open_step, picks = first_round(selector, pool, UniformEstimator(), step)
        groups = [group(pick, [True, False]) for pick in picks]
        for g in groups:
            for rollout in g.rollouts:
                rollout.token_ids = np.zeros(40 if is_long(g.pick) else 4, np.int32)
        selector.observe(open_step, groups)
        picked += [is_long(pick) for pick in picks] if step > 30 else []
    assert np.mean(picked) < 0.1


def is_long(pick: Pick) -> bool:
    return int(pick.prompt.key[-1], 16) % 2 == 0
