r"""Which samples of a problem gave the same answer: the classes that maj@k votes with.

- Samples that verified as right form one class: each of them equals the gold answer.
- Wrong answers are compared with one another by the benchmark's own notion of equality (math-verify for
  mathematics), and never with right ones: what equals a right answer would have been right.
- A sample from which no answer can be read abstains.

Answers are read and compared in the same killable worker processes as rewards: a comparison that hangs
counts as "different".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from depo.config import ExactReward, MathReward, ReasoningGymReward, RewardSpec, Verification, WeightedReward
from reward import Sample, Score, VerifierPool
from reward.boxed import last_boxed
from reward.math import parse_completion
from reward.reasoning_gym import extract_answer

LONGEST = 2_000
"""Characters of an answer that are kept."""
MATH, TEXT = "math-verify", "equal text"


def vote_rule(reward: RewardSpec) -> str | None:
    """How answers are compared: `MATH`, `TEXT`, or None for rewards that know no answers to vote for."""
    match reward:
        case MathReward():
            return MATH
        case ExactReward() | ReasoningGymReward():
            return TEXT
        case WeightedReward():
            return vote_rule(reward.parts[0].reward)
        case _:
            return None


def math_answer(sample: Sample) -> Score:
    """A completion's answer as text, in ``detail``; "" when there is none. A worker calls it by its path."""
    boxed = last_boxed(sample.completion)
    if boxed is not None:
        return said(boxed)
    found = parse_completion(sample.completion)
    texts = [item for item in found if isinstance(item, str)] or [str(item) for item in found]
    return said(texts[-1] if texts else "")


def text_answer(sample: Sample) -> Score:
    return said(extract_answer(sample.completion))


def said(answer: str) -> Score:
    return Score(value=0.0, correct=False, detail=answer.strip()[:LONGEST])


class Votes:
    """Sorts wrong samples into classes of equal answers; a context manager around its worker processes."""

    def __init__(self, rule: str, verification: Verification) -> None:
        self.rule = rule
        options = verification.model_dump()
        path = f"{__name__}:{'math_answer' if rule == MATH else 'text_answer'}"
        self.stack = ExitStack()
        self.readers = self.stack.enter_context(VerifierPool({"type": "function", "path": path}, **options))
        self.judges = None
        if rule == MATH:
            self.judges = self.stack.enter_context(VerifierPool({"type": "math"}, **options))

    def __enter__(self) -> Votes:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def classes(self, rows_by_problem: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[int]]:
        """Sizes of the classes of wrong answers, largest first, by problem. Right, unparseable and unscorable
        rows are not looked at."""
        texts = self.texts(rows_by_problem)
        if self.judges is None:
            merged = {key: list(counts.values()) for key, counts in texts.items()}
        else:
            merged = self.merge(texts)
        return {key: sorted(sizes, reverse=True) for key, sizes in merged.items()}

    def texts(self, rows_by_problem: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Counter[str]]:
        """How often each wrong answer was given, by its text; most frequent first, ties by text."""
        asked = [
            (key, row["completion"])
            for key, rows in rows_by_problem.items()
            for row in rows
            if row["correct"] is False and not row["unparseable"]
        ]
        distinct = list(dict.fromkeys(completion for _, completion in asked))
        read = self.readers.score([sample_of(completion) for completion in distinct])
        # A reader that hung or crashed has no answer: the sample abstains.
        answers = {
            text: score.detail if score.correct is not None else ""
            for text, score in zip(distinct, read, strict=True)
        }
        counted: dict[str, Counter[str]] = {key: Counter() for key in rows_by_problem}
        for key, completion in asked:
            if answers[completion]:
                counted[key][answers[completion]] += 1
        return {
            key: Counter(dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))))
            for key, counts in counted.items()
        }

    def merge(self, texts: Mapping[str, Counter[str]]) -> dict[str, list[int]]:
        """Class by class: the most frequent answer left represents a class, and takes all that equal it. One
        round of comparisons serves all problems."""
        assert self.judges is not None
        left = {key: dict(counts) for key, counts in texts.items()}
        sizes: dict[str, list[int]] = {key: [] for key in texts}
        while any(left.values()):
            pairs = [
                (key, next(iter(answers)), other)
                for key, answers in left.items()
                for other in list(answers)[1:]
            ]
            verdicts = self.judges.score([sample_of(boxed(b), boxed(a)) for _, a, b in pairs])
            for key, answers in left.items():
                if answers:
                    sizes[key].append(answers.pop(next(iter(answers))))
            for (key, _, other), verdict in zip(pairs, verdicts, strict=True):
                if verdict.correct is True:
                    sizes[key][-1] += left[key].pop(other)
        return sizes


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def sample_of(completion: str, reference: str = "") -> Sample:
    """A sample for the workers, which read only its texts."""
    return Sample(completion, reference, tokens=1, finish_reason="stop", max_tokens=1)
