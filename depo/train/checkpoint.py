"""Checkpoints: whole or absent, sealed by a manifest, checked before they are used, the newest few kept.

checkpoints/step_000050/
    learner/  policy/  estimator/  run.json
    manifest.json          size in bytes and SHA-256 of each of these files
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.files import (
    MANIFEST,
    broken_seal,
    check_space,
    complete_checkpoints,
    directory_aside,
    read_json,
    seal,
    sealed,
    step_name,
    write_json,
)
from depo.recipe.loading import load_recipe
from depo.trackers.tracker import sound_rows

CHECKPOINT_SCHEMA = 4

STATE = "run.json"


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None], needed: int = 0) -> Path:
    """``write(directory)`` fills a directory that becomes ``root/step_NNNNNN`` only when all is on disk.
    ``needed``: bytes to expect where no earlier checkpoint tells. Raises RunStopped where they do not fit, or
    cannot be written."""
    for abandoned in root.glob(".step_*.partial"):  # of this step or, after a kill, of another
        shutil.rmtree(abandoned, ignore_errors=True)
    newest = max(complete_checkpoints(root), default=None)
    if newest is not None:
        needed = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    check_space(root, needed)
    final = root / step_name(step)
    with directory_aside(final) as aside:
        write(aside)
        seal(aside)
    return final


def rewrite_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Replace ``run.json`` and its seal. After a kill between the two the checkpoint counts as damaged."""
    write_json(checkpoint / STATE, state)
    manifest = read_json(checkpoint / MANIFEST)
    write_json(checkpoint / MANIFEST, manifest | {STATE: sealed(checkpoint / STATE)})


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
            f"--resume: every checkpoint in {root} is damaged ({listed}); restore one from a copy, or begin "
            f"anew{left_intact(root.parent)}"
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
    return broken_seal(checkpoint)


def left_intact(run_dir: Path) -> str:
    """How to begin anew where all checkpoints are damaged, and what of the run is as it was written."""
    policy, log, recipe = run_dir / "policy", run_dir / "metrics.jsonl", run_dir / "recipe.yaml"
    intact, start = [], ""
    if (policy / MANIFEST).is_file() and broken_seal(policy) is None:
        intact.append(f"{policy} (the final policy)")
        if load_recipe(recipe).policy.type == "pretrained":
            start = f" policy.model={shlex.quote(str(policy))}"
    if log.is_file() and not sound_rows(log)[1]:
        intact.append(str(log))
    found = f" (intact: {', '.join(intact)})" if intact else ""
    return f"{found}: depo train {shlex.quote(str(recipe))}{start}"


def prune(root: Path, keep: int, sound_until: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints and the newest one up to step ``sound_until``."""
    checkpoints = sorted(complete_checkpoints(root))
    sound = [] if sound_until is None else [one for one in checkpoints if one.name <= step_name(sound_until)]
    for old in checkpoints[:-keep]:
        if old not in sound[-1:]:
            shutil.rmtree(old)
