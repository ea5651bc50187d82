r"""Mathematical answers: 1/2, 0.5 and \frac{1}{2} are the same answer.

Found by `reward.answers`, read by `reward.reading` (formulas by `math-verify`), compared by `reward.equality`
(sets, inequalities and matrices by `math-verify`).

Three outcomes: wrong, *unparseable* (there is no answer to read, which also counts as wrong), and unscorable
(the reference is prose, empty or has no value, so nobody can be blamed).

math-verify's own timeouts are switched off. They are SIGALRM handlers, which Python runs between two of its
own instructions: a power of huge integers is one instruction, never interrupted, and outside the main thread
they do not work at all. `VerifierPool` kills the process instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from depo.reward.answers import find_answers, in_text, last_boxed, last_tagged
from depo.reward.base import Sample, Score, unscorable
from depo.reward.equality import same
from depo.reward.formulas import Undefined, exact, rational, same_formulas
from depo.reward.reading import Formula, Reading, Words, is_parsed, read

_PHRASE = re.compile(r"\banswer\s*(?:is\b)?\s*[:=]?\s*(?=[-+\d$\\(])", re.IGNORECASE)
PROSE = 8  # words from which on a reference is a text about the answer, not an answer


class MathReward:
    """1.0 and correct when the completion's answer equals the reference, else 0.0.

    References may be bare LaTeX, numbers or a few words, carry ``$…$``, ``\\boxed{…}`` or ``<answer>`` tags,
    be a sentence with one formula, or a worked solution that ends in ``#### 42``. Readings are cached.

    Not ``inline``: comparing expressions can take for ever.
    """

    def prepare(self) -> None:
        """Import sympy and math-verify, and build its grammar, before anything is timed."""
        self._score(Sample(r"\boxed{\sqrt{x}}", r"\sqrt{x+1}", 1, "stop", 1))

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        gold = read_reference(sample.reference)
        if gold is None:
            return unscorable(f"reference does not parse as an answer: {sample.reference[:60]!r}")
        answer = read_completion(sample.completion)
        if answer is None:
            return Score(value=0.0, correct=False, unparseable=True)
        try:
            correct = same(gold, answer)
        except Undefined as error:
            if undefined(gold):
                return unscorable(f"reference cannot be computed: {sample.reference[:60]!r} ({error})")
            correct = False  # a list in the completion holds such a formula
        return Score(value=float(correct), correct=correct)


@lru_cache(maxsize=4096)  # groups share a reference; enough for the prompts of several steps
def read_reference(reference: str) -> Reading | None:
    """What a reference says; None when it is empty or prose."""
    for part in (last_boxed(reference), last_tagged(reference)):
        if part is not None:
            return read(part)
    _, mark, marked = reference.rpartition("####")
    if mark:
        return read(marked)
    phrase = _PHRASE.search(reference)
    if phrase or ("$" in reference and _words(reference)):
        inside = [reading for part in in_text(reference) if (reading := read(part)) is not None]
        formulas = [reading for reading in inside if not isinstance(reading.value, Words)]
        if formulas and (phrase or _words(reference) < PROSE):
            return formulas[0]
    return read(reference) if _words(reference) < PROSE else None


def _words(text: str) -> int:
    """Words outside of formulas, without those that join a list."""
    return len(re.findall(r"(?<!\\)\b(?!and\b|or\b)[^\W\d_]{2,}", re.sub(r"\$[^$]*\$", "", text)))


def read_completion(completion: str) -> Reading | None:
    """What a completion answers; None when it answers nothing."""
    found = chosen(completion)
    return found[1] if found else None


def chosen(completion: str) -> tuple[str, Reading] | None:
    """The text that a completion answers, and what it says."""
    words = None
    for text in find_answers(completion):
        found = read(text)
        if found is None:
            continue
        if not isinstance(found.value, Words) or found.value.hedged or found.letter:
            return text, found
        words = words or (text, found)
    return words


def undefined(gold: Reading) -> bool:
    """Whether a formula cannot be compared even with itself, so that no answer to it can be judged."""
    try:
        if isinstance(gold.value, Formula):
            same_formulas(gold, gold)
    except Undefined:
        return True
    return False


def doubt(reference: str) -> str:
    """What is doubtful about a readable reference: "as text" when no parser reads it, or how math-verify has
    another number; "" when nothing is."""
    from math_verify import parse

    gold = read_reference(reference)
    if gold is None or not is_parsed(gold):
        return "as text"
    ours = exact(gold)
    boxed = last_boxed(reference)
    found = parse(rf"\boxed{{{reference if boxed is None else boxed}}}", parsing_timeout=None)
    try:
        theirs = rational(found[0]) if found and not isinstance(found[0], str) else None
    except ArithmeticError:
        return ""
    if ours is None or theirs is None or ours[0] == theirs or gold.percent:
        return ""
    return f"read as {ours[0]}, by math-verify as {theirs}"
