"""The run directory: one process at a time, checkpoints that a kill cannot spoil, and no new beginning over
the
remains of a run."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from depo.errors import UserError
from depo.files import complete_checkpoints, directory_aside, latest_checkpoint, step_name
from depo.trackers.jsonl import read_metrics

LOCK = ".lock"
"""In a run directory: held by whoever is at work there."""


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Make the directory, and keep other processes out of it; the kernel lets go when this one dies. Raises
    UserError when one is at work there. Where the file system knows no locks, nothing is kept out."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--run-dir {run_dir}: another process is at work on this run; wait for it, or end it first"
            ) from None
        except OSError:
            pass
        yield


def check_continuable(run_dir: Path) -> None:
    """Raise UserError where a run has made steps and its checkpoints are gone: starting over would overwrite
    what it has left. (The first checkpoint precedes the first step.)"""
    if latest_checkpoint(run_dir / "checkpoints") is not None:
        return
    rows = read_metrics(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []
    traces = [*(run_dir / "rollouts").glob("step_*.parquet"), *run_dir.glob("summary.json")]
    if rows or traces:
        last = f"step {rows[-1]['step']}" if rows else f"{traces[-1].name}"
        raise UserError(
            f"--run-dir {run_dir}: no checkpoint is left in checkpoints/, though the run got to {last}: it "
            "cannot be continued, and beginning anew would overwrite it; name another directory"
        )


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    """``write(directory)`` fills a directory that becomes ``root/step_NNNNNN`` only when all is on disk."""
    final = root / step_name(step)
    for abandoned in root.glob(".step_*.partial"):  # of this step or, after a kill, of another
        shutil.rmtree(abandoned, ignore_errors=True)
    with directory_aside(final) as aside:
        write(aside)
    return final


def prune(root: Path, keep: int, sound_until: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints and the newest one up to step ``sound_until``."""
    checkpoints = sorted(complete_checkpoints(root))
    sound = [] if sound_until is None else [one for one in checkpoints if one.name <= step_name(sound_until)]
    for old in checkpoints[:-keep]:
        if old not in sound[-1:]:
            shutil.rmtree(old)
