"""Whether two formulas are equal: rational numbers exactly, others by their values at a few points to 40
digits, equations by their solutions; sets, inequalities and matrices by math-verify."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from functools import lru_cache
from typing import Any

from depo.reward.reading import Formula, Number, Reading, parsed

DECIMALS = 6  # a decimal is as good as a fraction if they agree to these, from the first significant one on
LARGEST = 400_000  # bits of a number that is computed; larger ones are equal only if they are written alike
DIGITS = 60  # computed of irrational numbers
POINTS = ((0.7310585786, 1), (2.4142135624, -1), (5.3027756377, 1))  # values of variables, and their signs


class TooLarge(ArithmeticError):
    """A number that nobody should compute."""


class Undefined(ArithmeticError):
    """A formula that cannot be compared even with itself: 1/0, a sum that diverges."""


def exact(reading: Reading) -> tuple[Fraction, bool] | None:
    """The rational number that a reading is, and whether decimals were written; None for anything else."""
    value = reading.value
    if isinstance(value, Number):
        return value.value, value.decimal
    if not isinstance(value, Formula) or value.relation:
        return None
    return _exact(value.latex)


@lru_cache(maxsize=4096)
def _exact(latex: str) -> tuple[Fraction, bool] | None:
    expression = parsed(latex)
    if expression is None or getattr(expression, "free_symbols", True):
        return None
    try:
        value = rational(expression)
    except (TooLarge, ZeroDivisionError, ValueError, OverflowError):
        return None
    return None if value is None else (value, "." in latex)


def rational(expression: Any) -> Fraction | None:
    """The exact value of sums, products, powers and factorials of rational numbers; None for anything else.

    Raises TooLarge before it computes a number of more than LARGEST bits, wherever in the expression.
    """
    import sympy

    if isinstance(expression, sympy.Rational):
        return Fraction(int(expression.p), int(expression.q))
    if isinstance(expression, sympy.Float):
        return Fraction(repr(float(expression)))
    parts = [rational(part) for part in getattr(expression, "args", ()) if isinstance(part, sympy.Basic)]
    if not parts or any(part is None for part in parts):
        return None
    numbers = [part for part in parts if part is not None]
    if isinstance(expression, sympy.Add):
        return sum(numbers, Fraction())
    if isinstance(expression, sympy.Mul):
        return _bounded(math.prod(numbers, start=Fraction(1)))
    if isinstance(expression, sympy.Pow):
        return _power(*numbers)
    if isinstance(expression, sympy.factorial):
        _check(numbers[0] < 20_000)
        whole = numbers[0].denominator == 1 and numbers[0] >= 0
        return Fraction(math.factorial(numbers[0].numerator)) if whole else None
    if isinstance(expression, sympy.UnevaluatedExpr):
        return numbers[0]
    if isinstance(expression, sympy.Abs):
        return abs(numbers[0])
    return None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = math.isqrt(base.numerator) if base >= 0 else 0
        below = math.isqrt(base.denominator)
        if exponent.denominator != 2 or root**2 != base.numerator or below**2 != base.denominator:
            return None
        base, exponent = Fraction(root, below), Fraction(exponent.numerator)
    bits = max(abs(base.numerator), base.denominator).bit_length()
    _check(abs(base) in (0, 1) or abs(exponent) * bits < LARGEST)
    return Fraction(base ** (exponent.numerator % 2 if abs(base) == 1 else exponent.numerator))


def _bounded(value: Fraction) -> Fraction:
    _check(value.numerator.bit_length() + value.denominator.bit_length() < 4 * LARGEST)
    return value


def _check(small: bool) -> None:
    if not small:
        raise TooLarge


def same_formulas(gold: Reading, answer: Reading) -> bool:
    """Raises Undefined where sympy fails, and cannot compare the gold even with itself."""
    ours, theirs = (_expression(reading) for reading in (gold, answer))
    if ours is None or theirs is None:
        return False
    try:
        for expression in (ours, theirs):
            if hasattr(expression, "args"):
                rational(expression)
        if _is_expression(ours) and _is_expression(theirs):
            verdict = _same_at_points(ours, theirs, "." in gold.text or "." in answer.text)
            if verdict is not None:
                return verdict
        if _is_equation(ours) and _is_equation(theirs):
            return same_equations(gold, answer)
        return verify(ours, theirs)
    except TooLarge:
        return bool(ours == theirs)
    except MemoryError:  # no verdict, rather than a wrong answer
        raise
    except Exception as error:  # sympy raises anything for what nobody thought of
        if answer is gold:
            raise Undefined(str(error)) from error
        same_formulas(gold, gold)  # raises where it is not the answer that is at fault
        return False


def _expression(reading: Reading) -> Any:
    value = reading.value
    if isinstance(value, Number):
        import sympy

        found = sympy.Rational(value.value.numerator, value.value.denominator)
        return found / 100 if reading.percent else found
    if not isinstance(value, Formula):
        return None
    found = parsed(value.latex)
    return found / 100 if reading.percent and _is_expression(found) else found


def _is_expression(found: Any) -> bool:
    from sympy import Expr

    return isinstance(found, Expr)


def _is_equation(found: Any) -> bool:
    from sympy import Equality

    return isinstance(found, Equality)


def _same_at_points(ours: Any, theirs: Any, decimal: bool) -> bool | None:
    """Whether two expressions agree in value; None where they cannot be computed (sets, limits, unknown
    functions)."""
    import sympy

    unit = [symbol for symbol in ours.free_symbols | theirs.free_symbols if symbol.name == "i"]
    e = [symbol for symbol in ours.free_symbols | theirs.free_symbols if symbol.name == "e"]
    known = {**dict.fromkeys(unit, sympy.I), **dict.fromkeys(e, sympy.E)}
    ours, theirs = ours.subs(known), theirs.subs(known)
    names = sorted({symbol.name for symbol in ours.free_symbols | theirs.free_symbols})
    if {symbol.name for symbol in ours.free_symbols} != {symbol.name for symbol in theirs.free_symbols}:
        return False if not (ours - theirs).has(sympy.Function) else None
    agreed = 0
    for start, sign in POINTS if names else POINTS[:1]:
        at = {
            name: sympy.Rational(str(round(sign * start * (1 + place / 7), 10)))
            for place, name in enumerate(names)
        }
        values = []
        for expression in (ours, theirs):
            here = expression.subs({symbol: at[symbol.name] for symbol in expression.free_symbols})
            value = here.evalf(DIGITS, maxn=400)
            if not value.is_number or value.has(sympy.nan, sympy.zoo) or value.is_finite is False:
                break
            if not all(part.is_Float or part.is_Rational for part in value.as_real_imag()):
                break
            values.append(value)
        if len(values) < 2:
            continue
        size = max(abs(values[0]), sympy.Float(10) ** -30)
        off = abs(values[0] - values[1])
        if decimal and not names:
            off_allowed = sympy.Float(10) ** -DECIMALS / 2 * min(1, size if size < 0.001 else 1)
        else:
            off_allowed = size * sympy.Float(10) ** (-12 if decimal else -40)
        if not off <= off_allowed:
            return False
        agreed += 1
    return True if agreed else None


def same_equations(gold: Reading, answer: Reading) -> bool:
    """Equations with the same solutions: one a multiple of the other, else solved for the same variable."""
    import sympy

    sides = []
    for reading in (gold, answer):
        value = reading.value
        if reading.name:
            found, name = _expression(reading), parsed(reading.name)
            found = (
                sympy.Eq(name, found, evaluate=False)
                if _is_expression(found) and _is_expression(name)
                else None
            )
        else:
            found = parsed(value.latex) if isinstance(value, Formula) else None
        if found is None or not _is_equation(found):
            return False
        sides.append(found.lhs - found.rhs)
    ours, theirs = sides
    if ours.free_symbols != theirs.free_symbols or not ours.free_symbols:
        return False
    chance = random.Random(0)
    symbols = sorted(ours.free_symbols, key=str)
    ratios = []
    for _ in range(3):
        at = {symbol: sympy.Rational(chance.randint(200, 4000), 997) for symbol in symbols}
        values = [side.subs(at).evalf(30) for side in sides]
        if not all(value.is_Float or value.is_Rational for value in values) or values[1] == 0:
            break
        ratios.append(values[0] / values[1])
    if (
        len(ratios) == 3
        and all(abs(ratio - ratios[0]) < abs(ratios[0]) * 1e-15 for ratio in ratios)
        and ratios[0] != 0
    ):
        return True
    for symbol in symbols:  # y = 1/x and xy = 1, both solved for y
        slopes = [side.diff(symbol) for side in sides]
        if not any(slope.has(symbol) or slope == 0 for slope in slopes):
            solved = [-side.subs(symbol, 0) / slope for side, slope in zip(sides, slopes, strict=True)]
            return _same_at_points(solved[0], solved[1], decimal=False) is True
    return False


def verify(gold: Any, answer: Any) -> bool:
    """math-verify's own verdict: on sets, intervals, inequalities and matrices."""
    import math_verify

    return bool(math_verify.verify([gold], [answer], allow_set_relation_comp=True, timeout_seconds=None))
