"""The scorers that `reasoning_gym` ships with its tasks.

The reference is JSON: ``{"task": name, "entry": {"question": …, "answer": …, "metadata": …}}``. Scorers need
the whole entry, because many tasks have more than one right answer.

Some of these scorers call ``eval`` on the answer. They run in a worker process of the same user, which is
no sandbox.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from depo.reward.answers import last_boxed, last_tagged, spoken
from depo.reward.base import Sample, Score, describe, unscorable

# Scorers that give partial credit return exactly 1.0 for a full solution, except those that compute a ratio,
# which may miss it by float noise; the largest partial credit for a wrong answer is well below.
CORRECT_AT = 0.999

# Their scorers compare boards with ==, and JSON has turned the tuples into lists.
TUPLE_BOARDS = ("arc_agi", "rearc")

Scorer = Callable[[str, dict[str, Any]], float]


class ReasoningGymReward:
    """value is the scorer's score in [0, 1], which may be partial credit; correct from 0.999 on.

    When a scorer raises although it takes the entry's own answer, the completion's answer is to blame: it is
    unparseable (and wrong). When it raises on its own answer too, the sample is unscorable.

    Raises ``ValueError`` when the package is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ValueError("reward reasoning_gym needs a package: pip install reasoning-gym")

    def prepare(self) -> None:
        """Import the package before anything is timed: it takes seconds."""
        importlib.import_module("reasoning_gym")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        try:
            task, entry = read_reference(sample.reference)
            scorer = scorer_of(task)
        except ValueError as error:
            return unscorable(str(error))
        answer = extract_answer(sample.completion)
        if not answer:
            return Score(value=0.0, correct=False, unparseable=True)
        try:
            value = float(scorer(answer, entry))
        except Exception as error:  # noqa: BLE001 - scorers raise whatever their parsing of an answer raises
            return self._blame(scorer, entry, error)
        if not 0.0 <= value <= 1.0:
            return unscorable(f"scorer of {task} returned {value}, which is not in [0, 1]")
        return Score(value=value, correct=value >= CORRECT_AT)

    def _blame(self, scorer: Scorer, entry: dict[str, Any], error: Exception) -> Score:
        try:
            scorer(entry["answer"], entry)
        except Exception:  # noqa: BLE001 - the entry itself is broken: no verdict
            return unscorable(describe(error))
        return Score(value=0.0, correct=False, unparseable=True)


def extract_answer(completion: str) -> str:
    r"""The last ``\boxed{…}``, else the last ``<answer>…</answer>``, else all that follows the thoughts."""
    completion = spoken(completion)
    boxed = last_boxed(completion)
    if boxed is not None:
        return boxed.strip()
    tagged = last_tagged(completion)
    return (completion if tagged is None else tagged).strip()


def read_reference(reference: str) -> tuple[str, dict[str, Any]]:
    """Task name and entry. Raises ``ValueError``, one line, when the reference is something else."""
    try:
        found = json.loads(reference)
    except json.JSONDecodeError as error:
        raise ValueError(f"reference is no JSON: {error}") from error
    if not isinstance(found, dict) or not {"task", "entry"} <= found.keys():
        raise ValueError('reference is no {"task": …, "entry": {…}}')
    task, entry = found["task"], found["entry"]
    if not isinstance(entry, dict) or not {"question", "answer", "metadata"} <= entry.keys():
        raise ValueError('reference\'s entry is no {"question": …, "answer": …, "metadata": …}')
    if task in TUPLE_BOARDS:
        entry["metadata"]["output"] = tuple(tuple(row) for row in entry["metadata"]["output"])
    return task, entry


@cache  # making a scorer builds a data set object
def scorer_of(task: str) -> Scorer:
    """The task's scorer. Raises ``ValueError`` for a task that the installed version does not have."""
    import reasoning_gym

    scorer: Scorer = reasoning_gym.get_score_answer_fn(task)
    return scorer
