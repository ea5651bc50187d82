"""Checkpoints that a kill cannot spoil: written aside, fsynced, renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from depo.files import complete_checkpoints, directory_aside, step_name


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    """``write(directory)`` fills a directory that becomes ``root/step_NNNNNN`` only when all is on disk."""
    final = root / step_name(step)
    for abandoned in root.glob(".step_*.partial"):  # of this step or, after a kill, of another
        shutil.rmtree(abandoned, ignore_errors=True)
    with directory_aside(final) as aside:
        write(aside)
    return final


def prune(root: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints."""
    for old in sorted(complete_checkpoints(root))[:-keep]:
        shutil.rmtree(old)
