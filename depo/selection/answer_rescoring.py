"""What the policy answered before, and how likely it finds that today.

An answer given once can be weighed again, under any later policy, by one prefill: no rollout is spent, and
what it says is true of today's policy. Answers are kept as long as the policy is not unlikely to give them
(`LEAST_PROBABILITY`): together they make up a share of all it might answer that is worth knowing. Long chains
of thought fall below that at once, are not kept, and cost nothing.

An answer is its tokens; ended and truncated ones differ, so that the probabilities of different answers add
up to at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from depo.types import Group, Prompt
from estimators.base import Rescored

LEAST_PROBABILITY = 1e-3
WRONG_RIGHT = ("wrong", "right")

Score = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], np.ndarray]
"""(prompt ids, completion ids) of N sequences → log-probability (N,) of each completion under today's policy,
as it is sampled from."""


class AnswerRescoring:
    """Remembers the latest answers to a prompt, up to ``limit``; asks ``score`` what they are worth now."""

    def __init__(self, limit: int, score: Score) -> None:
        self.limit = limit
        self.score = score
        self._answers: dict[str, dict[tuple[int, ...], bool]] = {}  # prompt key → tokens → right; latest last

    def remember(self, groups: Sequence[Group]) -> None:
        """Keep the answers of these groups with their verdicts; those without one are left out."""
        for group in groups:
            answers = self._answers.setdefault(group.pick.prompt.key, {})
            for rollout, score in zip(group.rollouts, group.scores, strict=True):
                logprob = float(rollout.logprobs.sum(dtype=np.float64))
                if score.correct is not None and logprob >= math.log(LEAST_PROBABILITY):
                    tokens = tuple(int(token) for token in rollout.token_ids)
                    answers.pop(tokens, None)
                    answers[tokens] = score.correct
            for tokens in list(answers)[: -self.limit]:
                del answers[tokens]

    def __call__(self, prompts: Sequence[Prompt]) -> list[Rescored | None]:
        """What is remembered of each prompt, as today's policy sees it; None where nothing is. Answers that
        have become unlikely count this once, and are forgotten."""
        known = [(prompt, self._answers.get(prompt.key) or {}) for prompt in prompts]
        sequences = [(prompt.token_ids, tokens) for prompt, answers in known for tokens in answers]
        scores: Iterator[float] = iter(self.score(sequences) if sequences else [])
        rescored: list[Rescored | None] = []
        for _, answers in known:
            given = {True: 0.0, False: 0.0}
            for tokens, right in list(answers.items()):
                probability = math.exp(next(scores))
                given[right] += probability
                if probability < LEAST_PROBABILITY:
                    del answers[tokens]
            rescored.append(Rescored(given[True], given[False]) if sum(given.values()) > 0.0 else None)
        return rescored

    def state_dict(self) -> dict[str, Any]:
        """JSON: of each prompt the answers, oldest first, as "right" or "wrong" and token ids."""
        return {
            key: [" ".join([WRONG_RIGHT[right], *map(str, tokens)]) for tokens, right in answers.items()]
            for key, answers in self._answers.items()
            if answers
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._answers = {}
        for key, answers in state.items():
            split = [answer.split() for answer in answers]
            self._answers[key] = {
                tuple(map(int, ids)): bool(WRONG_RIGHT.index(verdict)) for verdict, *ids in split
            }
