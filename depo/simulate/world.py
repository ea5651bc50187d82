"""What simulated engines answer from: prompts, lengths of completions, pass rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depo.rng import generator
from depo.types import Prompt

VOCABULARY = 150_000
LETTERS = 300  # of a prompt's text
NINETY_NINTH = 2.3263478740408408  # standard deviations, of a normal distribution
HIDDEN = 0.25
"""Standard deviation of what a prompt's text leaves open of its place among all, from hardest to easiest."""
OF_THE_PROMPT = 0.5
"""Share of the variance of log-lengths that lies between prompts; the rest is between samples of one."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a completion: log-normal. ``p99`` equal to ``median``: all are as long."""

    median: float
    p99: float

    def tokens(self, of_prompt: float, of_sample: float) -> int:
        """Of two standard normal draws."""
        sigma = math.log(self.p99 / self.median) / NINETY_NINTH
        both = math.sqrt(OF_THE_PROMPT) * of_prompt + math.sqrt(1 - OF_THE_PROMPT) * of_sample
        return max(round(self.median * math.exp(sigma * both)), 1)


@dataclass(frozen=True)
class PassRates:
    """The policy never solves a share ``never`` of the prompts and always solves a share ``always``. The
    others' rates are uniform in (0, 1) at first, and rise by ``learned`` logits a step."""

    never: float = 0.25
    always: float = 0.25
    learned: float = 0.0

    def at(self, place: float, version: int) -> float:
        """Of the prompt at this place, in (0, 1), among all of them from the hardest to the easiest."""
        if not self.never < place < 1 - self.always:
            return float(place > self.never)
        rate = (place - self.never) / (1 - self.always - self.never)
        return rate if not self.learned else 1 / (1 + (1 / rate - 1) * math.exp(-self.learned * version))


class World:
    """``prompts`` of random words, the first of which tells something of the pass rate, and what the policy
    answers to them: a token that says whether it is right, and random ones. Prompt i has the key i."""

    def __init__(self, size: int, prompt_tokens: int, lengths: Lengths, rates: PassRates, seed: int) -> None:
        self.lengths, self.rates = lengths, rates
        rng = generator(seed, "simulated prompts")
        self.place_P = rng.random(size)
        self.length_P = rng.standard_normal(size)
        self.some = rng.integers(2, VOCABULARY, 1 << 20, dtype=np.int32)
        told_P = np.floor(10 * (self.place_P + HIDDEN * rng.standard_normal(size))).astype(int)
        words = " ".join(f"{number:x}" for number in rng.integers(1 << 8, 1 << 32, 1 << 16))
        tokens = self.some.tolist()
        word_P = rng.integers(len(words) - LETTERS, size=size)
        token_P = rng.integers(len(tokens) // 2, size=size)
        self.prompts = [
            Prompt(
                f"{index:064d}",
                f"level {told} {words[word : word + LETTERS]}",
                tuple(tokens[token : token + prompt_tokens]),
                "1",
            )
            for index, (told, word, token) in enumerate(
                zip(told_P.tolist(), word_P.tolist(), token_P.tolist(), strict=True)
            )
        ]

    def answer(self, key: str, seed: int, version: int, limit: int) -> np.ndarray:
        """Token ids (T,): 1 or 0, and others up to the ``limit``."""
        index, rng = int(key), generator(seed, "answer")
        right = rng.random() < self.rates.at(self.place_P[index], version)
        n = min(self.lengths.tokens(self.length_P[index], rng.standard_normal()), limit, len(self.some) // 2)
        start = seed % (len(self.some) // 2)
        token_ids = self.some[start : start + n].copy()
        token_ids[0] = right
        return token_ids


class Verdicts:
    """Stands in for a tokenizer: the text of a completion is its first token."""

    def batch_decode(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        return [str(one[0]) for one in ids]
