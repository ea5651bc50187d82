r"""What an answer says: a number, words, a list, a time, a ratio, a number in another base, or a formula.

Structure is read here: lists, tuples, intervals, names ("x = 5"), units, percent signs. What is left are
formulas without structure, which `math_verify` parses (`parsed`), all of the text or nothing: what cannot be
read as a whole is not read by its last number.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from depo.reward.normalise import (
    ORDINAL,
    PERCENT,
    WRAPPED,
    braced,
    joined_thousands,
    spelled,
    strip_decoration,
    strip_fonts,
    symbols,
)
from depo.reward.units import split_unit

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off, as meant

NESTED = 200  # brackets of an answer; the parser takes seconds for more
LONGEST = 1_000  # characters of an answer; beyond, it is compared as text


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction
    decimal: bool  # written with a decimal point, so perhaps rounded


@dataclass(frozen=True, slots=True)
class Words:
    text: str  # letters, digits and operators, in lower case
    count: int
    hedged: bool = False  # says what it is not, or more than one thing


@dataclass(frozen=True, slots=True)
class Listing:
    """Items between brackets, "(" and ")" for example; "" where there are none."""

    items: tuple[Reading, ...]
    opening: str = ""
    closing: str = ""
    joint: str = ","  # "and" and "or" where these join all items


@dataclass(frozen=True, slots=True)
class Clock:
    hour: int
    minute: int
    half: str  # "a", "p" or ""


@dataclass(frozen=True, slots=True)
class Based:
    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Formula:
    """LaTeX without structure; ``relation``: it holds =, < or the like; ``right``: what stands behind "="."""

    latex: str
    relation: bool = False
    right: Reading | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer. ``text`` is all of it without spaces and fonts: what is written alike is alike."""

    text: str
    value: Number | Words | Listing | Clock | Based | Ratio | Formula
    unit: str = ""
    percent: bool = False
    name: str = ""  # x of "x = 5"
    modulus: str = ""  # 7 of "3 mod 7"
    letter: str = ""  # C of "(C) 25": the choice it names, if it may be one


_HEDGE = re.compile(
    r"(?<![\\a-z])(?:not|maybe|perhaps|possibly|probably|unsure|guess|alternatively|otherwise|neither|nor|except|than|least|most"
    r"|unless|either|isn't|unknown|between)(?![a-z])|不是|或许|或許|可能|也许|也許|或者|或|ではない|아니",
    re.IGNORECASE,
)
_CLOSING_STOP = re.compile(r"(?<![\\.,;\s])\s*[.,;]\s*\Z")
_EVIDENT = re.compile(
    r"^(?:\s*(?:=|\\approx|\\equiv|:|~|(?:\\text\s*\{\s*)?"
    r"(?:about|approximately|roughly|exactly|around|only|just)\s*\}?)(?![a-zA-Z]))+\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:\\text\{)?\s*[A-Za-z][A-Za-z ,']{2,60}(?:\b(?:is|are|equals)\b\s*:?|[:=])\s*\}?\s*(?=[-+\d\\$(\[.])"
    r"|^[A-Za-z ']{3,40}:\s*(?=\w)",
)
_AND_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox|textbf)\s*\{([^{}]*?),?\s*\b(and|or)\b([^{}]*)\}")
_CHOICE = re.compile(r"^\(?([A-J])\)?(?=$|[.):]\s*\S|\)?\s*[.):])(?![.):]?\s*=)")
_MORE_CHOICES = re.compile(r"\b[A-J][.):]|\([A-J]\)|\b(?:or|and)\b")
_CLOCK = re.compile(r"^(\d{1,2})(?::(\d\d))?\s*([ap])\s*\.?\s*m\.?$", re.IGNORECASE)
_PLAIN_CLOCK = re.compile(r"^(\d{1,2}):(\d\d)$")
_DIGITS = {
    word: number
    for number, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2
    )
} | {"sixteen": 16}
_BASED = re.compile(
    r"^\(?([0-9A-F]+)\)?\s*(?:_\s*\{?\s*\(?|\(?\s*(?:in )?base[\s-]*)(\d{1,2}|"
    + "|".join(_DIGITS)
    + r")\)?\s*\}?\)?$"
)
_MODULUS = re.compile(
    r"^(?:\w\s*\\equiv\s*)?(.+?)\s*(?:\\pmod\s*\{?|\\p?mod\s*\{?|\(\s*\\?b?mod\s*|\\bmod\s*|\bmod\s+)(\w+)\}?\)?$"
)
_NAME = (
    r"(?:\\?[a-zA-Z]+|\\(?:over\w+|vec|hat|angle)\s*\{?\s*\w+\}?|\|\w+\|)"
    r"(?:_(?:\w|\{[^{}]*\}))?'*(?:\s*\([^()=]*\))?"
)
_NAMED = re.compile(rf"^({_NAME})\s*(?:=|\\in(?![a-zA-Z])|\\approx(?![a-zA-Z]))\s*(.+)$", re.DOTALL)
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|to|subset|subseteq|Rightarrow|mid|parallel|perp)(?![a-zA-Z])")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_FRACTION = re.compile(r"^([-+]?)\s*\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}$")
_DECIMAL = re.compile(r"^([-+]?)\s*(\d+\.?\d*|\.\d+)$")
_BLANK = re.compile(r"[\s{}]+")
_NAMED_PAIR = re.compile(r"^\([a-zA-Z_\d, \\{}]+\)\s*=\s*(\(.*\))$")
_SUCH_THAT = re.compile(r"^\\\{\s*\w+\s*(?:\\mid|\\vert|\||:)\s*(.+[<>=].*|.+\\(?:le|ge|ne|in)\b.*)\\\}$")
_PAIR_NAME = re.compile(r"^[A-Z]'?\s*(?=\()")
_OPENING, _CLOSING = ("(", "[", r"\{", r"\langle"), (")", "]", r"\}", r"\rangle")
_BRACKET = re.compile(
    r"\\[{}]|\\(?:langle|rangle|begin|end)(?![a-zA-Z])|[(\[\])]|(?<!\\)[{}]|,|;|\b(?:and|or)\b|(?<!\\)\\\\"
)


def read(raw: str) -> Reading | None:
    """What an answer says; None where it says nothing."""
    text = strip_decoration(raw)
    if not re.search(r"\w|\\infty|\\emptyset", text):
        return None
    signs = [len(re.findall(pattern, text)) for pattern in (r"[(\[{]", r"[)\]}]")]
    if len(text) > LONGEST or signs[0] != signs[1] or signs[0] > NESTED:
        return _words(text)  # brackets that do not match: no grammar reads it
    text = _CLOSING_STOP.sub("", text)
    if _HEDGE.search(strip_fonts(text)):
        return _words(text, hedged=True)
    return _read(joined_thousands(_AND_TEXT.sub(_split_text, _LABEL.sub("", text, count=1))))


def _split_text(match: re.Match[str]) -> str:
    before, joint, after = (part.strip() for part in match.groups())
    return " ".join([rf"\text{{{before}}}" if before else "", joint, rf"\text{{{after}}}" if after else ""])


def _words(text: str, hedged: bool = False) -> Reading:
    bare = strip_fonts(text)
    letters = re.sub(r"[^\w+\-*/^=<>.]|\.(?!\d)", "", bare).lower()
    return Reading(_tight(text), Words(letters or bare, len(bare.split()), hedged), letter=_choice(bare))


def _tight(text: str) -> str:
    return _BLANK.sub("", strip_fonts(text))


def _choice(bare: str) -> str:
    found = _CHOICE.match(bare)
    return found[1] if found and not _MORE_CHOICES.search(bare, found.end() + 1) else ""


def _read(text: str) -> Reading:
    text = _EVIDENT.sub("", text).strip()
    bare = strip_fonts(text).strip()
    tight = _tight(text)
    condition = _NAMED_PAIR.match(bare) or _SUCH_THAT.match(bare)
    if condition:
        return replace(_read(condition[1]), text=tight)
    special = _special(bare)
    if special is not None:
        return Reading(tight, special, letter=_choice(bare))
    modulus = _MODULUS.match(bare)
    if modulus:
        return replace(_read(modulus[1]), text=tight, modulus=modulus[2])
    inner = _bracketed(bare)
    if inner is not None:
        opening, closing, content = inner
        parts = _parts(content)
        if len(parts) == 1 and opening in "([" and closing in ")]":
            return replace(_read(content), text=tight, letter=_choice(bare))
        return Reading(tight, Listing(tuple(_read(part) for _, part in parts), opening, closing))
    if "\\begin" not in text:
        parts = _parts(text)
        if len(parts) > 1:
            return _listing(tight, parts)
        if r"\pm" in text or r"\mp" in text:
            both = [
                (",", text.replace(r"\pm", "+").replace(r"\mp", "-")),
                (",", text.replace(r"\pm", "-").replace(r"\mp", "+")),
            ]
            return _listing(tight, both)
    named = _NAMED.match(text) or _NAMED.match(bare)
    if named and not re.search(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])", named[2]):
        *_, last = _sides(named[2])
        return replace(_read(last), text=tight, name=re.sub(r"[\s{}\\]", "", strip_fonts(named[1])))
    return _scalar(text, tight, bare)


def _scalar(text: str, tight: str, bare: str) -> Reading:
    whole = WRAPPED.match(text)
    if whole and braced(text, whole.end() - 1) == len(text) - 1:
        text = text[whole.end() : -1].strip()
    rest, unit = split_unit(ORDINAL.sub("", text))
    if unit and _bracketed(strip_fonts(rest)) is not None:
        return replace(_read(rest), text=tight, unit=unit)
    percent = PERCENT.search(strip_fonts(rest))
    latex = symbols(PERCENT.sub("", strip_fonts(rest)) if percent else rest).strip()
    number = _number(latex) or _spelled_out(bare)
    letter = _choice(bare)
    if number is not None:
        return Reading(tight, number, unit, percent is not None, letter=letter)
    if _is_prose(latex) or not latex.isascii():
        return _words(text)
    sides = _sides(latex)
    relation = _RELATION.search(latex) is not None
    if len(sides) > 1 and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", sides[0])):
        return replace(_read(sides[-1]), text=tight)  # 2 + 3 = 5
    right = _read(sides[-1]) if len(sides) == 2 else None
    return Reading(tight, Formula(latex, relation, right), unit, percent is not None, letter=letter)


_SHORT_WORDS = {"yes", "odd", "all", "one", "two", "none", "true", "even"}


def _is_prose(latex: str) -> bool:
    """Whether words are more than products of variables: long ones, or with a capital in front only."""
    words = _WORD.findall(re.sub(r"\\begin\{\w+\}|\\end\{\w+\}|_\{[^{}]*\}|_\w+", "", latex))
    if [word.upper() for word in words] == words and len(words) == 1 and len(words[0]) < 4:
        return words[0].lower() in _SHORT_WORDS  # ABC is a triangle, or a product
    return any(
        len(word) > 3 or word.lower() in _SHORT_WORDS or re.match(r"[A-Z][a-z]", word) for word in words
    )


def _special(bare: str) -> Clock | Based | Ratio | None:
    clock = _CLOCK.match(bare)
    if clock and int(clock[1]) <= 12:
        return Clock(int(clock[1]) % 12, int(clock[2] or 0), clock[3].lower())
    based = _BASED.match(bare)
    if based and based[1][0].isdigit():
        base = _DIGITS.get(based[2]) or int(based[2])
        if all(int(digit, 16) < base for digit in based[1]):
            return Based(based[1].lstrip("0"), base)
    plain_clock = _PLAIN_CLOCK.match(bare)
    if plain_clock and int(plain_clock[1]) < 24 and int(plain_clock[2]) < 60:
        return Clock(int(plain_clock[1]), int(plain_clock[2]), "")
    parts = re.split(r"\s*:\s*|(?<=\d)\s+to\s+(?=\d)", bare)
    if 1 < len(parts) < 6 and all(re.fullmatch(r"\s*[\w\\.{}]+\s*", part) for part in parts):
        return Ratio(tuple(_read(part) for part in parts))
    return None


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Opening, closing and content where one pair of brackets holds all of the text."""
    text = _PAIR_NAME.sub("", text) if "," in text else text
    opening = next((sign for sign in _OPENING if text.startswith(sign)), None)
    if opening is None:
        return None
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[0] in _OPENING or match[0] in ("{", r"\begin"):
            depth += 1
        elif match[0] in _CLOSING or match[0] in ("}", r"\end"):
            depth -= 1
            if depth == 0:
                whole = match.end() == len(text) and match[0] in _CLOSING
                return (opening, match[0], text[len(opening) : match.start()].strip()) if whole else None
    return None


def _parts(text: str) -> list[tuple[str, str]]:
    """Items of a list, each with the joint before it. Commas within brackets join nothing."""
    parts, start, depth, joint = [], 0, 0, ","
    for match in _BRACKET.finditer(text):
        sign = match[0]
        if sign in _OPENING or sign in ("{", r"\begin"):
            depth += 1
        elif sign in _CLOSING or sign in ("}", r"\end"):
            depth -= 1
        elif depth == 0 and sign != r"\\":
            part = text[start : match.start()].strip()
            if part:
                parts.append((joint, part))
            joint = sign if part or sign in ("and", "or") else joint
            start = match.end()
    if text[start:].strip():
        parts.append((joint, text[start:].strip()))
    return parts


def _listing(tight: str, parts: list[tuple[str, str]]) -> Reading:
    items = [_read(part) for _, part in parts]
    joints = {joint for joint, _ in parts[1:]}
    names = [item.name for item in items]
    name = ""
    if names[0] and all(other in ("", names[0]) for other in names[1:]):
        items, name = [replace(item, name="") for item in items], names[0]
    flat = [one for item in items for one in _plain_items(item)]  # 0, \pm 2
    listing = Listing(tuple(flat), joint=joints.pop() if len(joints) == 1 else ",")
    return Reading(tight, listing, unit=items[-1].unit, name=name)


def _plain_items(item: Reading) -> tuple[Reading, ...]:
    value = item.value
    return value.items if isinstance(value, Listing) and not value.opening else (item,)


def _sides(text: str) -> list[str]:
    return [side.strip() for side in re.split(r"(?<![\\<>!:])=", text) if side.strip()] or [text]


def _spelled_out(bare: str) -> Number | None:
    value = spelled(bare)
    return None if value is None else Number(Fraction(value), False)


def _number(latex: str) -> Number | None:
    decimal = _DECIMAL.match(latex)
    if decimal and len(latex) < 1000:
        value = Fraction(decimal[2].rstrip(".") or "0")
        return Number(-value if decimal[1] == "-" else value, "." in decimal[2].rstrip("."))
    fraction = _FRACTION.match(latex)
    if fraction is None and (slash := re.match(r"^([-+]?)\s*(\d+)\s*/\s*(\d+)$", latex)):
        fraction = slash
    if fraction and int(fraction[3]) and len(latex) < 1000:
        value = Fraction(int(fraction[2]), int(fraction[3]))
        return Number(-value if fraction[1] == "-" else value, False)
    return None


# ---------------------------------------------------------------- formulas


@lru_cache(maxsize=4096)  # groups share references, and often answers
def parsed(latex: str) -> Any:
    """The formula as sympy has it; None where it cannot be read as a whole."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # The parser adds up numbers that stand side by side. Units are split off already; what it takes for
    # units would be variables.
    if re.search(r"(?<![_^\w.])\d[\d.]*\s+\d|\\ldots|\.\.\.|\\approx", latex):
        return None
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    )
    target = LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)
    found = parse(rf"\boxed{{{latex}}}", [target], fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def is_parsed(reading: Reading) -> bool:
    """Whether all formulas of an answer can be read; words are what they are."""
    value = reading.value
    if isinstance(value, Listing):
        return all(map(is_parsed, value.items))
    if isinstance(value, Words):
        return not value.hedged
    return not isinstance(value, Formula) or value.latex == r"\ldots" or parsed(value.latex) is not None
