import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from depo.errors import RunStopped, UserError
from depo.estimators.base import State
from depo.files import latest_checkpoint, load_state, read_json, save_state, write_json
from depo.train.checkpoint import (
    CHECKPOINT_SCHEMA,
    prune,
    rewrite_state,
    sound_checkpoint,
    write_checkpoint,
)


def test_a_failing_write_leaves_the_old_checkpoint_as_the_latest(tmp_path):
    old = write_checkpoint(tmp_path, 10, lambda d: (d / "a").write_text("ten"))

    def fails(directory):
        (directory / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(RunStopped, match=r"step_000020: cannot be written: disk full"):
        write_checkpoint(tmp_path, 20, fails)
    assert latest_checkpoint(tmp_path) == old
    assert (old / "a").read_text() == "ten"


def test_a_process_killed_while_writing_leaves_the_old_checkpoint_as_the_latest(tmp_path):
    old = write_checkpoint(tmp_path, 10, lambda d: (d / "a").write_text("ten"))
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from depo.train.checkpoint import write_checkpoint

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


def sealed(root, step):
    def write(directory):
        (directory / "policy").mkdir()
        (directory / "policy" / "weights").write_bytes(bytes(1000))
        write_json(directory / "run.json", {"schema_version": CHECKPOINT_SCHEMA, "step": step})

    return write_checkpoint(root, step, write)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "policy/weights has changed since it was written": lambda at: flip_a_bit(at / "policy" / "weights"),
    "policy/weights has 10 bytes, 1,000 were written": lambda at: os.truncate(at / "policy" / "weights", 10),
    "policy/weights is missing": lambda at: (at / "policy" / "weights").unlink(),
    "manifest.json cannot be read": lambda at: (at / "manifest.json").write_text('{"run'),
    "run.json cannot be read": lambda at: (at / "run.json").write_text("[]"),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, says):
    said = []
    before, newest = sealed(tmp_path, 4), sealed(tmp_path, 8)
    assert sound_checkpoint(tmp_path, said.append) == newest
    assert said == []
    DAMAGE[says](newest)
    assert sound_checkpoint(tmp_path, said.append) == before
    assert says in said[0]
    assert "goes on from step_000004" in said[0]
    # It is kept, and not in the way: neither of the next look nor of what counts as the newest.
    assert (tmp_path / "damaged_step_000008").is_dir()
    assert latest_checkpoint(tmp_path) == before
    assert sound_checkpoint(tmp_path, said.append) == before
    assert len(said) == 1


def test_where_every_checkpoint_is_damaged_each_is_named_and_none_is_moved(tmp_path):
    for step in (4, 8):
        flip_a_bit(sealed(tmp_path, step) / "policy" / "weights")
    with pytest.raises(UserError, match=r"step_000008: policy/weights.*step_000004: policy/weights"):
        sound_checkpoint(tmp_path, print)
    assert sorted(os.listdir(tmp_path)) == ["step_000004", "step_000008"]


def test_a_checkpoint_of_another_version_is_refused_by_its_number(tmp_path):
    at = sealed(tmp_path, 4)
    write_json(at / "run.json", {"schema_version": 2})
    with pytest.raises(UserError, match=rf"schema_version 2, expected {CHECKPOINT_SCHEMA}"):
        sound_checkpoint(tmp_path, print)


def test_a_rewritten_state_is_sealed_anew(tmp_path):
    at = sealed(tmp_path, 4)
    rewrite_state(at, {"schema_version": CHECKPOINT_SCHEMA, "step": 5})
    assert sound_checkpoint(tmp_path, print) == at
    assert read_json(at / "run.json")["step"] == 5


def test_a_checkpoint_that_will_not_fit_is_not_begun(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RunStopped, match=r"needs .* GB, .* GB are free"):
        write_checkpoint(tmp_path, 4, lambda directory: pytest.fail("begun"), needed=2 * free)


def test_where_nothing_more_can_be_written_the_file_is_named(tmp_path):
    """A limit on the size of files stands in for a full disk: the kernel refuses to write either way."""
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        import depo.errors
        from depo.errors import report_failure
        from depo.files import save_state, write_text
        from depo.train.checkpoint import write_checkpoint
        from depo.trackers.tracker import MetricsLog
        from depo.estimators.base import State

        depo.errors.WIDTH = 10_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        at = Path(sys.argv[1])
        (at / "recipe.yaml").write_text("")
        big = State(1, {}, {"array": np.zeros(10_000)})
        for write in (
            lambda: write_checkpoint(at, 1, lambda directory: save_state(directory / "estimator", big)),
            lambda: MetricsLog(at / "metrics.jsonl").write({"step": 1, "name": "x" * 10_000}),
            lambda: write_text(at / "summary.json", "x" * 10_000),
        ):
            try:
                write()
            except Exception as error:
                print(report_failure(error, at), file=sys.stderr)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    for name in ("step_000001", "metrics.jsonl", "summary.json"):
        error, safe, status = lines[:3]
        assert error.startswith(f"error: {tmp_path / name}: cannot be written: ")
        assert safe.endswith(f"continue with: depo train --resume --run-dir {tmp_path}")
        assert status == "1"
        lines = lines[3:]
    assert lines == []
    assert not (tmp_path / "step_000001").exists()
