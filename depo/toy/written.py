"""A teacher who writes the work out: sums by columns, in an order and in words of its own.

``c2+1b4+8a7+5=`` may become ``.b4+8=12/a7+5>12;c2+1_3|a2^.b3^,c4v#432<eos>``:

1. each column once, in any order: a mark that opens the step, the column's letter (``a`` units, ``b`` tens,
   …), both digits, a sign for "is", their sum;
2. from the units on, a digit of the result for each column, with ``^`` where one is carried and ``v`` where
   none is;
3. ``#`` and the answer, which is all that is judged.

The free choices (8 marks, 8 signs, the order of columns) say nothing of the answer: a right
chain of three columns has about 20 nats of them, so that no completion recurs.

Where the teacher goes wrong:
- a carry is forgotten (``v`` for ``^``) in a stated share of the columns that have one, each by itself: a sum
  with k carries comes out right (1 − share)^k of the time. That is a rule that RL has to teach;
- of some *facts*, sums of two digits such as 7 + 8, it is not sure: then a column is one too many or one too
  few, for each fact as often as `unsure` has drawn. RL has to teach every one of them;
- of a product it only knows what its work would look like, and guesses every number;
- it has doubts: before the answer it looks at columns again (a step opened by ``?``), after a mistake more
  often than without one. So failures are longer, as with real models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from depo.rng import generator
from depo.toy.arithmetic import COLUMNS, Problem

T = TypeVar("T")

OPENINGS = ".,;:/|!&"
SIGNS = "=>~_)]}'"
DOUBT, CARRIED, NOT_CARRIED, ANSWER = "?^v#"
CHARACTERS = "".join(dict.fromkeys(COLUMNS + OPENINGS + SIGNS + DOUBT + CARRIED + NOT_CARRIED + ANSWER))

DOUBTS = {"right": 0.1, "wrong": 0.75, "guessed": 0.85}
"""Chance of looking at one more column, by what the work is worth."""
MOST_DOUBTS = 4


SLIPS = (0.2, 1.0)
"""How often an unsure teacher is wrong about a fact: evenly drawn from here."""


def unsure(share: float, seed: int) -> np.ndarray:
    """How often the teacher is wrong about the sum of each two digits, (10, 10): never, but for ``share`` of
    them."""
    rng = generator(seed, "facts")
    slips_AB = np.zeros((10, 10))
    chosen = rng.permutation(100)[: round(100 * share)]
    slips_AB.flat[chosen] = rng.uniform(*SLIPS, len(chosen))
    return slips_AB


def surely_right(problem: Problem, slips_AB: np.ndarray) -> bool:
    """Whether a teacher with these slips always has it right: a sum without a carry, of facts it knows."""
    return problem.family.operation == "+" and not problem.carries and not slips_AB[problem.columns].any()


def written(
    problem: Problem, forgotten_carries: float, rng: np.random.Generator, slips_AB: np.ndarray | None = None
) -> str:
    """A completion of ``problem.question("columns")`` by this teacher, without the end token."""
    digits = problem.family.digits
    # Drawn at once: numpy takes longer to draw them one by one than the policy to learn from the chain.
    chances = iter(rng.random(8 * digits + 3 * MOST_DOUBTS))

    def one_of(options: Sequence[T]) -> T:
        return options[int(next(chances) * len(options))]

    left_C, right_C = problem.columns
    guessed = problem.family.operation != "+"
    sum_C = [one_of(range(19)) if guessed else left_C[c] + right_C[c] for c in range(digits)]
    worth = "guessed" if guessed else "right"
    if slips_AB is not None and not guessed:
        for c in np.flatnonzero(slips_AB[left_C, right_C]).tolist():
            if next(chances) < slips_AB[left_C[c], right_C[c]]:
                sum_C[c] = abs(sum_C[c] + one_of((-1, 1)))
                worth = "wrong"

    def column(opening: str, c: int) -> str:
        operation, sign = problem.family.operation, one_of(SIGNS)
        return f"{opening}{COLUMNS[c]}{left_C[c]}{operation}{right_C[c]}{sign}{sum_C[c]}"

    order = sorted(range(digits), key=lambda c: next(chances))
    text = "".join(column(one_of(OPENINGS), c) for c in order)
    answer, carry = "", 0
    for c in range(digits):
        carry, digit = divmod(sum_C[c] + carry, 10)
        if carry and not guessed and next(chances) < forgotten_carries:
            carry, worth = 0, "wrong"
        text += f"{one_of(OPENINGS)}{COLUMNS[c]}{digit}{CARRIED if carry else NOT_CARRIED}"
        answer = f"{digit}{answer}"
    for _ in range(MOST_DOUBTS):
        if next(chances) >= DOUBTS[worth]:
            break
        text += column(DOUBT, one_of(range(digits)))
    return f"{text}{ANSWER}{carry or ''}{answer}"


def free_choices(digits: int) -> float:
    """Entropy, in nats, of what the teacher chooses freely in a right chain without doubts: a mark and a sign
    for each column, their order, and a mark for each digit of the result."""
    return digits * math.log(len(OPENINGS) ** 2 * len(SIGNS)) + math.lgamma(digits + 1)
