import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from depo.errors import UserError
from depo.files import latest_checkpoint, load_state, read_json, save_state, write_json
from depo.train.run_directory import prune, write_checkpoint
from estimators.base import State


def test_a_failing_write_leaves_the_old_checkpoint_as_the_latest(tmp_path):
    old = write_checkpoint(tmp_path, 10, lambda d: (d / "a").write_text("ten"))

    def fails(directory):
        (directory / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, 20, fails)
    assert latest_checkpoint(tmp_path) == old
    assert (old / "a").read_text() == "ten"


def test_a_process_killed_while_writing_leaves_the_old_checkpoint_as_the_latest(tmp_path):
    old = write_checkpoint(tmp_path, 10, lambda d: (d / "a").write_text("ten"))
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from depo.train.run_directory import write_checkpoint

        def write(directory):
            (directory / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        write_checkpoint(Path({str(tmp_path)!r}), 20, write)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert latest_checkpoint(tmp_path) == old
    # What the kill left behind does not get in the way of the next attempt.
    assert write_checkpoint(tmp_path, 20, lambda d: (d / "a").write_text("whole")) == latest_checkpoint(
        tmp_path
    )
    assert (tmp_path / "step_000020" / "a").read_text() == "whole"


def test_what_a_kill_left_of_another_step_goes_with_the_next_checkpoint(tmp_path):
    (tmp_path / ".step_000150.partial" / "policy").mkdir(parents=True)
    write_checkpoint(tmp_path, 160, lambda d: (d / "a").write_text("x"))
    assert os.listdir(tmp_path) == ["step_000160"]


def test_prune_keeps_the_newest(tmp_path):
    for step in (0, 5, 10, 100, 2000):
        write_checkpoint(tmp_path, step, lambda d: (d / "a").write_text("x"))
    prune(tmp_path, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step_000100", "step_002000"]


def test_estimator_state_round_trips_exactly_and_without_pickle(tmp_path):
    state = State(
        1, {"name": "beta", "n": 3, "x": [0.1, 2**-60]}, {"alpha": np.random.default_rng(0).random(7)}
    )
    save_state(tmp_path / "estimator", state)
    back = load_state(tmp_path / "estimator")
    assert back.schema_version == 1
    assert back.values == state.values
    assert np.array_equal(back.arrays["alpha"], state.arrays["alpha"])
    assert {path.suffix for path in (tmp_path / "estimator").iterdir()} == {".json", ".safetensors"}


def test_an_unreadable_state_names_its_place(tmp_path):
    with pytest.raises(UserError, match="not a readable estimator state"):
        load_state(tmp_path)


def test_write_json_replaces_the_file_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert json.loads(path.read_text()) == {"a": 1}
