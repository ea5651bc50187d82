"""Which samples of a problem gave the same answer: the classes that maj@k votes with.

- Samples that verified as right form one class: each of them equals the gold answer.
- Wrong answers are compared with one another by the benchmark's own notion of equality (math-verify for
  mathematics), and never with right ones: what equals a right answer would have been right.
- A sample from which no answer can be read abstains.

Mathematical answers are read and compared in the same killable worker processes as rewards: a comparison that
hangs counts as "different".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from depo.recipe.schema import (
    ExactReward,
    MathReward,
    ReasoningGymReward,
    RewardSpec,
    Verification,
    WeightedReward,
)
from depo.reward import Sample, Score, VerifierPool
from depo.reward.answers import last_boxes, spoken
from depo.reward.reasoning_gym import extract_answer

MATH, TEXT = "math-verify", "equal text"
WORKER = {"type": "function", "path": "depo.evaluation.vote_worker:work"}
LONGEST = 2_000
"""Characters of an answer that are kept."""

Rows = Sequence[Mapping[str, Any]]


def vote_rule(reward: RewardSpec) -> str | None:
    """How answers are compared: `MATH`, `TEXT`, or None for rewards that know no answers to vote for."""
    match reward:
        case MathReward():
            return MATH
        case ExactReward(after=None) | ReasoningGymReward():
            return TEXT
        case WeightedReward():
            return vote_rule(reward.parts[0].reward)
        case _:
            return None


class Votes:
    """Sorts wrong samples into classes of equal answers; a context manager around its worker processes, which
    start when there is something to compare."""

    def __init__(self, verification: Verification) -> None:
        self.options = verification.model_dump()
        self.pool: VerifierPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.close()

    def classes(self, rule: str, rows_by_problem: Mapping[str, Rows]) -> dict[str, list[int]]:
        """Sizes of the classes of wrong answers, largest first, by problem."""
        return {key: list(counts.values()) for key, counts in self.answers(rule, rows_by_problem).items()}

    def answers(self, rule: str, rows_by_problem: Mapping[str, Rows]) -> dict[str, dict[str, int]]:
        """How often each wrong answer was given, largest class first; a class goes by its most frequent text.
        Right, unparseable and unscorable rows are not looked at."""
        texts = self.texts(rule, rows_by_problem)
        merged = texts if rule == TEXT else self.merge(texts)
        return {
            key: dict(sorted(counts.items(), key=lambda pair: pair[1], reverse=True))
            for key, counts in merged.items()
        }

    def texts(self, rule: str, rows_by_problem: Mapping[str, Rows]) -> dict[str, dict[str, int]]:
        """How often each wrong answer was given, by its text; most frequent first, ties by text."""
        asked = [
            (key, row["completion"])
            for key, rows in rows_by_problem.items()
            for row in rows
            if row["correct"] is False and not row["unparseable"]
        ]
        answers = self.read(rule, list(dict.fromkeys(completion for _, completion in asked)))
        counted: dict[str, Counter[str]] = {key: Counter() for key in rows_by_problem}
        for key, completion in asked:
            if answers[completion]:
                counted[key][answers[completion]] += 1
        return {
            key: dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
            for key, counts in counted.items()
        }

    def read(self, rule: str, completions: Sequence[str]) -> dict[str, str]:
        """The answer of each completion; "" where there is none, or where reading it hung or crashed."""
        if rule == TEXT:
            return {completion: extract_answer(completion) for completion in completions}
        # A box needs no parser, and what workers hand back is cut at the length of a log line.
        found = {completion: last_boxes(spoken(completion)) for completion in completions}
        unboxed = [completion for completion, answer in found.items() if answer is None]
        scores = self.ask([sample_of(completion) for completion in unboxed])
        read = {
            completion: score.detail if score.correct is not None else ""
            for completion, score in zip(unboxed, scores, strict=True)
        }
        return {
            completion: read[completion] if answer is None else answer.strip()[:LONGEST]
            for completion, answer in found.items()
        }

    def merge(self, texts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Class by class: the most frequent answer left represents a class, and takes all that equal it. One
        round of comparisons serves all problems."""
        left = {key: dict(counts) for key, counts in texts.items()}
        merged: dict[str, dict[str, int]] = {key: {} for key in texts}
        while any(left.values()):
            pairs = [
                (key, next(iter(answers)), other)
                for key, answers in left.items()
                for other in list(answers)[1:]
            ]
            verdicts = self.ask([sample_of(boxed(b), boxed(a)) for _, a, b in pairs])
            for key, answers in left.items():
                if answers:
                    first = next(iter(answers))
                    merged[key][first] = answers.pop(first)
            for (key, first, other), verdict in zip(pairs, verdicts, strict=True):
                if verdict.correct is True:
                    merged[key][first] += left[key].pop(other)
        return merged

    def ask(self, samples: Sequence[Sample]) -> list[Score]:
        if not samples:
            return []
        if self.pool is None:
            self.pool = VerifierPool(WORKER, **self.options)
        return self.pool.score(samples)


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def sample_of(completion: str, reference: str = "") -> Sample:
    """A sample for the workers, which read only its texts (see `depo.evaluation.vote_worker.work`)."""
    return Sample(completion, reference, tokens=1, finish_reason="stop", max_tokens=1)
