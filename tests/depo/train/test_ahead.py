"""Rollouts ahead of their update: the real loop, with stand-ins for engine and learner (`simulated_run`) that
take some milliseconds."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_run import Engine, LongTail, rows_of, simulated_recipe, simulated_run
from tiny_run import metrics_of

from depo.files import latest_checkpoint, read_json
from depo.loop import train
from depo.selection import PromptPool
from depo.simulate.clock import SkippingTime
from depo.train.state import Run

pytestmark = pytest.mark.timeout(120)

UNIFORM = {"type": "uniform", "refill": False}
SIDES = ("engine", "learner")
FIRM = {"no_signal": None, "truncated": None}
STORED = Path(__file__).with_name("in_turn_metrics.jsonl")


def in_turn(directory: Path) -> Run:
    """Chosen prompts, refills, pilots, and an evaluation in the middle."""
    selection = {"type": "thompson", "refill": True, "pilot": 2, "min_window": 0, "window": 40, "audit": 0.25}
    blocks = {"selection": selection, "evaluation": {"every": 3}, "checkpoint": {"every": 0}}
    return simulated_run(simulated_recipe(steps=10, **blocks), directory)


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rollouts"]


def checked_accounts(run: Run) -> dict[str, int]:
    """Outcomes of all rollouts, once they are seen to add up and to be what was written."""
    told = run.ledger.summary()["rollouts"]
    assert sum(told["by_outcome"].values()) == sum(told["by_origin"].values()) == told["generated"]
    written = rows_of(run)["outcome"].value_counts().to_dict()
    outcomes = {name: count for name, count in told["by_outcome"].items() if count}
    assert written == {name: count for name, count in outcomes.items() if name not in ("cancelled", "lost")}
    return outcomes


def test_in_turn_the_metrics_are_those_from_before_there_was_an_ahead(tmp_path: Path) -> None:
    """Stored figures of the loop as it was then, on the same stand-ins."""
    train(in_turn(tmp_path))
    assert metrics_of(tmp_path) == [json.loads(line) for line in STORED.read_text().splitlines()]


@pytest.mark.parametrize(
    ("ahead", "engine", "learner"),
    [
        (1, 0.012, 0.003),
        (1, 0.006, 0.006),
        (1, 0.003, 0.012),
        (3, 0.012, 0.003),
        (3, 0.003, 0.012),
        (2, 0, 0),
    ],
)
@pytest.mark.parametrize("engine_class", [Engine, LongTail])
def test_slower_equal_or_faster_no_side_waits_for_ever_and_no_rollout_is_older_than_allowed(
    tmp_path: Path, ahead: int, engine: float, learner: float, engine_class: type[Engine]
) -> None:
    """With refills, evaluations and checkpoints in the middle."""
    recipe = simulated_recipe(ahead, steps=9, evaluation={"every": 4}, checkpoint={"every": 4}, guards=FIRM)
    run = simulated_run(recipe, tmp_path, engine, learner, engine_class=engine_class)
    train(run)
    assert not threads_left()
    assert [row["step"] for row in metrics_of(tmp_path)] == list(range(1, 10))
    checked_accounts(run)
    rows = rows_of(run)
    lags = rows["step"] - 1 - rows["policy_version"]
    assert lags.between(0, ahead).all()
    for row in metrics_of(tmp_path):
        of_step = lags[rows["step"] == row["step"]]
        assert row["overlap/lag_mean"] == pytest.approx(of_step.mean())
        assert row["overlap/lag_max"] == of_step.max()
        assert row["overlap/stale_share"] == 0
        assert 0 <= row["overlap/learner_idle"] <= 1
        assert 0 <= row["overlap/engine_idle"] <= 1
    # Never more than one step in training and `ahead` more in flight.
    begun = updated = 0
    for event, *what in run.engine.events:
        begun += event == "begin"
        updated += event == "updated"
        assert begun - updated <= ahead + 1
        if event == "evaluate":
            assert what == [updated], "the policy that is evaluated is the newest"
    assert begun == updated == 9
    # The evaluation after training asks the engine: it gets the final policy.
    run.evaluator.run()
    assert run.engine.events[-1] == ("evaluate", 9)


def test_several_steps_are_in_the_engines_at_once_and_are_trained_on_in_order(tmp_path: Path) -> None:
    """Three steps ahead, on a clock on which the driver takes next to no time. In the beginning all three are
    generated together."""
    blocks = {"selection": UNIFORM, "guards": FIRM, "checkpoint": {"every": 0}}
    recipe = simulated_recipe(3, steps=30, **blocks)
    run = simulated_run(recipe, tmp_path, 1.0, 1.0, engine_class=LongTail, time=SkippingTime())
    finish, ended = run.engine.dispatcher.schedule.finish, []
    run.engine.dispatcher.schedule.finish = lambda engine, rollout: (
        ended.append(rollout.seed) or finish(engine, rollout)
    )
    train(run)
    events = [event for event, *_ in run.engine.events]
    assert events[: events.index("update")].count("generate") >= 3
    assert [event for event in run.engine.events if event[0] == "update"] == [
        ("update", step) for step in range(1, 31)
    ]
    rows = rows_of(run)
    step_of = dict(zip(rows["seed"], rows["step"], strict=True))
    steps = [step_of[seed] for seed in ended]
    last = [max(i for i, one in enumerate(steps) if one == step) for step in range(1, 31)]
    assert last != sorted(last), "some step ended before one that was begun earlier"
    lags = rows["step"] - 1 - rows["policy_version"]
    assert lags.between(0, 3).all()
    assert checked_accounts(run)


def test_with_equal_times_one_step_ahead_makes_half_as_many_steps_again_and_more(tmp_path: Path) -> None:
    seconds = {}
    for ahead in (0, 1):
        blocks = {"selection": UNIFORM, "tracking": {"rollouts": False}, "checkpoint": {"every": 0}}
        recipe, clock = simulated_recipe(ahead, steps=10, **blocks), SkippingTime()
        run = simulated_run(recipe, tmp_path / str(ahead), 1.0, 1.0, time=clock)
        logged, times = run.log_step, []
        run.log_step = lambda *args, logged=logged, times=times, clock=clock: (
            times.append(clock.perf_counter()) or logged(*args)
        )
        train(run)
        seconds[ahead] = np.median(np.diff(times))
    assert seconds[0] / seconds[1] >= 1.8


def test_the_idle_side_is_told(tmp_path: Path) -> None:
    """One side takes 10 s a step, the other half a second."""
    idle = {}
    for name, times in {"engine": (0.5, 10.0), "learner": (10.0, 0.5)}.items():
        recipe = simulated_recipe(1, steps=7, selection=UNIFORM, checkpoint={"every": 0})
        train(simulated_run(recipe, tmp_path / name, *times, time=SkippingTime()))
        rows = metrics_of(tmp_path / name)[1:]
        idle[name] = {side: np.median([row[f"overlap/{side}_idle"] for row in rows]) for side in SIDES}
    assert idle["engine"]["engine"] > 0.8 > 0.2 > idle["engine"]["learner"]
    assert idle["learner"]["learner"] > 0.8 > 0.2 > idle["learner"]["engine"]


def test_picks_that_ask_the_learner_are_made_before_its_update(tmp_path: Path) -> None:
    """Else generation would wait for every update."""
    selection = {"type": "thompson", "refill": False, "min_window": 0, "prefill_probe": True}
    recipe = simulated_recipe(1, steps=5, selection=selection, estimator={"type": "hybrid", "text": "none"})
    run = simulated_run(recipe, tmp_path, 0.005, 0.04)
    train(run)
    events = [event for event, *_ in run.engine.events]
    updates = [i for i, event in enumerate(events) if event == "update"]
    for begun in updates[:-1]:
        during = events[begun : events.index("updated", begun)]
        before = events[:begun]
        assert before.count("begin") == before.count("update") + 2
        assert before.count("probe") == before.count("begin")
        assert (before + during).count("generate") == before.count("begin"), "the next step is generated"


def test_pilots_and_beliefs_as_baseline_work_ahead(tmp_path: Path) -> None:
    selection = {"type": "thompson", "refill": True, "pilot": 2, "min_window": 4, "window": 40}
    recipe = simulated_recipe(1, selection=selection, learner={"baseline": {"type": "belief"}}, guards=FIRM)
    run = simulated_run(recipe, tmp_path, 0.003, 0.003)
    train(run)
    assert checked_accounts(run)["trained"]
    sizes = rows_of(run).groupby(["step", "prompt_key"]).size()
    assert set(sizes) == {2, 4}


# ---------------------------------------------------------------- stale groups


class Late(Engine):
    """Stands in for an engine that serves an older policy than it was given, now and then."""

    def says(self, version: int) -> int:
        return version - 2 if version == 3 else version


def test_a_stale_group_is_counted_observed_and_tried_again_first(tmp_path: Path) -> None:
    blocks = {"selection": UNIFORM, "guards": FIRM, "checkpoint": {"every": 0}}
    recipe = simulated_recipe(1, steps=8, **blocks)
    run = simulated_run(recipe, tmp_path, 0.002, 0.002, engine_class=Late)
    observe, observed = run.estimator.observe, []
    run.estimator.observe = lambda those, context: observed.append(those) or observe(those, context)
    train(run)
    rows = rows_of(run)
    old = rows[rows["step"] - 1 - rows["policy_version"] > 1]
    assert len(old)
    assert (old["outcome"] == "stale").all()
    assert not (rows.drop(old.index)["outcome"] == "stale").any()
    assert checked_accounts(run)["stale"] == len(old) == 16
    (step,) = old["step"].unique()
    assert metrics_of(tmp_path)[step - 1]["overlap/stale_share"] == 1
    assert run.learner.trained[step - 1] == []
    keys = old["prompt_key"].unique()
    # The prompts of step + 1 were picked before; those of step + 2 are the stale ones again, in their order.
    assert rows[rows["step"] == step + 2]["prompt_key"].unique().tolist() == keys.tolist()
    counts = rows.groupby("prompt_key").size()
    assert (counts[keys] == 8).all()
    assert (counts.drop(keys) == 4).all()
    assert all(run.selector.visits.count(key) == 2 for key in keys)
    assert [(one.key, one.trials) for one in observed[step - 1]] == [(key, 4) for key in keys]


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_died_with_an_engine_is_counted_beside_what_was_made_in_its_place(
    tmp_path: Path, ahead: int
) -> None:
    class Dies(Engine):
        def generate(self, requests, sampling, oldest):
            if self.version == 2:
                run.lost.extend([(requests[0].seeds[0], 4), (12345, 1), (requests[1].seeds[0], 3)])
            return super().generate(requests, sampling, oldest)

    blocks = {"selection": UNIFORM, "guards": FIRM, "checkpoint": {"every": 0}, "steps": 5}
    run = simulated_run(simulated_recipe(ahead, **blocks), tmp_path, engine_class=Dies)
    train(run)
    assert checked_accounts(run)["lost"] == 2
    assert run.ledger.generated == 5 * 16 + 2
    assert run.ledger.summary()["tokens"]["by_outcome"]["lost"] == 7


# ---------------------------------------------------------------- ends and checkpoints


class Killed(Exception):
    pass


def kill_after(run: Run, method: str, step: int) -> None:
    """The run ends as by a kill once this method of its is done with this step."""
    do = getattr(run, method)

    def done(at: int, *arguments: Any) -> None:
        do(at, *arguments)
        if at == step:
            raise Killed

    setattr(run, method, done)


@pytest.mark.parametrize("engine_class", [Engine, LongTail])
@pytest.mark.parametrize(
    ("ahead", "refill", "killed_once"), [(1, True, "saved"), (3, False, "logged"), (3, True, "logged")]
)
def test_a_checkpoint_with_steps_in_flight_loses_nothing(
    tmp_path: Path, ahead: int, refill: bool, killed_once: str, engine_class: type[Engine]
) -> None:
    """No prompt is skipped and none comes twice: the uniform order, over two kills, is the pool's. They come
    when a checkpoint is saved, or when the step after it is logged, which is then done again."""
    recipe = simulated_recipe(ahead, steps=7, selection={"type": "uniform", "refill": refill}, guards=FIRM)
    for killed_after in (2, 4):
        run = simulated_run(recipe, tmp_path, 0.004, 0.004, pool=400, engine_class=engine_class)
        if killed_once == "saved":
            kill_after(run, "save_checkpoint", killed_after)
        else:
            kill_after(run, "log_step", killed_after + 1)
        with pytest.raises(Killed):
            train(run)
        state = read_json(latest_checkpoint(tmp_path / "checkpoints") / "run.json")
        in_flight = [step["context"][1] for step in state["selector"]["open_steps"]]
        assert in_flight[:1] == [killed_after + 1]
        assert 1 <= len(in_flight) <= ahead
    run = simulated_run(recipe, tmp_path, 0.004, 0.004, pool=400, engine_class=engine_class)
    before = {step.context.step: list(step.picks) for step in run.selector.open_steps}
    train(run)
    assert run.selector.open_steps == []
    rows = rows_of(run)
    for step, picks in before.items():
        keys = rows[rows["step"] == step]["prompt_key"].unique().tolist()
        assert keys[: len(picks)] == [pick.prompt.key for pick in picks]
    groups = rows.groupby(["step", "prompt_key"]).size()
    assert (groups == 4).all()
    keys = groups.index.get_level_values("prompt_key")
    assert keys.is_unique
    order = [prompt.key for prompt in PromptPool(run.pool.prompts, recipe.seed).next(len(keys))]
    assert set(keys) == set(order)
    if not refill:
        assert rows["prompt_key"].unique().tolist() == order
    assert checked_accounts(run)
    assert run.ledger.generated == len(rows)
    assert (rows["step"] - 1 - rows["policy_version"]).between(0, ahead).all()
    assert [row["generated/rollouts"] for row in metrics_of(tmp_path)] == list(
        rows.groupby("step").size().cumsum()
    )


def test_a_limit_of_rollouts_ends_the_run_where_it_does_in_turn(tmp_path: Path) -> None:
    generated = {}
    for ahead in (0, 2):
        blocks = {"selection": UNIFORM, "checkpoint": {"every": 0}}
        recipe = simulated_recipe(ahead, steps=50, max_rollouts=80, **blocks)
        run = simulated_run(recipe, tmp_path / str(ahead), 0.002, 0.004)
        train(run)
        generated[ahead] = run.step, run.ledger.generated
        assert "cancelled" not in checked_accounts(run)
    assert generated[0] == generated[2] == (5, 80)


def test_early_stopping_counts_what_it_leaves_as_cancelled_and_keeps_its_picks(tmp_path: Path) -> None:
    evaluation = {"every": 1, "best": "all", "early_stopping": {"patience": 3}}

    def run_with(**blocks: Any) -> Run:
        blocks |= {"selection": UNIFORM, "guards": FIRM, "checkpoint": {"every": 0}}
        recipe = simulated_recipe(2, steps=14, **blocks)
        return simulated_run(recipe, tmp_path, 0.001, 0.02, pool=400)

    run = run_with(evaluation=evaluation)
    train(run)
    assert run.step < 10
    left = [step.context.step for step in run.selector.open_steps]
    assert left == [run.step + 1, run.step + 2]
    assert checked_accounts(run)["cancelled"] == 2 * 16
    picks = [pick.prompt.key for step in run.selector.open_steps for pick in step.picks]

    extended = run_with(evaluation={"every": 0})
    assert extended.ledger.rollouts == run.ledger.rollouts
    train(extended)
    assert extended.step == 14
    rows = rows_of(extended)
    later = rows[rows["step"].isin(left)]["prompt_key"].unique().tolist()
    assert later == picks
    assert checked_accounts(extended)["cancelled"] == 2 * 16
    assert rows.groupby("prompt_key").size().eq(4).all()


@pytest.mark.parametrize("side", SIDES)
def test_an_error_on_either_side_ends_the_run_with_it(tmp_path: Path, side: str) -> None:
    class Breaks(Engine):
        def generate(self, requests, sampling, oldest):
            if side == "engine" and self.version == 2:
                raise OSError("the engine broke")
            return super().generate(requests, sampling, oldest)

    recipe = simulated_recipe(1, selection=UNIFORM, guards=FIRM, checkpoint={"every": 0})
    run = simulated_run(recipe, tmp_path, 0.002, 0.002, engine_class=Breaks)
    if side == "learner":
        update = run.learner.begin_update

        def begin_update(batch):
            if run.learner.updates == 2:
                raise OSError("the learner broke")
            return update(batch)

        run.learner.begin_update = begin_update
    with pytest.raises(OSError, match=f"the {side} broke"):
        train(run)
    assert run.step == (3 if side == "engine" else 2)
    assert not threads_left()
