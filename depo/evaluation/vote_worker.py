"""What the voting workers do: read an answer out of a completion, or compare two answers.

A module of its own because importing it imports sympy: a worker is ready only when that is done, so that the
seconds it takes are not counted as those of the first sample.
"""

from __future__ import annotations

from depo.reward import Sample, Score
from depo.reward.math import MathReward, chosen

JUDGE = MathReward()
JUDGE.prepare()


def work(sample: Sample) -> Score:
    """With a reference: does the answer equal it? Without: the answer of a completion that has no
    box, as text in ``detail``; "" when there is none."""
    if sample.reference:
        return JUDGE.score([sample])[0]
    return Score(value=0.0, correct=False, detail=math_answer(sample.completion))


def math_answer(completion: str) -> str:
    """The answer where `reward.math` reads it, as text."""
    found = chosen(completion)
    return found[0].strip() if found else ""
