"""What a run makes of damage: real runs of a tiny policy on real Ray, their files broken by hand."""

from __future__ import annotations

import os
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
            if any("ray::LearnerActor" in word for word in process.cmdline()):
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
    assert last == "what the run has saved is safe; continue with: depo train --resume --run-dir run"
