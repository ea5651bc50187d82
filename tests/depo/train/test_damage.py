"""What a run makes of damage: real runs of a tiny policy on real Ray, their files broken by hand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import run_depo

from depo.recipe.checks import directory_problem
from depo.trackers.tracker import read_metrics

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_damaged_run_goes_on_from_what_is_sound_and_names_what_is_not(
    finished: Path, workdir: Path
) -> None:
    run = workdir / "run"
    shutil.copytree(finished, run)
    os.truncate(run / "checkpoints" / "step_000006" / "learner" / "weights.safetensors", 100)
    (run / "rollouts" / "step_000002.parquet").unlink()
    log = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([log[0], "garbage\n", *log[2:]]))
    with (workdir / "sums.jsonl").open("a") as file:
        file.write('{"question": "1+1=", "answer": "3"}\n')

    done = run_depo("train", "--run-dir", "run", "--resume", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    for said in (
        "step_000006 is damaged (learner/weights.safetensors has 100 bytes",
        "rollouts: 1 of 4 steps are missing (2)",
        "metrics.jsonl: dropped 1 lines",
        "metrics.jsonl: 1 of 4 steps are missing (2)",
        "sums.jsonl has changed since the run began",
    ):
        assert any(said in line for line in warnings), (said, warnings)
    # Steps 5 and 6 are done again, and come to the same policy.
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 3, 4, 5, 6]
    ours, theirs = (load_file(at / "policy" / "model.safetensors") for at in (run, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_where_every_checkpoint_is_damaged_it_is_said_what_is_left_and_what_to_type(
    finished: Path, workdir: Path
) -> None:
    run = workdir / "run"
    shutil.copytree(finished, run)
    for checkpoint in (run / "checkpoints").glob("step_*"):
        os.truncate(checkpoint / "learner" / "weights.safetensors", 100)
    resume = ("train", "--run-dir", "run", "--resume")
    last = run_depo(*resume, cwd=workdir).stderr.splitlines()[-1]
    assert last.endswith(
        "or begin anew (intact: run/policy (the final policy), run/metrics.jsonl): "
        "depo train run/recipe.yaml policy.model=run/policy"
    )
    flip_a_byte(run / "policy" / "model.safetensors")
    (run / "metrics.jsonl").open("a").write("garbage\n")
    last = run_depo(*resume, cwd=workdir).stderr.splitlines()[-1]
    assert last.endswith("or begin anew: depo train run/recipe.yaml")


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


@pytest.mark.parametrize("place", ["policy", "checkpoints/step_000006/policy"])
def test_a_policy_that_is_not_what_the_run_wrote_is_neither_evaluated_nor_trained(
    place: str, finished: Path, workdir: Path
) -> None:
    """Flipped bits leave weights that load, and another policy."""
    shutil.copytree(finished, workdir / "run")
    policy = workdir / "run" / place
    weights = policy / "model.safetensors"
    assert directory_problem(policy) is None
    flip_a_byte(weights)
    for command in (["eval", str(policy)], ["train", "tiny.yaml", f"policy.model={policy}"]):
        done = run_depo(*command, cwd=workdir)
        assert done.returncode == 2
        assert f"{policy} is damaged: " in done.stderr
        assert "model.safetensors has changed since it was written" in done.stderr


def test_a_run_that_was_refused_leaves_nothing_in_the_way(workdir: Path) -> None:
    refused = run_depo("train", "tiny.yaml", "data.heldout=500", "--run-dir", "run", cwd=workdir)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: data.heldout"), refused.stderr
    assert not (workdir / "run").exists()


@pytest.mark.slow
def test_a_learner_that_hangs_is_waited_for_aloud_and_not_for_ever(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.rollout.calls.HEARTBEAT", 1.0)
    stopped: list[psutil.Process] = []

    def stop_the_learner() -> None:
        metrics = workdir / "run" / "metrics.jsonl"
        while not metrics.exists():
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if any("LearnerActor" in word for word in process.cmdline()):
                process.send_signal(signal.SIGSTOP)
                stopped.append(process)

    watcher = threading.Thread(target=stop_the_learner, daemon=True)
    watcher.start()
    try:
        done = run_depo(
            "train", "tiny.yaml", "steps=500", "resources.call_timeout=15", "--run-dir", "run", cwd=workdir
        )
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "waiting for the learner: " in done.stdout
    error, last = done.stderr.splitlines()
    assert error.startswith("error: the learner: no answer to ")
    assert "raise resources.call_timeout" in error
    what, _, command = last.partition(" with: ")
    assert re.fullmatch(r"what the run has saved is safe; continue from step \d+", what)
    assert command == "depo train --resume --run-dir run"
