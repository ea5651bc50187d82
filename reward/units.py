"""Units of measurement and what is counted: split off a number, compared where both sides have one."""

from __future__ import annotations

import re
from fractions import Fraction

from depo.reward.normalise import TRIGONOMETRY

# dimension: name=size in the first unit of its line. Plurals and these names only; a single letter is a unit
# inside of \\text{…} or \\mathrm{…}, a variable outside.
_TABLE = """
length: m=1 metre=1 meter=1 mm=1/1000 millimeter=1/1000 millimetre=1/1000 cm=1/100 centimeter=1/100
  centimetre=1/100 dm=1/10 km=1000 kilometer=1000 kilometre=1000 in=127/5000 inch=127/5000 ft=381/1250
  foot=381/1250 feet=381/1250 yd=1143/1250 yard=1143/1250 mi=201168/125 mile=201168/125
mass: g=1 gram=1 gm=1 mg=1/1000 milligram=1/1000 kg=1000 kilogram=1000 ton=1000000 tonne=1000000
weight: lb=1 pound=1 oz=1/16 ounce=1/16
time: s=1 sec=1 second=1 min=60 minute=60 h=3600 hr=3600 hour=3600 day=86400 week=604800
calendar: month=1 year=12 yr=12
volume: l=1 liter=1 litre=1 ml=1/1000 milliliter=1/1000 millilitre=1/1000
gallon: gallon=1 gal=1 quart=1/4 pint=1/8 cup=1/16
dollar: usd=1 dollar=1 cent=1/100
euro: eur=1 euro=1
sterling: gbp=1
yen: jpy=1 yen=1 yuan=1
rupee: inr=1 rs=1 rupee=1
angle: degree=1 deg=1
radian: rad=1 radian=1
celsius: celsius=1 c=1
fahrenheit: fahrenheit=1 f=1
force: n=1 newton=1
energy: j=1 joule=1 kj=1000
power: w=1 watt=1 kw=1000
voltage: v=1 volt=1
current: a=1 ampere=1 amp=1
pressure: pa=1 pascal=1
amount: mol=1 mole=1
frequency: hz=1 hertz=1
"""
_SIZES: dict[str, tuple[str, Fraction]] = {}
for _line in re.sub(r"\n  ", " ", _TABLE).strip().splitlines():
    _dimension, _, _units = _line.partition(": ")
    for _unit in _units.split():
        _name, _, _size = _unit.partition("=")
        _SIZES[_name] = (_dimension, Fraction(_size))
_SIZES["inche"] = _SIZES["inch"]  # inches without its s
_CURRENCIES = {
    "$": "usd",
    "USD": "usd",
    "US$": "usd",
    "€": "eur",
    "£": "gbp",
    "¥": "jpy",
    "₹": "inr",
    "Rs": "rs",
    "Rs.": "rs",
    "₩": "won",
}

_FONT = r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox|hbox|operatorname|rm|textnormal|mathsf)\s*"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_ONE = rf"{_FONT}\{{[^{{}}]*\}}{_POWER}"
_DEGREE = r"\^\s*(?:\{\s*)?\\circ(?:\s*\})?"
_BLOCK = rf"(?:\\frac\s*\{{\s*{_ONE}\s*\}}\s*\{{\s*{_ONE}\s*\}}|{_ONE}|{_DEGREE})"
_TEXT_UNIT = re.compile(rf"(?:\s*(?:/|\\cdot|\\times|\\?%)?\s*{_BLOCK})+\s*$")
_KNOWN = "|".join(
    sorted((name for name in [*_SIZES, "mph", "kmh", "kph"] if len(name) > 1), key=len, reverse=True)
)
_WORD = rf"(?:(?:{_KNOWN})s?|sq\.?|square|cubic|squared|cubed|per|of|[a-z]{{4,}})"
_PLAIN_UNIT = re.compile(
    rf"(?<=[\d}}\)%!])(?:\s*(?:km|m|cm|ft|mi|miles?)/(?:s|h|hr|min|sec){_POWER}"
    rf"|\s*(?:{_KNOWN})s?{_POWER}|\s+{_WORD}(?:[\s/-]+{_WORD}){{0,5}}{_POWER}(?:/(?:{_KNOWN}|h|s){_POWER})?)\.?\s*$",
    re.IGNORECASE,
)
_FOREIGN_UNIT = re.compile(r"(?<=[\d}\)%])\s*[^\x00-\x7f]+(?:\s+[^\x00-\x7f]+)*\s*$")
_CURRENCY = re.compile(r"^(-?)\s*(?:" + _FONT + r"\{\s*)?(US\$|USD|Rs\.?|[$€£¥₹₩])\s*\}?\s*(?=[-\d.\\(])")
_FUNCTION_WORDS = re.compile(r"\b(?:where|when|for|if|with|mod)\b", re.IGNORECASE)


def split_unit(text: str) -> tuple[str, str]:
    """An answer without its unit, and the unit in plain words ("" where there is none)."""
    currency = _CURRENCY.match(text)
    prefix = _CURRENCIES.get(currency[2], "") if currency else ""
    if currency:
        text = currency[1] + text[currency.end() :]
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT, _FOREIGN_UNIT):
        match = pattern.search(text)
        if match is None or _FUNCTION_WORDS.search(match[0]):
            continue
        rest, words = text[: match.start()].strip(), plain(match[0])
        if words == "degree" and TRIGONOMETRY.search(rest):
            continue  # of the angle, not of the value
        if (
            re.search(r"[\w})\]!%]$", rest)
            and not re.search(r"\d(?![\s}]*$)", words)
            and not re.search(r"[=<>(]", words)
        ):
            if words.startswith("%") or words in ("percent", "per cent", "percentage", "pct"):
                return rest + r"\%", words[1:] if words[0] == "%" else prefix
            return rest, words or prefix
    return text, prefix


def plain(text: str) -> str:
    """A unit without its fonts: ``\\mathrm{~m} / \\mathrm{s}^{2}`` is "m/s^2"."""
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " degree ", text)
    text = (
        re.sub(_FONT, "", re.sub(r"\\frac\s*(\{.*?\}\s*\})\s*(?=\{)", r"\1/", text))
        .replace(r"\cdot", " ")
        .replace(r"\times", " ")
        .replace("\\%", "%")
    )
    return " ".join(re.sub(r"[{}~\\]", " ", text).split()).strip(" .").lower()


def measure(unit: str) -> tuple[frozenset[tuple[str, int]], Fraction] | None:
    """Dimensions with their powers, and the size in base units; None for what no table knows (apples)."""
    unit = re.sub(r"\bmph\b", "mile/hour", re.sub(r"\bk(?:mp|p|m)h\b", "km/hour", unit))
    powers: dict[str, int] = {}
    size, sign, power = Fraction(1), 1, 1
    last: tuple[str, Fraction] | None = None
    for token in re.findall(r"[a-z]+|\^ ?-?\d|/", unit.replace("{", "").replace("}", "")):
        if token in ("/", "per"):
            sign = -1
        elif token in ("square", "sq", "cubic"):
            power = 3 if token == "cubic" else 2
        elif token[0] == "^" or token in ("squared", "cubed"):
            more = {"squared": 2, "cubed": 3}.get(token) or int(token[1:])
            if last is None:
                return None
            powers[last[0]] += sign * (more - 1)
            size *= last[1] ** (sign * (more - 1))
        else:
            known = _SIZES.get(token) or _SIZES.get(token.removesuffix("s"))
            if known is None:
                return None
            last = known
            powers[known[0]] = powers.get(known[0], 0) + sign * power
            size *= known[1] ** (sign * power)
            power = 1
    return (frozenset(powers.items()), size) if powers else None
