"""Generated arithmetic: problems with one exact answer, in families of graded difficulty.

A *family* is an operation with an operand length: ``+2`` holds every sum of two two-digit numbers. Both
operands of a problem have the family's length, without leading zeros (one-digit operands are 0 to 9).
Problems are addressed by number inside their family, so that drawing without repetition needs no
bookkeeping and works in families far too large to enumerate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from depo.errors import UserError
from depo.recipe.schema import ArithmeticSource
from depo.rng import generator

Phrasing = Literal["digits", "words", "columns"]

COLUMNS = "abcdefghi"
"""Units, tens, hundreds, …"""

# fmt: off
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")

TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# fmt: on
SPOKEN = {"+": "plus", "-": "minus", "*": "times"}
RESULTS = {"+": "sums", "-": "differences", "*": "products"}
WORDS_LIMIT = 1000  # numbers from here on have no short name


@dataclass(frozen=True, slots=True, order=True)
class Family:
    """An operation and an operand length, written ``+2``."""

    operation: str
    digits: int

    def __str__(self) -> str:
        return f"{self.operation}{self.digits}"

    @property
    def in_words(self) -> str:
        return f"{RESULTS[self.operation]} of {self.digits} digit{'s' * (self.digits > 1)}"

    @property
    def smallest(self) -> int:
        return 0 if self.digits == 1 else 10 ** (self.digits - 1)

    @property
    def operands(self) -> int:
        """How many values one operand can take."""
        return 10**self.digits - self.smallest

    @property
    def size(self) -> int:
        """How many problems there are: ordered pairs of operands."""
        return self.operands**2

    def problem(self, number: int) -> Problem:
        """The problem with this number, 0 ≤ number < size."""
        left, right = divmod(number, self.operands)
        return Problem(self, self.smallest + left, self.smallest + right)


@dataclass(frozen=True, slots=True)
class Problem:
    family: Family
    left: int
    right: int

    @property
    def answer(self) -> str:
        match self.family.operation:
            case "+":
                return str(self.left + self.right)
            case "-":
                return str(self.left - self.right)
            case "*":
                return str(self.left * self.right)
            case other:
                raise ValueError(f"unknown operation {other!r}: expected +, - or *")

    @property
    def columns(self) -> tuple[list[int], list[int]]:
        """The digits of both operands, units first."""
        places = [10**c for c in range(self.family.digits)]
        return [self.left // place % 10 for place in places], [self.right // place % 10 for place in places]

    @property
    def carries(self) -> int:
        """Columns of a sum that carry; 0 of other operations."""
        if self.family.operation != "+":
            return 0
        columns = [10**c for c in range(1, self.family.digits + 1)]
        return sum(self.left % column + self.right % column >= column for column in columns)

    @property
    def careless_answer(self) -> str:
        """What somebody who never carries makes of a sum: 38+45= → 73. Other operations come out right."""
        if self.family.operation != "+":
            return self.answer
        leading = 10 ** (self.family.digits - 1)
        total = self.left // leading * leading + self.right // leading * leading  # nothing left to carry into
        column = 1
        while column < leading:
            total += (self.left // column + self.right // column) % 10 * column
            column *= 10
        return str(total)

    def question(self, phrasing: Phrasing = "digits") -> str:
        """``12+7=``, ``What is twelve plus seven?`` or, column by column, ``b1+0a2+7=``."""
        if phrasing == "digits":
            return f"{self.left}{self.family.operation}{self.right}="
        if phrasing == "columns":
            columns = zip(COLUMNS, *self.columns, strict=False)
            return "".join(f"{c}{a}{self.family.operation}{b}" for c, a, b in reversed([*columns])) + "="
        return f"What is {in_words(self.left)} {SPOKEN[self.family.operation]} {in_words(self.right)}?"


def parse_family(name: str) -> Family:
    """``+2`` → sums of two-digit numbers. Raises ValueError for anything else."""
    if len(name) < 2 or name[0] not in SPOKEN or not name[1:].isdecimal() or int(name[1:]) < 1:
        raise ValueError(
            f"{name!r} is no problem family: write an operation and an operand length, like +2 or *3"
        )
    return Family(name[0], int(name[1:]))


def in_words(number: int) -> str:
    """English name of 0 ≤ number < 1000, without "and": ``four hundred twenty-one``."""
    if not 0 <= number < WORDS_LIMIT:
        raise ValueError(f"{number} has no short name: numbers in words go from 0 to {WORDS_LIMIT - 1}")
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{ONES[hundreds]} hundred" + (f" {in_words(rest)}" if rest else "")


def draw_family(
    family: Family,
    count: int,
    rng: np.random.Generator,
    excluded: Collection[Problem] = (),
    even_carries: bool = False,
) -> list[Problem]:
    """``count`` distinct problems of a family, shuffled, none of ``excluded``; all there are when fewer.
    ``even_carries``: of the sums as many without a carry as with one, two, …"""
    taken = set(excluded)
    even = even_carries and family.operation == "+"
    quota = -(-count // (family.digits + 1)) if even else count
    numbers: Iterator[int] | np.ndarray = iter(lambda: int(rng.integers(family.size)), None)
    if family.size <= (100 if even else 4) * (count + len(taken)):
        numbers = rng.permutation(family.size)
    drawn: list[Problem] = []
    found: Counter[int] = Counter()
    for number in numbers if count else ():
        problem = family.problem(int(number))
        if problem not in taken and found[problem.carries if even else 0] < quota:
            found[problem.carries if even else 0] += 1
            taken.add(problem)
            drawn.append(problem)
        if len(drawn) == count:
            break
    return drawn


def families(source: ArithmeticSource, where: str = "data.train") -> list[Family]:
    """Every operation with every operand length, in the order the recipe names them. Raises UserError, naming
    the source's key ``where``, for numbers too long to be put in words."""
    longest, most = max(source.digits), {"digits": None, "words": 3, "columns": len(COLUMNS)}[source.phrasing]
    if most is not None and longest > most:
        raise UserError(
            f"{where}.digits: {longest} is too long for phrasing {source.phrasing}, which knows numbers of "
            f"up to {most} digits"
        )
    return [Family(operation, digits) for operation in source.operations for digits in source.digits]


def draw_problems(source: ArithmeticSource, where: str = "data.train") -> list[Problem]:
    """``size`` distinct problems, the same number from each family, shuffled.

    Small families give what they have and the larger ones fill up; fewer than ``size`` come out only
    when all families together are smaller. Order and choice depend on ``source.seed`` alone.
    """
    rng = generator(source.seed, "arithmetic")
    return _draw_evenly(families(source, where), source.size, rng, source.carries == "even")


def arithmetic_rows(source: ArithmeticSource, where: str) -> Iterator[tuple[str, str, None]]:
    """The same problems as rows of a data source (see ``depo.data.prompts``): question, answer, no prior."""
    for problem in draw_problems(source, where):
        yield problem.question(source.phrasing), problem.answer, None


def _draw_evenly(
    pool: Sequence[Family], size: int, rng: np.random.Generator, even_carries: bool
) -> list[Problem]:
    problems: list[Problem] = []
    left = size
    by_size = sorted(pool, key=lambda family: family.size)  # small ones first: what they lack is passed on
    for position, family in enumerate(by_size):
        share = left // (len(by_size) - position)
        drawn = draw_family(family, share, rng, even_carries=even_carries)
        problems += drawn
        left -= len(drawn)
    return [problems[i] for i in rng.permutation(len(problems))]
