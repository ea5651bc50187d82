"""One arm is a run of its own process: it is skipped when finished and continued when killed.

The policy is a tiny one (a real language model takes minutes); processes, Ray, checkpoints are real.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import depo_command

from benchmarks.model.runs import Ended, Place, check_same_recipe, run_arms
from depo.errors import BAD_INPUT, DONE, UserError
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe
from depo.trackers.tracker import read_metrics


@pytest.fixture
def here(workdir, monkeypatch) -> Path:
    """The directory that the recipe's paths are relative to, with ``depo`` importable from there."""
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return workdir


def tiny(workdir: Path, *overrides: str) -> Recipe:
    return load_recipe(workdir / "tiny.yaml", overrides)


def run_arm(recipe: Recipe, place: Place) -> Ended:
    """One run alone."""
    ended: list[Ended] = []
    run_arms([(place, recipe)], 1, lambda place: None, lambda place, how: ended.append(how))
    (one,) = ended
    return one


@pytest.mark.slow
def test_a_killed_run_is_continued_and_a_finished_one_is_not_repeated(here) -> None:
    recipe, place = tiny(here, "checkpoint.every=1"), Place(here / "runs", 0, "hybrid")
    kill_after(place, here, checkpoint="step_000002")
    assert place.started
    assert not place.finished

    ended = run_arm(recipe, place)
    assert (ended.status, ended.ran) == (DONE, True), ended.last_lines
    assert "resuming after step" in place.log.read_text()
    assert [row["step"] for row in read_metrics(place.directory / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert not (place.directory / "checkpoints").exists()
    assert (place.directory / "policy" / "config.json").is_file()

    written = (place.directory / "metrics.jsonl").stat().st_mtime_ns
    again = run_arm(recipe, place)
    assert (again.status, again.ran) == (DONE, False)
    assert (place.directory / "metrics.jsonl").stat().st_mtime_ns == written


def kill_after(place: Place, cwd: Path, checkpoint: str, timeout: float = 300.0) -> None:
    """Start the run and kill its driver as soon as the checkpoint is there."""
    command = depo_command("train", "tiny.yaml", "checkpoint.every=1", "--run-dir", str(place.directory))
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + timeout
    try:
        while not (place.directory / "checkpoints" / checkpoint).is_dir():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until, "no checkpoint in time"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_run_that_fails_comes_back_with_its_last_lines(here) -> None:
    (here / "sums.jsonl").write_text('{"unknown": 1}\n')
    ended = run_arm(tiny(here), Place(here / "runs", 0, "grpo"))
    assert ended.status == BAD_INPUT
    assert any(line.startswith("error: data.train") for line in ended.last_lines)


def test_a_run_of_another_recipe_is_not_taken_for_this_one(here) -> None:
    place = Place(here / "runs", 0, "grpo")
    check_same_recipe(place, tiny(here))  # nothing there yet
    place.directory.mkdir(parents=True)
    (place.directory / "recipe.yaml").write_text((here / "tiny.yaml").read_text())
    check_same_recipe(place, tiny(here))
    with pytest.raises(UserError, match=r"grpo holds a run with another steps, learner; name another"):
        check_same_recipe(place, tiny(here, "steps=7", "learner.lr=1e-4"))
