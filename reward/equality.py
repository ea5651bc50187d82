"""Whether two readings say the same. What both say must agree; what one leaves out (a unit, the name of a
variable, a base) is not held against it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from depo.reward.formulas import DECIMALS, exact, same_equations, same_formulas, verify
from depo.reward.reading import Based, Clock, Formula, Listing, Ratio, Reading, Words, parsed
from depo.reward.units import measure


def same(gold: Reading, answer: Reading) -> bool:
    """Whether an answer is the reference's. Not symmetric: "a + b = 5" answers 5, not the other way round."""
    if gold.letter and answer.letter and not gold.text[2:].strip("()."):
        return gold.letter == answer.letter
    if isinstance(gold.value, Words) or isinstance(answer.value, Words):
        return _same_words(gold.value, answer.value)
    if gold.name and answer.name and gold.name != answer.name:
        return same_equations(gold, answer)
    pair = (gold, answer)
    equations = any(map(_equation, pair)) and all(_equation(one) or one.name for one in pair)
    if equations and same_equations(gold, answer):
        return True
    if gold.modulus and answer.modulus and gold.modulus != answer.modulus:
        return False
    scale = _scale(gold.unit, answer.unit)
    if scale is None:
        return False
    return _same_percent(gold, answer, scale)


def _same_words(gold: object, answer: object) -> bool:
    return isinstance(gold, Words) and isinstance(answer, Words) and gold.text == answer.text


def _scale(gold: str, answer: str) -> Fraction | None:
    """What the answer is multiplied by to be in the gold's unit; None where the units are of another kind."""
    if not gold or not answer or gold == answer or ({gold, answer} & {"degree"} and gold[:6] == answer[:6]):
        return Fraction(1)
    ours, theirs = measure(gold), measure(answer)
    if ours is None or theirs is None:
        return Fraction(1)  # apples and pieces
    return theirs[1] / ours[1] if ours[0] == theirs[0] else None


def _same_percent(gold: Reading, answer: Reading, scale: Fraction) -> bool:
    if gold.percent == answer.percent:
        return _same_values(gold, answer, scale)
    bare = answer if gold.percent else gold
    # 37 for 37% is what was asked for "in percent"; 0.5 for 0.5% is another number.
    value = exact(bare)
    if (
        value is not None
        and not bare.unit
        and (abs(value[0]) >= 1 or value[0] == 0)
        and _same_values(gold, answer, scale)
    ):
        return True
    return _same_values(gold, answer, scale * Fraction(100 if gold.percent else Fraction(1, 100)))


def _same_values(gold: Reading, answer: Reading, scale: Fraction = Fraction(1)) -> bool:
    ours, theirs = gold.value, answer.value
    if gold.text == answer.text and gold.percent == answer.percent:
        return True
    if isinstance(ours, Clock) or isinstance(theirs, Clock):
        return _same_clock(ours, theirs, gold, answer)
    if isinstance(ours, Based) or isinstance(theirs, Based):
        return _same_based(gold, answer)
    if isinstance(ours, Ratio) or isinstance(theirs, Ratio):
        return _same_ratio(gold, answer)
    if isinstance(ours, Listing) or isinstance(theirs, Listing):
        return _same_listing(gold, answer)
    if isinstance(theirs, Formula) and theirs.right and not (isinstance(ours, Formula) and ours.relation):
        return same(gold, theirs.right)
    mine, other = exact(gold), exact(answer)
    if mine is not None and other is not None:
        return _same_numbers(mine, (other[0] * scale, other[1]), gold.modulus or answer.modulus)
    return scale == 1 and same_formulas(gold, answer)


def _same_numbers(gold: tuple[Fraction, bool], answer: tuple[Fraction, bool], modulus: str = "") -> bool:
    if modulus.isdigit() and int(modulus):
        return (gold[0] - answer[0]) % int(modulus) == 0
    if gold[0] == answer[0] or not (gold[1] or answer[1]):
        return gold[0] == answer[0]
    size = abs(gold[0])
    if size == 0:
        return abs(answer[0]) < Fraction(1, 10**12)
    zeros = math.floor(-_log10(size)) if 0 < size < Fraction(1, 1000) else 0
    return abs(gold[0] - answer[0]) * 10 ** (DECIMALS + zeros) < Fraction(1, 2)


def _log10(value: Fraction) -> float:
    return math.log10(value.numerator) - math.log10(value.denominator)


# ---------------------------------------------------------------- structure


def _same_clock(ours: object, theirs: object, gold: Reading, answer: Reading) -> bool:
    if not isinstance(ours, Clock) or not isinstance(theirs, Clock):
        clock, other = (ours, answer) if isinstance(ours, Clock) else (theirs, gold)
        assert isinstance(clock, Clock)
        value = exact(other)  # 7 for 7 a.m.; 1/12 for 1:12
        if value is None or clock.half:
            return value is not None and clock.minute == 0 and value[0] % 12 == clock.hour
        return clock.minute > 0 and value[0] == Fraction(clock.hour, clock.minute)
    hours = [
        (clock.hour % 12 + 12 * (clock.half == "p")) if clock.half else clock.hour for clock in (ours, theirs)
    ]
    if ours.minute != theirs.minute:
        return False
    if (ours.half and theirs.half) or (not ours.half and not theirs.half):
        return hours[0] == hours[1]
    return hours[0] == hours[1] or (max(ours.hour, theirs.hour) <= 12 and ours.hour % 12 == theirs.hour % 12)


def _same_based(gold: Reading, answer: Reading) -> bool:
    ours, theirs = gold.value, answer.value
    if isinstance(ours, Based) and isinstance(theirs, Based):
        return ours == theirs
    based, other = (ours, answer) if isinstance(ours, Based) else (theirs, gold)
    return isinstance(based, Based) and other.text.lstrip("0") == based.digits


def _same_ratio(gold: Reading, answer: Reading) -> bool:
    parts = [
        [exact(part) for part in value.parts] if isinstance(value := reading.value, Ratio) else None
        for reading in (gold, answer)
    ]
    ours, theirs = parts
    if ours is not None and theirs is not None:
        if len(ours) != len(theirs) or None in ours or None in theirs:
            return False
        numbers = [(mine[0], other[0]) for mine, other in zip(ours, theirs, strict=True) if mine and other]
        first = numbers[0]
        return any(map(any, numbers)) and all(a * first[1] == b * first[0] for a, b in numbers)
    ratio, single = (ours, answer) if ours is not None else (theirs, gold)
    number = exact(single)
    if ratio is None or number is None or len(ratio) != 2 or ratio[0] is None or ratio[1] is None:
        return False
    return ratio[1][0] != 0 and number[0] == ratio[0][0] / ratio[1][0]


def _same_listing(gold: Reading, answer: Reading) -> bool:
    ours, theirs = _unfolded(gold), _unfolded(answer)
    if _may_be_set(gold) and _may_be_set(answer) and not all(listing.opening for listing in (ours, theirs)):
        return _union(gold, answer)
    if not ours.items or not theirs.items:
        return len(ours.items) == len(theirs.items) and ours.opening == theirs.opening
    names = [[item.name for item in listing.items] for listing in (ours, theirs)]
    if all(map(all, names)) and len(ours.items) > 1 and len(set(names[0])) == len(names[0]):
        by_name = {item.name: item for item in theirs.items}
        return len(by_name) == len(theirs.items) == len(ours.items) and all(
            item.name in by_name and same(item, by_name[item.name]) for item in ours.items
        )
    # x = 4, y = 9 and (4, 9): in the order of the names.
    if len(ours.items) > 1 and len(ours.items) == len(theirs.items) and all(names[0]) != all(names[1]):
        ours, theirs = _in_order(ours), _in_order(theirs)
        if all(names[0]) or all(names[1]):
            return _item_by_item(ours, theirs)
    ordered = [listing.opening not in ("", r"\{") for listing in (ours, theirs)]
    if any(ordered) or any(_dots(item) for item in ours.items):
        if all(ordered) and _shape(ours) != _shape(theirs):
            return False
        bare = theirs if ordered[0] else ours
        if ordered[0] != ordered[1] and (_shape(ours if ordered[0] else theirs) != "()" or bare.opening):
            return False
        return _item_by_item(ours, theirs)
    left = _distinct(theirs.items)
    wanted = _distinct(ours.items)
    if len(left) != len(wanted):
        return False
    for item in wanted:
        found = next((place for place, other in enumerate(left) if same(item, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _unfolded(reading: Reading) -> Listing:
    return reading.value if isinstance(reading.value, Listing) else Listing((reading,))


def _shape(listing: Listing) -> str:
    return "()" if listing.opening == r"\langle" else listing.opening + listing.closing


def _dots(item: Reading) -> bool:
    return isinstance(item.value, Formula) and item.value.latex in (r"\ldots", "...", ". . .")


def _in_order(listing: Listing) -> Listing:
    return Listing(tuple(sorted(listing.items, key=lambda item: item.name)))


def _item_by_item(ours: Listing, theirs: Listing) -> bool:
    return len(ours.items) == len(theirs.items) and all(
        same(a, b) for a, b in zip(ours.items, theirs.items, strict=True)
    )


def _distinct(items: tuple[Reading, ...]) -> list[Reading]:
    """Without repetition: "0.09 or 9/100" is one value. Long lists are taken as they are."""
    if len(items) > 20:
        return list(items)
    kept: list[Reading] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _may_be_set(reading: Reading) -> bool:
    value = reading.value
    if isinstance(value, Listing):
        return len(value.items) == 2 if value.opening else all(map(_relational, value.items))
    return isinstance(value, Formula)


def _union(gold: Reading, answer: Reading) -> bool:
    """Inequalities joined by or (and), against intervals or other inequalities."""
    sets = [_as_set(reading) for reading in (gold, answer)]
    return sets[0] is not None and sets[1] is not None and verify(sets[0], sets[1])


def _as_set(reading: Reading) -> Any:
    value = reading.value
    if isinstance(value, Listing):
        if value.opening:
            return parsed(_bracket_text(reading))
        sets = [_as_set(item) for item in value.items]
        if any(one is None for one in sets) or not all(_relational(item) for item in value.items):
            return None
        from sympy import Intersection, Union

        return Intersection(*sets) if value.joint == "and" else Union(*sets) if value.joint == "or" else None
    if isinstance(value, Formula):
        from sympy import Set

        found = parsed(value.latex)
        try:
            return found.as_set() if _relational(reading) else found if isinstance(found, Set) else None
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            return None
    return None


def _equation(reading: Reading) -> bool:
    return isinstance(reading.value, Formula) and reading.value.right is not None


def _relational(reading: Reading) -> bool:
    return isinstance(reading.value, Formula) and reading.value.relation and reading.value.right is None


def _bracket_text(reading: Reading) -> str:
    value = reading.value
    assert isinstance(value, Listing)
    if len(value.items) != 2 or value.opening not in ("(", "["):
        return r"\emptyset\emptyset"
    return reading.text
