"""Problems made on the spot by `reasoning_gym`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

from depo.errors import UserError
from depo.recipe.schema import ReasoningGymSource
from depo.rng import seed64
from reward.reasoning_gym import read_reference


def gym_rows(source: ReasoningGymSource, where: str) -> Iterator[tuple[str, str, None]]:
    """(question, reference, no prior) of each task's problems, task after task.

    The reference is JSON, {"task": name, "entry": {…}}: the task's scorer needs its entry whole. Sources of
    different seeds share no stretch of problems: reasoning_gym makes problem i of seed s from s + i, so that
    its own seeds 0 and 1 are the same problems but for one.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            f'{where}: the package reasoning_gym is missing; pip install "depo[reasoning-gym]"'
        ) from error

    for task in source.tasks:
        if task not in DATASETS:
            near = difflib.get_close_matches(task, DATASETS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(DATASETS))}"
            raise UserError(f"{where}.tasks: reasoning_gym has no task {task!r}; {hint}")
        try:
            seed = seed64(source.seed, "reasoning_gym", key=task) % 2**31
            problems = reasoning_gym.create_dataset(task, size=source.size, seed=seed)
        except (ValueError, AssertionError) as error:
            raise UserError(f"{where}.tasks: {task} cannot be made without options ({error})") from error
        for index in range(source.size):
            entry = problems[index]
            reference = json.dumps({"task": task, "entry": entry}, ensure_ascii=False)
            if index == 0 and entry["answer"] is not None:
                _, restored = read_reference(reference)
                if problems.score_answer(entry["answer"], restored) < problems.score_answer(
                    entry["answer"], entry
                ):
                    raise UserError(f"{where}.tasks: the scorer of {task} does not work on stored problems")
            yield entry["question"], reference, None
