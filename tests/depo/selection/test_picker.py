"""Picker: anybody's loop tells counts, and gets what depo's own loop would get from the same selector."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from synthetic_pool import group

from depo.estimators.base import Context
from depo.estimators.mopps import MoppsEstimator
from depo.files import load_state, save_state
from depo.report.statistics import wilson_interval
from depo.rng import generator
from depo.selection import Picker, PromptPool, build_selector, picker
from depo.selection.ledger import Ledger
from depo.selection.picks import observations
from depo.types import Prompt

G = 4
OPEN = {"estimator": "mopps", "min_window": 0, "group_size": G}  # the rule chooses from the start


def prompts(n: int = 60) -> list[dict[str, str]]:
    return [{"key": f"p{i:03}", "text": f"problem {i}"} for i in range(n)]


def verdicts(key: str, step: int, n: int = G) -> list[bool]:
    """Of a policy that masters a third of the prompts, never solves another, and is unsure of the rest."""
    rate = (0.0, 1.0, 0.5)[int(key[1:]) % 3]
    return [bool(v) for v in generator(0, "world", step, key).random(n) < rate]


def report(one: Picker, key: str, step: int) -> None:
    right = verdicts(key, step)
    one.report(key, sum(right), len(right), tokens=10 * G)


def play(one: Picker, steps: int, n: int = 8) -> list[list[str]]:
    """``steps`` whole steps; the keys of each."""
    picked = []
    for _ in range(steps):
        picked.append(one.pick(n))
        for key in picked[-1]:
            report(one, key, one.step)
    return picked


def test_the_docstrings_example_runs():
    results = doctest.testmod(picker)
    assert results.attempted > 5
    assert results.failed == 0


def test_importing_selection_loads_numpy_and_nothing_heavier():
    code = (
        "import sys, depo.selection; print(sorted({'torch', 'ray', 'scipy', 'pydantic', 'pyarrow', "
        "'transformers', 'depo.recipe'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_picks_and_metrics_are_those_of_the_selector_driven_by_hand():
    """As depo's loop drives it, with groups of real rollouts."""
    given = prompts()
    pool = PromptPool([Prompt(one["key"], one["text"], (), "") for one in given], seed=3)
    selector = build_selector({"type": "thompson", "min_window": 16, "window": 40}, batch=8, seed=3)
    estimator, ledger = MoppsEstimator(), Ledger(G)
    by_hand = []
    for number in range(1, 31):
        step = selector.begin(Context(G, number))
        picks = selector.pick(step, pool, estimator)
        by_hand.append([pick.prompt.key for pick in picks])
        groups = [group(pick, verdicts(pick.prompt.key, number)) for pick in picks]
        for one in groups:
            for rollout in one.rollouts:
                rollout.token_ids, rollout.policy_version = np.zeros(10, np.int32), number
        selector.observe(step, groups)
        selector.assign(step, groups)
        estimator.observe(observations(groups, number), step.context)
        ledger.record(groups)

    one = Picker(given, group_size=G, estimator="mopps", seed=3, min_window=16, window=40)
    assert play(one, 30) == by_hand
    assert selector.metrics().items() <= one.metrics().items()
    assert one.metrics()["selection/active"] == 1
    assert one.metrics()["saved"] == ledger.saved().rollouts
    assert one.ledger.summary() == ledger.summary()


def test_saved_is_what_uniform_sampling_would_have_needed_minus_what_was_spent():
    one = Picker(prompts(), **OPEN, seed=1, audit=0.25)
    effective = Counter()
    for _ in range(30):
        for key in one.pick(8):
            right = sum(verdicts(key, one.step))
            uniform = one._open[one.step][key].pick.uniform
            effective[uniform] += 0 < right < G
            effective["drawn"] += uniform
            one.report(key, right, G)
    needed = G * (effective[True] + effective[False]) * effective["drawn"] / effective[True]
    assert one.metrics()["saved"] == pytest.approx(needed - 30 * 8 * G)
    low, _ = wilson_interval(effective[True], effective["drawn"])
    assert one.ledger.saved().high == pytest.approx(
        G * (effective[True] + effective[False]) / low - 30 * 8 * G
    )


def test_zero_variance_groups_become_fewer():
    def share(one: Picker) -> float:
        return 1 - np.mean(
            [0 < sum(verdicts(key, step)) < G for step, keys in enumerate(play(one, 40), 1) for key in keys]
        )

    assert share(Picker(prompts(300), **OPEN)) < 0.45
    assert share(Picker(prompts(300), **OPEN, rule="uniform")) > 0.6


def test_outcomes_that_come_a_batch_later_in_any_order_and_in_parts_teach_the_same():
    """Two picks are always open; here reported in order and at once, there shuffled and in two parts."""
    plain, mixed = (Picker(prompts(), **OPEN, seed=2) for _ in range(2))
    rng = np.random.default_rng(0)
    waiting: list[tuple[int, list[str]]] = []
    for step in range(1, 15):
        keys = plain.pick(6)
        assert mixed.pick(6) == keys
        waiting.append((step, keys))
        if len(waiting) < 2:
            continue
        then, keys = waiting.pop(0)
        for key in keys:
            report(plain, key, then)
        parts = [(key, part) for key in keys for part in (slice(0, 1), slice(1, G))]
        for i in rng.permutation(len(parts)):
            key, part = parts[i]
            right = verdicts(key, then)[part]
            mixed.report(key, sum(right), len(right), tokens=10 * len(right))
    assert mixed.metrics() == plain.metrics()
    assert mixed.metrics()["picker/open"] == 6
    assert mixed.metrics()["generated/rollouts"] == 13 * 6 * G


def test_a_prompt_picked_again_while_open_is_reported_oldest_pick_first():
    one = Picker(prompts(5), **OPEN)
    one.pick(5)
    first = one.baseline("p000")
    one.pick(5)
    one.report("p000", G, G)
    assert one._open[1]["p000"].correct == G
    assert one._open[2]["p000"].correct == 0
    one.report("p000", 1, G)
    assert one._open[2]["p000"].correct == 1
    assert one.unasked == 0
    one.report("p000", 1, G)  # nobody waits for a third
    assert one.metrics()["picker/unasked"] == 1
    assert first.mean == pytest.approx(0.5)  # MoPPS before any outcome: Beta(1, 1)
    assert first.sd == pytest.approx(12**-0.5)


def test_the_baseline_is_the_belief_at_pick_time_whatever_is_learned_since():
    one = Picker(prompts(6), **OPEN)
    for key in one.pick(6):
        one.report(key, G, G)
    assert one.baseline("p001").mean == pytest.approx(0.5)  # closed: of its latest pick
    one.pick(6)
    learned = one.baseline("p001")
    assert learned.mean > 0.6
    for key in [f"p00{i}" for i in range(6)]:
        one.report(key, 0, G)
    assert one.baseline("p001") == learned
    with pytest.raises(ValueError, match="'p001' has not been picked"):
        Picker(prompts(6), **OPEN).baseline("p001")


def test_picks_never_reported_are_given_up_and_half_groups_grade_nothing():
    one = Picker(prompts(), **OPEN, rule="uniform", give_up_after=3)
    first = one.pick(4)
    one.report(first[0], 2, 2)
    one.report(first[1], 2, G)
    for _ in range(2):
        one.pick(4)
    assert one.lost == 0
    one.pick(4)
    figures = one.metrics()
    assert figures["picker/lost"] == 3
    assert figures["picker/open"] == 12
    assert figures["calibration/groups"] == 1  # the whole one
    assert figures["generated/rollouts"] == 2 + G
    assert one.ledger.summary()["rollouts"]["by_outcome"]["lost"] == 2
    one.report(first[0], 0, 2)  # too late
    assert one.metrics()["picker/unasked"] == 1
    while first[0] not in one.pick(30):
        pass
    assert one.baseline(first[0]).mean > 0.6  # the two verdicts that came in time


def test_rollouts_without_a_verdict_complete_a_group_and_are_no_failures():
    one = Picker(prompts(4), **OPEN)
    for key in one.pick(4):
        one.report(key, 2, 2, unscorable=2)
    assert one.metrics()["picker/open"] == 0
    assert one.ledger.summary()["rollouts"]["by_outcome"]["unscorable"] == 8
    one.pick(4)
    assert one.baseline("p000").mean == pytest.approx(3 / 4, abs=0.1)  # of Beta(1 + 2, 1)


def test_a_restored_picker_goes_on_as_the_saved_one(tmp_path: Path):
    """With the default estimator, over files, and a step open."""
    options = {"group_size": G, "min_window": 0, "audit": 0.25, "seed": 5}
    saved = Picker(prompts(), **options)
    play(saved, 6)
    keys = saved.pick(8)
    saved.report(keys[0], 1, 2, tokens=7)
    save_state(tmp_path, saved.state_dict())
    restored = Picker(prompts(), **options)
    restored.load_state_dict(load_state(tmp_path))
    for one in (saved, restored):
        one.report(keys[0], 1, 2)
        for key in keys[1:]:
            report(one, key, 7)
    assert play(restored, 5) == play(saved, 5)
    assert restored.metrics() == saved.metrics()
    assert restored.metrics()["selection/active"] == 1
    assert restored.baseline(keys[0]) == saved.baseline(keys[0])


def test_the_state_of_another_setup_is_refused():
    texts = [f"problem {i}" for i in range(6)]
    state = Picker(texts, group_size=G).state_dict()
    json.dumps(state.values)
    for other, complaint in (
        (Picker(texts[::-1], group_size=G), "other prompts, or with the same in another order"),
        (Picker(texts, group_size=8), "group_size 4, this one has 8"),
        (Picker(texts, group_size=G, estimator="mopps"), "estimator 'hybrid', this one has 'mopps'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            other.load_state_dict(state)


def test_texts_are_keyed_by_their_rows_and_may_be_alike():
    one = Picker(["a", "b", "a"], group_size=G)
    assert sorted(one.pick(3)) == [0, 1, 2]
    assert one.row(2) == 2
    assert Picker(prompts(3), group_size=G).row("p002") == 2


def test_single_rollouts_are_graded_by_their_pass_rate():
    one = Picker(prompts(), group_size=1, estimator="mopps", min_window=20, window=60)
    for _ in range(60):
        for key in one.pick(4):
            one.report(key, sum(verdicts(key, one.step, 1)), 1)
    figures = one.metrics()
    assert figures["selection/active"] == 1
    assert figures["calibration/skill"] == figures["calibration/pass_rate_skill"] > 0
    assert "saved" not in figures


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda one: one.report("x", 1, 4), "no prompt has the key 'x'"),
        (lambda one: one.report("p000", 5, 4), "found correct 5, total 4"),
        (lambda one: one.report("p000", -1, 4), "0 <= correct <= total"),
        (lambda one: one.report("p000", 0.5, 4), "whole numbers"),
        (lambda one: one.report("p000", 0, 0), "total is 0; say how many rollouts had no verdict"),
        (lambda one: one.pick(7), "cannot pick 7 prompts: there are 6"),
        (lambda one: one.pick(0), "cannot pick 0 prompts"),
        (lambda one: Picker([], group_size=4), "prompts: none are given"),
        (lambda one: Picker(prompts(2) * 2, group_size=4), "4 are given, with 2 different keys"),
        (lambda one: Picker([["a"]], group_size=4), "row 0 is neither a text nor a mapping"),
        (lambda one: Picker(["a"], group_size=0), "group_size must be at least 1"),
        (lambda one: Picker(["a"], group_size=4, estimator="hybird"), "no estimator is called 'hybird'"),
        (lambda one: Picker(["a"], group_size=4, audti=0.1), "does not take these options.*audti"),
        (lambda one: Picker(["a"], group_size=4, refill=True), "one round a step"),
    ],
)
def test_bad_input_is_told_in_one_line(call, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        call(Picker(prompts(6), group_size=G))
    assert "\n" not in str(caught.value)


def test_the_loop_of_the_docs_runs():
    page = (Path(__file__).parents[3] / "docs" / "trl.md").read_text()
    (loop,) = [block.split("```")[0] for block in page.split("```python\n") if "roll_out(" in block]
    logged: list[dict[str, float]] = []
    names = {"texts": [one["text"] for one in prompts(40)], "steps": 2, "log": logged.append}
    names["roll_out"] = lambda text: (3, 8) if text.endswith("0") else (0, 8)
    exec(loop, names)
    assert [row["generated/rollouts"] for row in logged] == [256, 512]
