"""One piece of the benchmark, in a process of its own: ``python -m benchmarks.selection.work KIND …``.

A fresh process per piece keeps Ray, threads and memory of the runs apart, and a crash to itself. Each piece
is done when the file it writes last exists: the benchmark can be stopped and started at any moment.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from depo.files import latest_checkpoint, read_json, write_json
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe
from depo.rng import generator
from depo.train.run_directory import LOCK, claimed
from depo.types import Prompt

COMPOSITION = "composition.json"
SUMMARY = "summary.json"


def warm_up(recipe: Recipe, policy: Path) -> None:
    """Build the policy and warm-start it: a directory in Hugging Face format."""
    import torch

    from depo.toy import tiny_moe, warm_start

    torch.set_num_threads(recipe.resources.threads or 1)
    aside = policy.with_name(f".{policy.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    tiny_moe.build(recipe.policy, aside, recipe.seed)
    warm_start.warm_start(recipe, aside, print)
    aside.rename(policy)


def compose(recipe: Recipe, lessons: Path, policy: Path, directory: Path, hidden: bool) -> None:
    """Measure the policy and compose pool and held-out set in ``directory``; ``lessons``, the recipe that the
    policy was warm-started by, tells which problems it has been shown the answer of: none of them is in."""
    from depo.toy import grading
    from depo.toy.warm_start import worked_examples

    said: list[str] = []
    shown = {problem for problem, _ in worked_examples(load_recipe(lessons))}
    graded = grading.grade(recipe, policy, said.append, known=shown)
    train = hide(graded.train, recipe.seed) if hidden else graded.train
    directory.mkdir(parents=True, exist_ok=True)
    replace(graded.prompts, train=train).store(directory)
    write_json(
        directory / COMPOSITION,
        {
            "accuracy": graded.accuracy,
            "solvable": graded.solvable_accuracy,
            "pool": dict(Counter(graded.levels[prompt.key] for prompt in train)),
            "said": said,
        },
    )


def hide(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The same prompts for the policy; estimators read "problem 0421", whatever the problem."""
    numbers = generator(seed, "hide").permutation(len(prompts))
    width = len(str(len(prompts)))
    return [
        replace(prompt, text=f"problem {number:0{width}d}")
        for prompt, number in zip(prompts, numbers, strict=True)
    ]


def run_arm(recipe: Recipe, policy: Path, pool: Path, directory: Path) -> None:
    """A training run in ``directory`` on a composed pool; goes on from its last checkpoint, if any."""
    from depo.run import train

    resume = (directory / "checkpoints").exists() and latest_checkpoint(directory / "checkpoints") is not None
    if not resume:
        with claimed(directory):  # a benchmark that was killed may have left a run at work here
            empty(directory)
        (directory / "initial_policy").symlink_to(os.path.relpath(policy, directory))
        for name in ("heldout_parts.json", "heldout.parquet", "prompts.parquet"):
            shutil.copy(pool / name, directory / name)
    train(recipe, directory, resume, quiet=True)
    read_json(directory / SUMMARY)  # it is there, and whole
    clear(directory)


def empty(directory: Path) -> None:
    """All but the file that says who is at work here."""
    for path in directory.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear(directory: Path) -> None:
    """Of a finished run only what the report reads is kept; a kill may have come before this."""
    for name in ("checkpoints", "policy"):
        shutil.rmtree(directory / name, ignore_errors=True)


def main(arguments: Sequence[str]) -> None:
    kind, recipe_file, *rest = arguments
    recipe, paths = load_recipe(Path(recipe_file)), list(map(Path, rest))
    match kind:
        case "warm_up":
            warm_up(recipe, *paths)
        case "compose" | "compose_hidden":
            compose(recipe, *paths, hidden=kind == "compose_hidden")
        case "arm":
            run_arm(recipe, *paths)
        case _:
            raise ValueError(f"unknown piece of work {kind!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
