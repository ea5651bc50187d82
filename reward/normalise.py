r"""Text of an answer, rewritten into the LaTeX that the parser reads.

`characters` is about characters and safe on whole completions: digits of every script, full-width forms,
dashes, roots, Unicode fractions and powers. `latex` takes an answer and nothing else: colours, fonts and
spaces go, thousands separators, mixed numbers and repeating decimals become what they mean.

One table a kind: to teach it another sign, wrapper or word, add a row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

# ---------------------------------------------------------------- characters

_LETTERS = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "omicron", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
_SIGNS = {
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ", "±": r"\pm ",
    "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "→": r"\to ", "⇒": r"\Rightarrow ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "°": r"^\circ ", "º": r"^\circ ",
    "…": r"\ldots ", "⋯": r"\ldots ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "⁄": "/", "∕": "/",
    "٪": "%", "٫": ".", "٬": ",", "،": ",", "؛": ";", "、": ",", "。": ". ", "।": ". ", "۔": ". ", "【": "[",
    "】": "]", "《": '"', "》": '"', "「": '"', "」": '"', "〜": "~", "‑": "-", "–": "-", "‒": "-", "−": "-",
    "﹣": "-", "—": " — ", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()")
_RUNS = re.compile(
    r"(?P<up>[⁰¹²³⁴-⁹⁺⁻⁼⁽⁾ⁿⁱ]+)|(?P<low>[₀-₎]+)"
    r"|(?P<root>[√∛∜])\s*(?P<of>\d+(?:\.\d+)?|[a-zA-Zπ]|(?=[({\\]))"
)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
# Dashes: between numbers a range, after a word a pause, in front of a number a minus.
_RANGE = re.compile(r"(?<=\d)(\s*)[–—](?=\s*\d)")
_LONG_MINUS = re.compile(r"(?<![\w\s)])[—―](?=[\d\\])|^[—―](?=[\d\\])")


@cache
def _table() -> dict[int, str]:
    table: dict[int, str] = {}
    for code in range(0x80, 0x20000):  # beyond are no digits
        character = chr(code)
        kind = unicodedata.category(character)
        if kind == "Nd":
            table[code] = str(unicodedata.decimal(character))
        elif kind == "Zs":
            table[code] = " "
        elif kind == "No" and "⁄" in (fraction := unicodedata.normalize("NFKC", character)):
            above, below = fraction.split("⁄")
            table[code] = rf"\frac{{{above}}}{{{below or 1}}}"
    table.update({code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)})  # full-width ASCII
    table.update({ord("α") + place: rf"\{name} " for place, name in enumerate(_LETTERS)})
    table.update({ord(sign): text for sign, text in _SIGNS.items()})
    return table


def characters(text: str) -> str:
    """The text with every script's digits as 0-9 and mathematical signs as LaTeX. Plain ASCII stays."""
    if text.isascii():
        return text
    text = _LONG_MINUS.sub("-", _RANGE.sub(r"\1 — ", text))
    return _RUNS.sub(_run, text).translate(_table())


def _run(match: re.Match[str]) -> str:
    if match["up"]:
        return "^{" + match["up"].translate(_RAISED) + "}"
    if match["low"]:
        return "_{" + match["low"].translate(_LOWERED) + "}"
    root = _ROOTS[match["root"]]
    return f"{root}{{{match['of']}}}" if match["of"] else root


# ---------------------------------------------------------------- LaTeX

FONTS = (
    "text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "textup", "textsc", "emph",
    "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathnormal", "mbox", "hbox", "bm", "boldsymbol", "pmb",
    "underline", "uline", "overbrace", "ensuremath", "boxed", "fbox", "framebox", "operatorname",
)  # fmt: skip
_DROPPED = ["tag", "label", "hspace", "vspace", "phantom", "hphantom", "vphantom"]
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|\\(?:quad|qquad|thinspace|enspace|,)(?![a-zA-Z])|(?<!\\)~|\\hfill\b")
_NOTHING = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|large|Large|small|normalsize"
    r"|bfseries|bf|rm|it|tt|centering|noindent)(?![a-zA-Z])\.?|\\!|\\\(|\\\)|\\\[|\\\]|(?<!\\)\$|\*\*|`"
)
_ESCAPED = re.compile(r"\\([a-zA-Z]+)\s*(?=[{\[])")
WRAPPED = re.compile(r"\\(" + "|".join(FONTS) + r")\s*\{")
_PLAIN = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\sfrac": r"\frac",
    r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lbrack": "[", r"\rbrack": "]", r"\degree": r"^\circ ", r"\leqslant": r"\le ", r"\geqslant": r"\ge ",
    r"\leq": r"\le ", r"\geq": r"\ge ", r"\neq": r"\ne ", r"\lt": "<", r"\gt": ">", r"\dots": r"\ldots ",
    r"\cdots": r"\ldots ", r"\dotsc": r"\ldots ", r"\dotso": r"\ldots ", r"\lor": " or ", r"\vee": " or ",
    r"\land": " and ", r"\wedge": " and ", r"\varnothing": r"\emptyset ", r"\colon": ":",
    r"\R": r"\mathbb{R}", r"\Z": r"\mathbb{Z}", r"\simeq": r"\approx ", r"\sim": r"\approx ",
    r"\rightarrow": r"\to ", r"\percent": r"\%", r"\ast": "*", r"\infin": r"\infty ", r"\euro": "€",
    r"\pounds": "£",
}  # fmt: skip
_COMMAND = re.compile(r"\\[a-zA-Z]+")
# Plain words that are functions or constants, as an answer without LaTeX has them.
BARE_NAMES = [
    "sqrt",
    "pi",
    "infty",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "theta",
    "alpha",
    "beta",
    "gamma",
]
_BARE_NAME = re.compile(
    r"(?<![\\a-zA-Z])(?:(?P<name>" + "|".join(BARE_NAMES) + r")|(?P<inf>infinity|inf|oo))(?=[^a-zA-Z]|$)"
)
_BARE_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")

_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: +\d{3})+(?! *\d)")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,)\d{3})+(?![\d,])(?!\{,\}\d)")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\)(?!\s*[\d(]))")
_DOTTED = re.compile(r"(\d*)\.(\d*?)(\d{1,6}?)\3{2,}\s*(?:\.\.\.|\\ldots)")
_MIXED = re.compile(
    r"(?<![\d.}^_{])(-?)\s*(?<![\d.])(\d+)\s*\\frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)\s*(\d)(?!\d))(?!\s*[\^!])"
)
_MIXED_PLAIN = re.compile(r"(?<![\d.])(-?)(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_E_NOTATION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?\d+)(?![\w.])")
_BARE_POWER = re.compile(r"\^\s*(-?\d+)(?![\d}])")
_POWER_OF_TEN = re.compile(r"(?<=\d)\s*[xX*]\s*(?=10\s*\^)")
_BARE_TIMES = re.compile(r"(?<![\w.^_{}\\])(\d+(?:\.\d+)?|\))\s*(?=\(-?\d)")
PERCENT = re.compile(r"\\%|%|(?<![a-zA-Z])(?:per\s?cent|percentage|pct)(?![a-zA-Z])|(?:百分之)")
_TH = r"(?:st|nd|rd|th)\s*"
_TEXT_TH = rf"\\(?:text|mathrm|textrm)\s*\{{\s*{_TH}\}}"
ORDINAL = re.compile(rf"(?<=\d)\s*(?:\^\s*\{{\s*(?:{_TEXT_TH}|{_TH})\}}|\^?\s*{_TEXT_TH}|{_TH}(?![a-zA-Z]))")
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_MONEY = re.compile(r"\\\$")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\{[^{}]*\})\s*(\w)|(\w)\s*(\{[^{}]*\}))")


def braced(text: str, opening: int) -> int:
    r"""Where the brace at ``opening`` closes; -1 if it does not. \{ and \} are no braces."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[opening:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return opening + match.start()
    return -1


def rewrite_commands(text: str, commands: dict[str, Callable[[str], str]]) -> str:
    r"""Replace \command{content} by what its function makes of the content, innermost last."""
    found = 0
    for _ in range(100):  # answers are short; more wrappers than this is no answer
        match = next(
            (m for m in _ESCAPED.finditer(text, found) if m[1] in commands and text[m.end()] == "{"), None
        )
        if match is None:
            break
        end = braced(text, match.end())
        if end < 0:
            break
        text = text[: match.start()] + commands[match[1]](text[match.end() + 1 : end]) + text[end + 1 :]
        found = match.start()
    return text


def strip_decoration(text: str) -> str:
    """Without colours, delimiters and spacing commands; fonts stay, since they tell words from symbols."""
    text = characters(text)
    text = re.sub(r"\\\\(?=[a-zA-Z(\[])", r"\\", text) if "begin" not in text else text
    text = re.sub(
        r"\\(?:textcolor|colorbox|color)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\fcolorbox\{[^{}]*\}\{[^{}]*\}",
        "",
        text,
    )
    text = rewrite_commands(text, dict.fromkeys(_DROPPED, lambda content: ""))
    text = re.sub(r"(?<![a-zA-Z])\{:\}", ":", text)
    text = _NOTHING.sub("", _MONEY.sub("USD ", text))
    text = re.sub(r"\.\s?\.\s?\.", r"\\ldots ", text)
    text = _COMMAND.sub(lambda match: _PLAIN.get(match[0], match[0]), text)
    return _SPACES.sub(" ", text).strip()


def strip_fonts(text: str) -> str:
    """Without \\text, \\mathrm and their like."""
    return rewrite_commands(text, dict.fromkeys(FONTS, lambda content: content)) if "\\" in text else text


def symbols(text: str) -> str:
    """Numbers and functions as the parser wants them; ``text`` has no decoration and no unit."""
    text = strip_fonts(text)
    text = _BARE_NAME.sub(lambda match: rf"\{match['name']} " if match["name"] else r"\infty ", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _DOTTED.sub(_repeating, _REPEATING.sub(_repeating, text))
    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\1\\pi/180)", text)
    text = _SHORT_FRACTION.sub(_fraction, text)
    text = _MIXED.sub(_mixed, text)
    text = _MIXED_PLAIN.sub(_mixed, text)
    text = _E_NOTATION.sub(lambda match: rf"{match[1]}\cdot 10^{{{int(match[2])}}}", text)
    text = _POWER_OF_TEN.sub(r"\\cdot ", text)
    text = _BARE_POWER.sub(r"^{\1}", text)
    return _BARE_TIMES.sub(r"\1\\cdot ", text)  # the parser has 3(4) as the mixed number 7


def joined_thousands(text: str) -> str:
    """1,234 and 1 234 and 1{,}234 as 1234. Commas within brackets separate: (100,200) is a pair."""
    pattern = _SPACED if re.search(r"[(\[]|\\\{|\\langle", text) else _GROUPED
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text).replace("{,}", ",")
    if pattern is _GROUPED:
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    return text


def _fraction(match: re.Match[str]) -> str:
    above, below = [group.strip("{}") for group in match.groups() if group is not None]
    return rf"\frac{{{above}}}{{{below}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, *period = match.groups()
    block = next(part for part in period if part)
    below = (10 ** len(block) - 1) * 10 ** len(fixed)
    above = int(whole + fixed + block) - int((whole + fixed) or 0)
    return rf"\frac{{{above}}}{{{below}}}"


def _mixed(match: re.Match[str]) -> str:
    sign, whole, *rest = match.groups()
    above, below = [int(part) for part in rest if part is not None]
    if not 0 < above < below:
        return match[0]
    return rf"{sign}\frac{{{int(whole) * below + above}}}{{{below}}}"


# ---------------------------------------------------------------- numbers in words

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SPELLED = re.compile(
    r"^((?:"
    + "|".join([*_SMALL, *_TENS])
    + r"|hundred|thousand|million|and|[\s-])+)(?:\(\s*(\d+)\s*\))?\s*([a-z]*)$",
    re.IGNORECASE,
)


def spelled(bare: str) -> int | None:
    """forty-two, and forty-two (42)."""
    match = _SPELLED.match(bare)
    if match is None:
        return None
    total = group = 0
    for word in re.findall(r"[a-z]+", match[1].lower()):
        if word in _SMALL:
            group += _SMALL.index(word)
        elif word in _TENS:
            group += 10 * _TENS.index(word) + 20
        elif word == "hundred":
            group = max(group, 1) * 100
        elif word in ("thousand", "million"):
            total, group = total + max(group, 1) * (1000 if word == "thousand" else 10**6), 0
    value = total + group
    is_number = re.search("[a-z]", match[1], re.IGNORECASE) and match[2] in (None, str(value))
    return value if is_number else None
