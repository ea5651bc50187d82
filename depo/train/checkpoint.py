"""Checkpoints: whole or absent, sealed by a manifest, checked before they are used, the newest few kept.

checkpoints/step_000050/
    learner/  policy/  estimator/  run.json
    manifest.json          size in bytes and SHA-256 of each of these files
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.files import (
    check_space,
    complete_checkpoints,
    directory_aside,
    read_json,
    sha256,
    step_name,
    write_json,
)

CHECKPOINT_SCHEMA = 3

MANIFEST, STATE = "manifest.json", "run.json"


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None], needed: int = 0) -> Path:
    """``write(directory)`` fills a directory that becomes ``root/step_NNNNNN`` only when all is on disk.
    ``needed``: bytes to expect where no earlier checkpoint tells. Raises RunStopped where they do not fit, or
    cannot be written."""
    for abandoned in root.glob(".step_*.partial"):  # of this step or, after a kill, of another
        shutil.rmtree(abandoned, ignore_errors=True)
    newest = max(complete_checkpoints(root), default=None)
    check_space(root, needed if newest is None else sum(path.stat().st_size for path in files(newest)))
    final = root / step_name(step)
    with directory_aside(final) as aside:
        write(aside)
        write_json(aside / MANIFEST, {file_name(path, aside): seal(path) for path in files(aside)})
    return final


def rewrite_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Replace ``run.json`` and its seal. After a kill between the two the checkpoint counts as damaged."""
    write_json(checkpoint / STATE, state)
    sealed = read_json(checkpoint / MANIFEST)
    write_json(checkpoint / MANIFEST, sealed | {STATE: seal(checkpoint / STATE)})


def sound_checkpoint(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is what was written; None when there is none at all. Damaged ones that are
    newer are put aside as ``damaged_step_NNNNNN``, and ``say`` hears of it.

    Raises UserError when all are damaged, or the newest is of another version of depo.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in sorted(complete_checkpoints(root), reverse=True):
        problem = damage(checkpoint)
        if problem is None:
            for newer, reason in damaged.items():
                newer.rename(newer.with_name(f"damaged_{newer.name}"))
                say(
                    f"warning: {newer} is damaged ({reason}); it is now {root}/damaged_{newer.name}, and the "
                    f"run goes on from {checkpoint.name}: the steps in between are done again"
                )
            return checkpoint
        damaged[checkpoint] = problem
    if damaged:
        listed = "; ".join(f"{checkpoint.name}: {problem}" for checkpoint, problem in damaged.items())
        raise UserError(
            f"--resume: every checkpoint in {root} is damaged ({listed}); restore one from a copy, or start "
            "a new run in another directory"
        )
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; None where nothing is. Raises UserError for one that
    another version of depo wrote."""
    try:
        version = read_json(checkpoint / STATE)["schema_version"]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{STATE} cannot be read"
    if version != CHECKPOINT_SCHEMA:
        raise UserError(
            f"--resume: {checkpoint} was written by another version of depo (schema_version {version}, "
            f"expected {CHECKPOINT_SCHEMA}); go on with that version, or start a new run from its policy"
        )
    try:
        sealed = read_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return f"{MANIFEST} cannot be read"
    for name, expected in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, {expected['bytes']:,} were written"
        if seal(path) != expected:
            return f"{name} has changed since it was written"
    return None


def seal(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def file_name(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()


def prune(root: Path, keep: int, sound_until: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints and the newest one up to step ``sound_until``."""
    checkpoints = sorted(complete_checkpoints(root))
    sound = [] if sound_until is None else [one for one in checkpoints if one.name <= step_name(sound_until)]
    for old in checkpoints[:-keep]:
        if old not in sound[-1:]:
            shutil.rmtree(old)
