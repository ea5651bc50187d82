"""Simulated runs against closed forms, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_run import simulated_recipe, simulated_run
from tiny_run import metrics_of

from depo.cli import main
from depo.loop import train
from depo.selection import PromptPool
from depo.simulate.clock import SkippingTime
from depo.simulate.command import fitted
from depo.simulate.engines import EngineSpeed, LearnerSpeed
from depo.simulate.simulation import simulate, simulated
from depo.simulate.world import Lengths, PassRates, World
from depo.train.metrics import WallTime

UNIFORM = {"type": "uniform", "refill": False}
MIXED = PassRates(0.0, 0.0)
ALL_ALIKE = 1000
LEARNER = LearnerSpeed(trained=1600, prefilled=1e6, sync=3)
CLOSE = 0.01
"""The driver's own milliseconds, and groups that are all right or all wrong by chance, count."""


def result(
    directory: Path,
    engines: EngineSpeed,
    learner: LearnerSpeed,
    ahead: int = 0,
    steps: int = 8,
) -> dict[str, Any]:
    """4 groups of 16; completions of 1000 tokens each."""
    recipe = simulated_recipe(
        steps=steps,
        selection=UNIFORM,
        batch={"prompts": 4, "group_size": 16},
        tracking={"rollouts": False},
        learner={"zero_variance": "include"},
    )
    world = World(64, 10, Lengths(ALL_ALIKE, ALL_ALIKE), MIXED, seed=1)
    recipe = simulated(recipe, steps, engines.engines, ahead)
    return simulate(recipe, PromptPool(world.prompts, 1), world, engines, learner, directory)


@pytest.mark.parametrize(("engines", "slots"), [(1, 10), (1, 64), (3, 10), (64, 10), (512, 10)])
def test_a_step_takes_the_rounds_of_the_fullest_engine_then_the_update_then_the_sync(
    tmp_path: Path, engines: int, slots: int
) -> None:
    told = result(tmp_path, EngineSpeed(engines, slots, sequence=50), LEARNER)
    generate = math.ceil(math.ceil(64 / engines) / slots) * ALL_ALIKE / 50
    update = 64 * ALL_ALIKE / 1600
    assert told["phases"]["generate"] == pytest.approx(generate, rel=CLOSE)
    assert told["phases"]["update"] == pytest.approx(update, rel=CLOSE)
    assert told["seconds"] == pytest.approx(generate + update + 6, rel=CLOSE)
    assert told["learner_idle"] == pytest.approx(1 - (update + 3) / told["seconds"], abs=CLOSE)
    if engines in (1, 64):  # all of them have as much to do
        assert told["engine_idle"] == pytest.approx(1 - generate / told["seconds"], abs=CLOSE)
    assert (told["rollouts"], told["tokens"]) == (64, 64 * ALL_ALIKE)
    assert 0 < told["driver_seconds"] < 1
    assert told["driver_share"] == pytest.approx(told["driver_seconds"] / told["seconds"])
    assert told["peak_memory"] > 2**20


@pytest.mark.parametrize(
    ("generate", "ahead", "seconds"), [(40, 1, 40), (40, 2, 40), (20, 1, 40), (120, 1, 120)]
)
def test_ahead_a_step_takes_the_longer_of_generation_and_update(
    tmp_path: Path, generate: float, ahead: int, seconds: float
) -> None:
    """Both 40 s: half of the 80 s in turn."""
    speed = EngineSpeed(1, 64, sequence=ALL_ALIKE / generate)
    told = result(tmp_path, speed, LearnerSpeed(1600, 1e6, 0), ahead, steps=12)
    assert told["seconds"] == pytest.approx(seconds, rel=CLOSE)
    assert told["steps_per_hour"] == pytest.approx(3600 / seconds, rel=CLOSE)
    assert told["learner_idle"] == pytest.approx(1 - 40 / seconds, abs=0.02)


def test_ahead_of_a_long_tail_the_coming_steps_fill_the_engines(tmp_path: Path) -> None:
    """p99 = 10 × median, an update about as long as a generation: nearly twice the steps, at most twice."""
    seconds = {}
    for ahead in (0, 4):
        recipe = simulated_recipe(
            steps=24,
            selection=UNIFORM,
            batch={"prompts": 8, "group_size": 16},
            tracking={"rollouts": False},
            learner={"zero_variance": "include"},
            rollout={"engine": "vllm", "max_new_tokens": 4096},
        )
        world = World(512, 10, Lengths(400, 4000), MIXED, seed=1)
        learner = LearnerSpeed(trained=1150, prefilled=1e6, sync=0)
        speed = EngineSpeed(4, 32, sequence=60, engine=4000)
        pool = PromptPool(world.prompts, 1)
        (directory := tmp_path / str(ahead)).mkdir()
        told = simulate(simulated(recipe, 24, 4, ahead), pool, world, speed, learner, directory)
        seconds[ahead] = told["seconds"]
    assert seconds[0] / seconds[4] >= 1.85


def test_no_dashboard_hears_of_a_simulated_run() -> None:
    recipe = simulated_recipe(tracking={"trackers": [{"name": "wandb"}, {"name": "tensorboard"}]})
    assert len(recipe.tracking.trackers) == 2
    assert simulated(recipe, 4, engines=1, ahead=0).tracking.trackers == []


def test_on_the_real_clock_the_same_loop_makes_the_same_steps(tmp_path: Path) -> None:
    rows = {}
    for name in ("real", "skipping"):
        recipe = simulated_recipe(steps=4, checkpoint={"every": 0})
        time = WallTime() if name == "real" else SkippingTime()
        run = simulated_run(recipe, tmp_path / name, 0.01, 0.01, time=time)
        train(run)
        rows[name] = metrics_of(tmp_path / name)
    assert rows["real"] == rows["skipping"]


def test_an_engine_that_is_full_gives_each_sequence_less() -> None:
    """n sequences of T tokens at once: T · (1 / r + n / c) seconds, then the rest alone."""
    speed = EngineSpeed(1, 4, sequence=10, engine=100)
    assert speed.seconds([50] * 4) == pytest.approx(50 * (1 / 10 + 4 / 100))
    assert speed.seconds([50, 50, 50, 150]) == pytest.approx(50 * (0.1 + 0.04) + 100 * (0.1 + 0.01))
    assert speed.seconds([50, 50, 50, 50, 30]) == pytest.approx(50 * 0.14 + 30 * 0.11)
    assert speed.seconds([]) == 0


def test_lengths_and_pass_rates_are_those_asked_for() -> None:
    world = World(4000, 5, Lengths(200, 2000), PassRates(0.3, 0.2), seed=3)
    answers = [world.answer(one.key, seed, 0, 10**6) for seed, one in enumerate(world.prompts * 3)]
    lengths = [len(one) for one in answers]
    assert np.median(lengths) == pytest.approx(200, rel=0.05)
    assert np.percentile(lengths, 99) == pytest.approx(2000, rel=0.15)
    rates = [world.rates.at(place, 0) for place in world.place_P]
    assert np.mean(np.equal(rates, 0)) == pytest.approx(0.3, abs=0.03)
    assert np.mean(np.equal(rates, 1)) == pytest.approx(0.2, abs=0.03)
    assert np.mean([one[0] for one in answers]) == pytest.approx(np.mean(rates), abs=0.03)
    assert max(len(world.answer("7", seed, 0, 90)) for seed in range(50)) == 90
    risen = PassRates(0.3, 0.2, learned=0.1)
    assert risen.at(0.55, 20) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert (risen.at(0.2, 99), risen.at(0.9, 0)) == (0, 1)


# ---------------------------------------------------------------- the command

RECIPE = """\
name: sized
steps: 5
policy: {type: pretrained, model: organisation/model}
data: {train: organisation/problems}
batch: {prompts: 4, group_size: 4}
rollout: {engine: vllm, max_new_tokens: 512, vllm: {workers: 2}}
estimator: {type: mopps}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("sized.yaml").write_text(RECIPE)
    return "sized.yaml"


def test_the_command_prints_both_tables_and_writes_their_numbers(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--engines", "1,4", "--ahead", "0,1", "--pool", "50", "--steps", "4", "--json", "out.json"]
    assert main(["simulate", recipe, *sizes, "batch.prompts=5"]) == 0
    printed = capsys.readouterr().out
    assert "sized: 5 prompts x 4 a step, from 50 prompts" in printed
    told = json.loads(Path("out.json").read_text())
    assert [one["engines"] for one in told["engines"]] == [1, 4]
    assert [(one["engines"], one["max_off_policy_steps"]) for one in told["ahead"]] == [(2, 0), (2, 1)]
    assert told["settings"]["median"] == 800
    for one in told["engines"]:
        assert f"{one['seconds']:.1f}" in printed
    for one in told["ahead"]:
        assert f"{one['steps_per_hour']:.1f}" in printed
    assert sorted(Path().iterdir()) == [Path("out.json"), Path("sized.yaml")], "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engines", "1,x"], "--engines 1,x: expected whole numbers of at least 1"),
        (["--engines", "0"], "--engines 0: expected whole numbers of at least 1"),
        (["--ahead", "-1"], "--ahead"),
        (["--steps", "1"], "--steps 1: expected at least 2"),
        (["--sync", "-2"], "--sync -2: expected a number of at least 0"),
        (["--learner-speed", "0"], "--learner-speed 0: expected a number above 0"),
        (["--p99-tokens", "10"], "--p99-tokens 10: expected at least --median-tokens, 800"),
        (["--never", "0.8", "--always", "0.3"], "add up to 1 at most"),
        (["--fit", "nowhere"], "--fit nowhere: no rollouts/step_*.parquet in it"),
        (["batch.prompts=many"], "batch.prompts"),
    ],
)
def test_bad_input_is_one_line(
    recipe: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["simulate", recipe, *arguments])
    except SystemExit as ended:  # argparse
        status = ended.code
    told = capsys.readouterr().err
    assert status == 2
    assert says in told
    assert len(told.strip().splitlines()) == 1


def test_lengths_and_shares_are_read_off_a_run(tmp_path: Path) -> None:
    """Of the stand-ins' prompts a quarter is never solved, a quarter always, and groups of 4 of the others
    are alike in one case of eight. All completions are one token."""
    recipe = simulated_recipe(
        steps=20, selection=UNIFORM, checkpoint={"every": 0}, guards={"no_signal": None}
    )
    train(simulated_run(recipe, tmp_path))
    lengths, rates = fitted(tmp_path, learned=0.5)
    assert (lengths.median, lengths.p99, rates.learned) == (1, 1, 0.5)
    expected = 1 / 4 + 1 / 2 * 1 / 16
    assert rates.never == pytest.approx(expected, abs=0.12)
    assert rates.always == pytest.approx(expected, abs=0.12)
