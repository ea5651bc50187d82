"""A learner of two processes in a run: real Ray, gloo on CPUs, a tiny policy. On GPUs this was never run."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import metrics_of, run_depo

from depo.errors import UserError
from depo.files import broken_seal, latest_checkpoint
from depo.recipe.schema import Recipe
from depo.train.assembly import check_cluster

TWO = "learner.ranks=2"


@pytest.mark.usefixtures("cluster")
def test_two_ranks_train_as_one_and_one_goes_on_from_their_checkpoint(finished: Path, workdir: Path) -> None:
    begun = run_depo("train", "tiny.yaml", TWO, "steps=2", "--run-dir", "run", cwd=workdir)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    more = ("learner.ranks=1", "steps=4", "--resume", "--run-dir", "run")
    done = run_depo("train", "tiny.yaml", *more, cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed on resume: learner.ranks 2 → 1" in done.stdout

    for ours, theirs in zip(metrics_of(workdir / "run"), metrics_of(finished)[:4], strict=True):
        for name in ("grad_norm", "entropy", "policy_kl", "routing/entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    ours, theirs = (
        load_file(run / "checkpoints" / "step_000004" / "policy" / "model.safetensors")
        for run in (workdir / "run", finished)
    )
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_rank_that_dies_ends_the_run_with_one_line_and_what_was_saved(workdir: Path) -> None:
    killed: list[int] = []

    def kill_a_rank() -> None:
        while not list((workdir / "run" / "checkpoints").glob("step_000002")):
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if not killed and any("ray::LearnerActor" in word for word in process.cmdline()):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)

    watcher = threading.Thread(target=kill_a_rank, daemon=True)
    watcher.start()
    started = time.monotonic()
    done = run_depo("train", "tiny.yaml", TWO, "steps=500", "--run-dir", "run", cwd=workdir)
    assert killed
    assert done.returncode == 1
    error, last = done.stderr.splitlines()
    assert re.fullmatch(r"error: rank \d of the learner died during '\w+': killed, or out of memory", error)
    assert re.match(r"what the run has saved is safe; continue from step \d+ with: ", last)
    assert time.monotonic() - started < 300
    saved = latest_checkpoint(workdir / "run" / "checkpoints")
    assert saved is not None
    assert broken_seal(saved) is None


# ---------------------------------------------------------------- refused before anything is loaded


def recipe(ranks: int, engine: str = "transformers", gpus: int | None = None, device: str = "auto") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "steps": 1,
            "policy": {"type": "pretrained", "model": "./none"},
            "data": {"train": "sums.jsonl"},
            "rollout": {"engine": engine},
            "learner": {"device": device, "ranks": ranks},
            "resources": {"learner_gpus": gpus},
        }
    )


@pytest.mark.parametrize(
    ("asked", "gpus", "says"),
    [
        (
            {"ranks": 5},
            0,
            "learner.ranks: 5 ranks need a CPU each, but the Ray cluster has 4; set .*=4 or less",
        ),
        ({"ranks": 5, "device": "cpu"}, 8, "5 ranks need a CPU each"),
        ({"ranks": 9}, 8, "9 ranks need a GPU each, but the Ray cluster has 8; set learner.ranks=8 or less"),
        ({"ranks": 2, "gpus": 0}, 8, "resources.learner_gpus: 0 lets the learner share one GPU"),
        ({"ranks": 8, "engine": "vllm"}, 8, "learner reserves 8 GPUs.* fewer learner.ranks"),
    ],
)
def test_more_ranks_than_places_are_refused(
    asked: dict, gpus: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: gpus)
    monkeypatch.setattr("depo.train.assembly.cpus_in_cluster", lambda: 4)
    with pytest.raises(UserError, match=says):
        check_cluster(recipe(**asked))


def test_what_finds_its_place_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: 8)
    for asked in ({"ranks": 8}, {"ranks": 7, "engine": "vllm"}, {"ranks": 1, "gpus": 0}):
        check_cluster(recipe(**asked))
