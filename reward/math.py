r"""Mathematical answers, compared by `math-verify`: 1/2, 0.5 and \frac{1}{2} are the same answer.

Where the answer of a completion is read from, first match wins:

1. the last complete ``\boxed{…}``;
2. the last ``<answer>…</answer>``;
3. the line after the last ``####`` that has an answer there (the style of GSM8K's own solutions) and not the
   heading of a section;
4. what math-verify finds: an anchored answer ("the answer is …"), else the rightmost LaTeX or plain number.

Three outcomes: wrong, *unparseable* (there is no answer to read, which also counts as wrong), and unscorable
(the reference cannot be read, so nobody can be blamed).

math-verify's own timeouts are switched off. They are SIGALRM handlers, which Python runs between two of its
own instructions: a power or factorial of huge integers is one instruction, never interrupted, and outside the
main thread they do not work at all. `VerifierPool` kills the process instead.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from reward.base import Sample, Score, unscorable
from reward.boxed import last_boxed, last_tagged

# Final answers stand at the end. Without a box or `####`, math-verify's patterns run over the text, in time
# that grows with the square of its length where it is all numbers: 4,000 characters of "1 1 1 …" take 0.1 s,
# 20,000 take 2.4 s. Boxes are looked for in the whole completion.
MARKED_TAIL = 20_000  # characters in which `####` is looked for
TAIL = 4_000  # characters that math-verify searches

# math-verify compares floats to 6 decimals after the point and other numbers to 15: 1e-7 would equal 3e-7,
# and the electron's charge its mass. Below this magnitude, decimals count from the first significant one.
SMALL = 1e-3
FLOAT_DECIMALS, NUMERIC_DECIMALS = 6, 15  # math-verify's defaults

_E_NOTATION = re.compile(r"(?P<mantissa>[-+]?\d+(?:\.\d+)?)[eE](?P<exponent>[-+]?\d+)")
# A heading of Markdown looks like GSM8K's mark: "#### Step 2", "#### 3. Solve for x".
_MARKED = re.compile(r"####\s*(?P<line>[^\n]*)")
_ANSWER = re.compile(r"(?!\d+[.)]\s+[A-Za-z])(?:[-−+(\[{$\s]*[\d.\\]|\$|[A-Za-z]\s*=)")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}\b")
# math-verify sees a plain number only behind a space. Without one it would take another, further up.
_TAG = re.compile(r"</?[A-Za-z][\w-]*>")
_GLUED = re.compile(
    r"""(?<![\w`"*\\])[`"*_]+(?=[-+]?\.?\d)                # `10`, *10*, **Answer:**10
    | (?<!\d):(?=[-+]?\.?\d)                              # Answer:10, but not 10:30
    | (?:\A|\n|:|\bis\b)[ \t]*[(\[](?=[-+]?\.?\d)        # Final answer: (10), but not "12 (3 of them red)"
    """,
    re.VERBOSE,
)
_GLUED_BEHIND = re.compile(r"(?<=\d)(?=[`\"*_)\]]+(?:\W|\Z))")
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
# The stop that ends a sentence; not that of an ellipsis, nor of the spaces \, and \; of LaTeX.
_CLOSING_STOP = re.compile(r"(?<![\\.,;\s])\s*[.,;]\Z")


class MathReward:
    """1.0 and correct when the completion's answer equals the reference, else 0.0.

    References may be bare LaTeX or numbers, carry ``$…$`` or ``\\boxed{…}``, have thousands commas or
    e-notation, or be a worked solution that ends in ``#### 42``. Parsed references are cached.

    Not ``inline``: comparing expressions can take for ever.
    """

    def prepare(self) -> None:
        """Import sympy and math-verify, and build its grammar, before anything is timed."""
        parse_answer("1")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        gold = parse_reference(sample.reference)
        if not gold:
            return unscorable(f"reference does not parse as an answer: {sample.reference[:60]!r}")
        answer = parse_completion(sample.completion)
        if not answer:
            return Score(value=0.0, correct=False, unparseable=True)
        correct = equal(gold, answer)
        return Score(value=float(correct), correct=correct)


@lru_cache(maxsize=4096)  # groups share a reference; enough for the prompts of several steps
def parse_reference(reference: str) -> list[Any]:
    """The reference as math-verify has it: sympy expressions and a string; empty when it cannot be read."""
    boxed = last_boxed(reference)
    if boxed is not None:
        return parse_answer(boxed)
    return parse_answer(reference.rpartition("####")[2])


def parse_completion(completion: str) -> list[Any]:
    """The completion's answer, in the same form; empty when there is none."""
    boxed = last_boxed(completion)
    if boxed is not None:
        return parse_answer(boxed)
    marked = tail(completion, MARKED_TAIL)
    tagged = last_tagged(marked)
    if tagged is not None:
        return parse_tagged(tagged)
    lines = [line["line"] for line in _MARKED.finditer(marked)]
    answers = [line for line in lines if not line or _ANSWER.match(line)]
    if answers:
        return parse_answer(answers[-1])
    return _parse(set_apart(tail(completion, TAIL)))


def parse_tagged(text: str) -> list[Any]:
    """Parse what stands between ``<answer>`` tags: an answer, or a sentence with one."""
    if "$" not in text and not _WORD.search(text):
        return parse_answer(text)
    return _parse(set_apart(tail(text, TAIL))) or parse_answer(text)


def set_apart(text: str) -> str:
    """The text with spaces around plain numbers that touch a tag, a mark of emphasis or a colon."""
    text = _TAG.sub(" ", text.replace("−", "-"))
    return _GLUED_BEHIND.sub(" ", _GLUED.sub(r"\g<0> ", text))


def parse_answer(text: str) -> list[Any]:
    r"""Parse text that is an answer and nothing else: the content of a box, or a bare reference."""
    # Dollar signs inside a box are stray delimiters (escaped ones are money, which math-verify knows), and a
    # full stop, comma or semicolon at the end is the sentence's; math-verify would take it for the answer's.
    plain = text.replace("−", "-").replace("°", r"^\circ")
    bare = _CLOSING_STOP.sub("", _UNESCAPED_DOLLAR.sub("", plain).strip())
    e_notation = _E_NOTATION.fullmatch(bare)
    if e_notation:
        # LaTeX reads 3.8e5 as a product with Euler's number.
        bare = rf"{e_notation['mantissa']} \times 10^{{{int(e_notation['exponent'])}}}"
    return _parse(rf"\boxed{{{bare}}}") if bare else []


def equal(gold: list[Any], answer: list[Any]) -> bool:
    """Whether a parsed answer equals a parsed reference. math-verify's ``verify(gold, answer)`` is not
    symmetric: sets, intervals and equations in the answer are simplified towards the form of the gold."""
    from math_verify import verify

    zeros = leading_zeros(gold[0])
    return bool(
        verify(
            gold,
            answer,
            float_rounding=FLOAT_DECIMALS + zeros,
            numeric_precision=NUMERIC_DECIMALS + zeros,
            timeout_seconds=None,
        )
    )


def leading_zeros(gold: Any) -> int:
    """Zeros after the decimal point of a small number (0.00042 has 3); 0 for anything of ordinary size."""
    if not getattr(gold, "is_number", False):
        return 0
    try:
        magnitude = abs(complex(gold.evalf(NUMERIC_DECIMALS)))
    except (TypeError, ValueError, OverflowError):  # infinities, unevaluated limits and the like
        return 0
    return math.floor(-math.log10(magnitude)) if 0 < magnitude < SMALL else 0


def tail(text: str, limit: int) -> str:
    """The last ``limit`` characters, from a line's start on: cutting inside $…$ would turn it inside out.
    Where no line starts in their first half, all of them."""
    if len(text) <= limit:
        return text
    cut = text[-limit:]
    newline = cut.find("\n", 0, limit // 2)
    return cut[newline + 1 :]


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    # It warns once that its timeouts are off. They are meant to be.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    found: list[Any] = parse(text, parsing_timeout=None)
    return found
