"""Guards: each warns, then ends the run, and all are silent on a run that learns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from synthetic_pool import selector_of

from depo.errors import FAILED, RunFailed, report_failure
from depo.files import step_name
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Guards
from depo.reward.base import Score, unscorable
from depo.selection.ledger import Ledger
from depo.trackers.tracker import read_metrics
from depo.train.alarms import Alarms
from depo.train.checkpoint import prune
from depo.train.guards import WATCHES
from depo.train.metrics import Clock, step_metrics
from depo.types import Group, Origin, Pick, Prompt, Rollout

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"

RECIPE = load_recipe(QUICKSTART)

RECORDED = read_metrics(Path(__file__).parent / "quickstart_metrics.jsonl")
"""What guards read of the first 60 steps of `depo train recipes/quickstart.yaml`."""

STEADY = {name: value for name, value in RECORDED[-1].items() if not name.startswith("uniform/")}
"""Such a step again and again; the two prompts that it drew uniformly say nothing about the pool."""

TRIPS: dict[str, Mapping[str, float]] = {
    "truncated": {"truncated_share": 0.96},
    "unparseable": {"unparseable_share": 0.96},
    "unscorable": {"unscorable_share": 0.11},
    "no_verdict": {"unscorable_share": 0.6},
    "reward_collapse": {"uniform/groups": 32, "uniform/accuracy": 0.01},
    "no_signal": {"uninformative_share": 1.0},
    "entropy_collapse": {"entropy": 1e-3},
    "entropy_explosion": {"entropy": math.log(16)},  # all tokens of the quickstart's vocabulary alike
    "mismatch_kl": {"mismatch_kl": 0.3},
    "clip_fraction": {"clip_fraction": 0.8},
    "grad_norm": {"grad_norm": 500.0},
    "policy_kl": {"policy_kl": math.nan},
    "skipped_updates": {"skipped_steps": 1.0, "optimizer_steps": 3.0},
    "not_finite": {"skipped_steps": 4.0, "optimizer_steps": 0.0},
    "no_gradient": {"grad_norm": 0.0},
    "frozen_policy": {"weights_changed": 0.0},
    "routing_collapse": {"routing/collapsing": 1.0},
}


def alarms_of(said: list[str], **guards: object) -> Alarms:
    """``guards``: what the recipe's block of this name sets."""
    return Alarms(
        said.append, RECIPE.model_copy(update={"guards": Guards.model_validate(guards)}), Path("run")
    )


def run_on(alarms: Alarms, metrics: Mapping[str, float], steps: int, first: int = 1) -> int | None:
    """Steps with these metrics; returns the step that ended the run."""
    for step in range(first, first + steps):
        try:
            alarms.step(step, [], metrics)
        except RunFailed:
            return step
    return None


def group(scores: Sequence[Score], key: str = "a", uniform: bool = True, reason: str = "stop") -> Group:
    pick = Pick(Prompt(key, key, (1, 2), "1"), Origin.SELECTED, "", uniform, math.nan, math.nan, math.nan)
    rollouts = [
        Rollout(key, i, i, np.zeros(3, np.int32), np.zeros(3, np.float32), reason, 0)
        for i in range(len(scores))
    ]
    return Group(
        pick, rollouts, list(scores), [f"thinking about {key}\nanswer {i}" for i in range(len(scores))]
    )


def judged(*verdicts: bool) -> list[Score]:
    return [Score(float(verdict), verdict) for verdict in verdicts]


BROKEN = [unscorable("KeyError: 'answer'")] * 3 + [unscorable("timeout after 5 s")]


def test_every_guard_of_the_recipe_is_watched_and_tripped_here() -> None:
    assert [watch.name for watch in WATCHES] == list(Guards.model_fields) == list(TRIPS)


def test_the_page_on_guards_tells_the_recipes_defaults() -> None:
    page = (Path(__file__).parents[3] / "docs/reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (\d+) \| (\w+) \|", page, re.M)
    assert [name for name, *_ in rows] == list(TRIPS)
    for name, when, warn, end in rows:
        guard = getattr(Guards(), name)
        assert (warn, end) == (str(guard.warn), "never" if guard.end is None else str(guard.end)), name
        told = [float(one) for one in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", when)]
        assert not told or {guard.limit, 100 * guard.limit} & set(told), name


def test_no_guard_says_a_word_on_the_quickstart() -> None:
    said: list[str] = []
    alarms = alarms_of(said)
    for row in RECORDED:
        alarms.step(row["step"], [], row)
    assert said == []
    assert alarms.standing() == []
    assert alarms.sound_until() is None


@pytest.mark.parametrize("name", TRIPS)
def test_a_guard_warns_then_ends_the_run_that_went_well_until_then(name: str) -> None:
    said: list[str] = []
    alarms = alarms_of(said)
    for row in RECORDED:
        alarms.step(row["step"], [], row)
    guard = getattr(alarms.recipe.guards, name)
    bad = STEADY | TRIPS[name]
    own = lambda: [line for line in said if f"(guards.{name}," in line]  # noqa: E731
    first = RECORDED[-1]["step"] + 1
    for step in range(first, first + 100):
        if name in alarms.streaks and alarms.streaks[name].steps == guard.warn - 1 and guard.warn > 1:
            assert own() == []
        if name in alarms.streaks and alarms.streaks[name].steps + 1 == guard.end:
            with pytest.raises(RunFailed, match=rf"guards\.{name}: limit {guard.limit:g}, end {guard.end}\)"):
                alarms.step(step, [], bad)
            break
        alarms.step(step, [], bad)
    else:
        assert guard.end is None
    warned = alarms.streaks[name].since + guard.warn - 1
    assert len(own()) == 1
    assert own()[0].startswith(f"warning: step {warned}: ")
    assert any(f"guards.{name})" in line for line in alarms.standing())


@pytest.mark.parametrize("name", TRIPS)
def test_a_guard_can_be_made_one_that_only_warns_or_be_switched_off(name: str) -> None:
    others = dict.fromkeys(TRIPS.keys() - {name})
    for setting, lines in (({"end": None}, 1), (None, 0)):
        said: list[str] = []
        alarms = alarms_of(said, **others, **{name: setting})
        for row in RECORDED:
            alarms.step(row["step"], [], row)
        assert run_on(alarms, STEADY | TRIPS[name], 60, first=61) is None
        assert len(said) == lines


@pytest.mark.parametrize("name", [watch.name for watch in WATCHES if getattr(Guards(), watch.name).end])
def test_a_resumed_run_ends_where_one_that_was_never_stopped_does(name: str) -> None:
    rows = [*RECORDED, *[STEADY | TRIPS[name]] * 80]

    def ended(stops: set[int]) -> int:
        alarms = alarms_of([])
        for step, row in enumerate(rows, 1):
            if step in stops:
                state = json.loads(json.dumps(alarms.state_dict(), allow_nan=False))
                alarms = alarms_of([])
                alarms.load_state_dict(state)
            if run_on(alarms, row, 1, first=step):
                return step
        raise AssertionError

    assert ended({3, 12, 61, 63, 64, 70}) == ended(set()) > len(RECORDED)


def test_a_good_step_begins_the_count_anew_and_one_without_the_figure_does_not() -> None:
    bad, empty, good = {"skipped_steps": 1.0}, {}, {"optimizer_steps": 1.0}
    alarms = alarms_of([])
    for step, metrics in enumerate([bad, empty] * 9 + [good] + [bad, empty] * 9):
        alarms.step(step, [], metrics)
    with pytest.raises(RunFailed, match="100% of the optimizer steps were left out, 10 steps in a row"):
        alarms.step(40, [], bad)


def test_selection_that_begins_is_no_collapse_but_a_pass_rate_that_falls_is() -> None:
    """A pool of mastered, learnable and impossible prompts, as hard for uniform draws all the time: 32 a step
    until the gate opens, then two a step beside a rule whose own picks are much harder or much easier."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pool = rng.choice([0.0, 0.1, 0.5, 0.95], p=[0.4, 0.2, 0.2, 0.2], size=1000)
        said: list[str] = []
        alarms = alarms_of(said)
        for step in range(1, 301):
            drawn = pool[rng.integers(len(pool), size=32 if step <= 10 else 2)]
            metrics = {
                "accuracy": float(drawn.mean()) if step <= 10 else 0.01,
                "uniform/groups": len(drawn),
                "uniform/accuracy": float(rng.binomial(8, drawn).mean() / 8),
            }
            alarms.step(step, [], metrics)
        assert said == [], seed
        forgotten = {"uniform/groups": 2, "uniform/accuracy": 0.0}
        assert run_on(alarms, forgotten, 80, first=301) is not None
        assert "pass rate of uniformly drawn prompts" in said[0]


def test_the_end_names_rollouts_and_checkpoint_and_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (0, 10, 20):
        (tmp_path / "checkpoints" / step_name(step)).mkdir(parents=True)
    overrides = ["guards.truncated.end=4", "policy={type: pretrained, model: m}", "data.grade=null"]
    alarms = Alarms(print, load_recipe(QUICKSTART, overrides), tmp_path)
    fine, cut = group(judged(True, False), "b"), group(judged(False, False), "a", reason="length")
    for step in (12, 13, 14):
        alarms.step(step, [fine, cut], {"truncated_share": 1.0})
    with pytest.raises(RunFailed) as caught:
        alarms.step(15, [cut], {"truncated_share": 1.0})
    assert report_failure(caught.value, None) == FAILED == 1, "the input was not bad"
    text = capsys.readouterr().err
    assert text.startswith(
        "error: step 15: 100% of the completions were cut off, 4 steps in a row "
        "(guards.truncated: limit 0.95, end 4)"
    )
    assert f"{tmp_path}/rollouts/step_000012.parquet" in text
    assert (
        "prompt_key a, sample_index 0: wrong, cut off after 3 tokens; ends 'thinking about a\\nanswer 0'"
        in text
    )
    assert "prompt_key b" not in text, "it was not cut off"
    assert "rollout.max_new_tokens" in text
    sound = tmp_path / "checkpoints" / "step_000010"
    assert f"safe: {sound}" in text
    assert f"depo train {tmp_path}/recipe.yaml policy.model={sound}/policy KEY=VALUE" in text
    assert (
        f"go on from step_000020: depo train --resume --run-dir {tmp_path} (with guards.truncated.end=null"
        in text
    )


def test_the_cause_is_listed_and_the_safe_checkpoint_is_from_before_it(tmp_path: Path) -> None:
    """One update ruins the policy; all that follows are wrong answers, of which there is nothing to learn."""
    for step in (4, 5, 6):
        (tmp_path / "checkpoints" / step_name(step)).mkdir(parents=True)
    alarms = Alarms(print, RECIPE, tmp_path)
    alarms.step(5, [], {"policy_kl": 2.5})
    for step in range(6, 25):
        alarms.step(step, [], {"uninformative_share": 1.0})
    with pytest.raises(RunFailed) as caught:
        alarms.step(25, [], {"uninformative_share": 1.0})
    assert "at the same time: one update moved the policy by 2.5 nats a token" in str(caught.value)
    assert f"safe: {tmp_path}/checkpoints/step_000004" in str(caught.value)


def test_of_two_that_end_a_run_the_cause_is_the_headline() -> None:
    alarms = alarms_of([])
    cut_and_wrong = {"uninformative_share": 1.0, "truncated_share": 1.0}
    assert run_on(alarms, cut_and_wrong, 19) is None
    with pytest.raises(
        RunFailed, match=r"(?s)^step 20: 100% of the completions were cut off.*guards\.no_signal"
    ):
        alarms.step(20, [], cut_and_wrong)


def test_the_checkpoint_before_the_trouble_is_kept(tmp_path: Path) -> None:
    alarms = alarms_of([])
    for step in range(1, 12):
        alarms.step(step, [], {"truncated_share": float(step >= 6)})
        (tmp_path / step_name(step)).mkdir()
        prune(tmp_path, 2, alarms.sound_until())
    assert sorted(path.name for path in tmp_path.iterdir()) == [step_name(step) for step in (5, 10, 11)]


def test_a_reward_that_judges_nothing_is_told_at_once_with_its_reason() -> None:
    said: list[str] = []
    alarms = alarms_of(said)
    groups = [group(BROKEN)]
    alarms.step(1, groups, {"unscorable_share": 1.0})
    assert said[0].startswith(
        "warning: step 1: 100% of the rollouts got no verdict and teach nothing; most often: "
        "KeyError: 'answer' (3 of 4) (guards.unscorable, 1 step)."
    )
    for step in (2, 3, 4):
        alarms.step(step, groups, {"unscorable_share": 1.0})
    with pytest.raises(RunFailed, match=r"no verdict \(KeyError: 'answer'\)"):
        alarms.step(5, groups, {"unscorable_share": 1.0})


def test_an_outage_that_passes_ends_nothing() -> None:
    alarms = alarms_of([])
    for step in range(1, 30):
        alarms.step(step, [], {"unscorable_share": float(step % 5 > 0)})


def test_without_a_verdict_nothing_is_called_wrong_or_without_variance() -> None:
    clock = Clock()
    with clock.phase("verify"):
        selector = selector_of(type="uniform")
    groups = [group(BROKEN), group([Score(1.0, True), *BROKEN[1:]])]
    metrics = step_metrics(1, groups[:1], [], selector, Ledger(4), clock)
    assert math.isnan(metrics["accuracy"])
    assert math.isnan(metrics["zero_variance_share"])
    assert metrics["uniform/groups"] == 0
    metrics = step_metrics(1, groups, [], selector, Ledger(4), clock)
    assert metrics["accuracy"] == 1.0
    assert math.isnan(metrics["zero_variance_share"])
    assert metrics["unscorable_share"] == 7 / 8


def test_the_pools_pass_rate_is_that_of_uniform_draws_alone() -> None:
    clock = Clock()
    with clock.phase("verify"):
        selector = selector_of(type="uniform")
    groups = [
        group(judged(True, False, False, False), "a"),
        group([*judged(True, True), *BROKEN[:2]], "b"),
        group(judged(False, False, False, False), "c", uniform=False),
    ]
    metrics = step_metrics(1, groups, [], selector, Ledger(4), clock)
    assert metrics["uniform/groups"] == 2
    assert metrics["uniform/accuracy"] == (1 / 4 + 1) / 2


def test_a_run_is_warned_before_it_ends() -> None:
    with pytest.raises(ValueError, match="end 2 must be at least warn 3"):
        alarms_of([], truncated={"end": 2})


def test_what_two_guards_say_of_one_figure_is_said_once(tmp_path: Path) -> None:
    alarms = Alarms(print, RECIPE, tmp_path)
    for step in range(1, 5):
        alarms.step(step, [], {"unscorable_share": 1.0})
    with pytest.raises(RunFailed) as caught:
        alarms.step(5, [], {"unscorable_share": 1.0})
    assert "got no verdict" in str(caught.value)
    assert "at the same time" not in str(caught.value)
