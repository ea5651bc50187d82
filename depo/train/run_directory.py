"""The run directory: one process at a time, nothing left of a run that was refused, and no new beginning over
the remains of a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from depo.errors import UserError, unwrapped
from depo.files import latest_checkpoint, locked
from depo.trackers.tracker import sound_rows

LOCK = ".lock"
"""In a run directory: held by whoever is at work there."""


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Make the directory, and keep other processes out of it; the kernel lets go when this one dies. A run
    that ends with a UserError before its first checkpoint leaves no trace: the corrected one can have the
    same directory.

    Raises UserError when another process is at work there. Where the file system knows no locks, nothing is
    kept out.
    """
    fresh = not run_dir.is_dir() or not any(run_dir.iterdir())
    run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run_dir / LOCK))
        except BlockingIOError:
            raise UserError(
                f"--run-dir {run_dir}: another process is at work on this run; wait for it, or end it first"
            ) from None
        except OSError:
            pass
        try:
            yield
        except Exception as error:
            refused = isinstance(unwrapped(error), UserError)
            if refused and fresh and latest_checkpoint(run_dir / "checkpoints") is None:
                with suppress(OSError):
                    shutil.rmtree(run_dir)
            raise


def check_continuable(run_dir: Path) -> None:
    """Raise UserError where a run has made steps and its checkpoints are gone: starting over would overwrite
    what it has left. (The first checkpoint precedes the first step.)"""
    if latest_checkpoint(run_dir / "checkpoints") is not None:
        return
    log = run_dir / "metrics.jsonl"
    rows = sound_rows(log)[0] if log.exists() else []
    traces = [*(run_dir / "rollouts").glob("step_*.parquet"), *run_dir.glob("summary.json")]
    if rows or traces:
        last = f"step {rows[-1]['step']}" if rows else f"{traces[-1].name}"
        raise UserError(
            f"--run-dir {run_dir}: no checkpoint is left in checkpoints/, though the run got to {last}: it "
            "cannot be continued, and beginning anew would overwrite it; name another directory"
        )
