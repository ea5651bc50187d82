"""Checkpoints that a kill cannot spoil: written aside, fsynced, renamed. JSON and safetensors, no pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file, save_file

from depo.errors import UserError
from depo.files import _fsync, follow_umask, on_disk, read_json, write_json
from estimators.base import State

STEP_DIGITS = 6


def step_name(step: int) -> str:
    return f"step_{step:0{STEP_DIGITS}d}"


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
    _fsync(root)
    return final


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint under ``root``, or None."""
    return max(_complete(root), default=None)


def prune(root: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints."""
    for old in sorted(_complete(root))[:-keep]:
        shutil.rmtree(old)


def save_state(directory: Path, state: State) -> None:
    """An estimator's state as ``state.json`` and ``state.safetensors``."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(state.arrays), directory / "state.safetensors")
    write_json(directory / "state.json", {"schema_version": state.schema_version, "values": state.values})


def load_state(directory: Path) -> State:
    try:
        meta = read_json(directory / "state.json")
        arrays = load_file(directory / "state.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: not a readable estimator state ({error})") from error
    return State(schema_version=meta["schema_version"], values=meta["values"], arrays=arrays)


def _complete(root: Path) -> list[Path]:
    return [path for path in root.glob("step_*") if path.is_dir()]
