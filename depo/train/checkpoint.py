"""Checkpoints that a kill cannot spoil: written aside, fsynced, renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from depo.files import complete_checkpoints, follow_umask, fsync, on_disk, step_name


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    """``write(directory)`` fills a directory that becomes ``root/step_NNNNNN`` only when all is on disk."""
    final = root / step_name(step)
    aside = root / f".{final.name}.partial"
    for abandoned in root.glob(".step_*.partial"):  # of this step or, after a kill, of another
        shutil.rmtree(abandoned, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    follow_umask(aside)
    on_disk(aside)
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    fsync(root)
    return final


def prune(root: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints."""
    for old in sorted(complete_checkpoints(root))[:-keep]:
        shutil.rmtree(old)
