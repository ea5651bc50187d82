"""What two compared models are called where their own names are the same.

What ``depo eval`` is pointed at: a model, a training run, or an evaluation that is already finished.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depo.errors import UserError
from depo.files import latest_checkpoint, read_json, step_name
from depo.recipe.checks import directory_problem
from depo.recipe.model_shape import HUB_ID, find_config, model_shape


def told_apart(
    names: Sequence[str], sides: Sequence[str], roles: Sequence[str] = ("first", "second")
) -> tuple[str, str]:
    """The names of two models; where they are equal, each with the end of its path that tells them
    apart, or with its role where both came from one place. ``sides`` are the two as the command line names
    them."""
    first, second = names
    if first != second:
        return first, second
    parts = [Path(side).expanduser().resolve().parts for side in sides]
    if parts[0] == parts[1]:
        return f"{first} ({roles[0]})", f"{second} ({roles[1]})"
    length = next(n for n in range(1, 1 + max(map(len, parts))) if parts[0][-n:] != parts[1][-n:])
    ends = [Path(*some[-length:]) for some in parts]
    return f"{first} ({ends[0]})", f"{second} ({ends[1]})"


RESULTS = "results.json"


SUMMARY = "summary.json"


BLOCKS, BLOCK_BYTES = 512, 2**14
"""Hashed of a weight file, evenly spread from end to end, for whole files take minutes. An adapter that was
merged into some layers changes long stretches, and no end."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model to evaluate. ``model`` is a directory or hub id; ``run`` the training run it came from and
    ``checkpoint`` the checkpoint with the estimator of the same step, where there are such."""

    name: str
    model: str
    run: Path | None = None
    checkpoint: Path | None = None


def is_evaluation(text: str) -> bool:
    """Whether this names the directory of a finished evaluation."""
    return (Path(text) / RESULTS).is_file()


def find_target(text: str) -> Target:
    """The model that a command-line argument means. Raises UserError when there is none."""
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / "recipe.yaml").is_file():
            return run_target(path)
        if (path / "suite.yaml").is_file():
            goes_on = f"depo eval MODEL --run-dir {text} --resume"
            raise UserError(f"{text}: an evaluation that has not finished; go on with {goes_on}")
        if problem := directory_problem(path):
            raise UserError(f"{text}: neither a model nor a training run: {problem.removeprefix(f'{path} ')}")
        return model_target(path)
    if path.exists():
        raise UserError(f"{text}: is a file; name a model directory, a run directory or a hub id")
    if not HUB_ID.match(text) or text.startswith((".", "/", "~")):
        raise UserError(f"{text}: no such directory, and not a hub id (organisation/name)")
    return Target(text, text)


def run_target(run: Path) -> Target:
    """The final policy of a training run, or that of its newest checkpoint when it has not finished, for
    the first time or since it was extended."""
    checkpoint = latest_checkpoint(run / "checkpoints")
    policy = run / "policy"
    if not (policy / "config.json").is_file() or not belongs(run, checkpoint):
        if checkpoint is None:
            raise UserError(f"{run}: a training run without policy/ or checkpoints/: nothing to evaluate yet")
        policy = checkpoint / "policy"
    if problem := directory_problem(policy):
        raise UserError(problem)
    return Target(run.name or run.resolve().name, str(policy), run, checkpoint)


def belongs(run: Path, checkpoint: Path | None) -> bool:
    """Whether ``policy/`` of a run is of its newest checkpoint's step, as far as can be told. It is of an
    earlier one where a finished run is being extended."""
    summary = run / SUMMARY
    if checkpoint is None or not summary.is_file():
        return True
    return checkpoint.name == step_name(read_json(summary)["steps"])


def model_target(directory: Path) -> Target:
    """A model directory; one inside a training run is told where it belongs."""
    resolved = directory.resolve()
    name = resolved.name
    if name == "policy":
        step = resolved.parent
        if re.fullmatch(r"step_\d+", step.name) and (step.parents[1] / "recipe.yaml").is_file():
            return Target(f"{step.parents[1].name}-{step.name}", str(directory), step.parents[1], step)
        if (step / "recipe.yaml").is_file():
            checkpoint = latest_checkpoint(step / "checkpoints")
            return Target(step.name, str(directory), step, checkpoint if belongs(step, checkpoint) else None)
        name = f"{step.name}-policy"
    return Target(name, str(directory))


def fingerprint(model: str) -> str:
    """SHA-256 (hex, 16 digits) of a model directory: its configuration, tokenizer, and blocks of its weight
    files (small files whole). For a hub id, of the id."""
    digest = hashlib.sha256()
    directory = Path(model)
    if not directory.is_dir():
        return hashlib.sha256(model.encode()).hexdigest()[:16]
    for file in sorted(path for path in directory.iterdir() if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\x1f{size}\x1f".encode())
        with file.open("rb") as stream:
            if size <= BLOCKS * BLOCK_BYTES:
                digest.update(stream.read())
                continue
            for block in range(BLOCKS):
                stream.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]


def active_parameters(model: str) -> int | None:
    """Parameters that one token passes through; None where the configuration is not at hand or its
    architecture is not covered by `depo.recipe.model_shape`."""
    config = find_config(model)
    shape = None if config is None else model_shape(config)
    return None if shape is None else shape.active
