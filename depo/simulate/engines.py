"""Engines and a learner that take time and do nothing else, and the world that they answer from.

They run on the real clock as well as on one that skips (`depo.simulate.clock`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.rng import generator
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.weights import Handover, load
from depo.types import Prompt, Request, Rollout, TrainSample, UpdateResult

if TYPE_CHECKING:
    from depo.train.metrics import Time

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


@dataclass(frozen=True)
class EngineSpeed:
    """Of each of ``engines``, which decodes for ``slots`` sequences at once. A token for each of n sequences
    takes 1 / ``sequence`` + n / ``engine`` seconds: a step of the weights through the device, and its share
    of what the device can do at most. Rates in tokens a second."""

    engines: int
    slots: int
    sequence: float
    engine: float = math.inf

    def seconds(self, tokens: Sequence[int]) -> float:
        """That one engine takes for these sequences, in this order; prefill is not counted."""
        waiting = iter(tokens[self.slots :])
        # Each sequence by how many tokens all under way will have been given when it ends.
        under_way = [float(n) for n in tokens[: self.slots]]
        heapq.heapify(under_way)
        seconds = given = 0.0
        while under_way:
            seconds += (under_way[0] - given) * (1 / self.sequence + len(under_way) / self.engine)
            given = under_way[0]
            heapq.heappop(under_way)
            for n in itertools.islice(waiting, 1):
                heapq.heappush(under_way, given + n)
        return seconds


class SimulatedEngines:
    """A rollout engine. ``deal`` shares requests out as the real one does; ``seconds`` says how long each
    engine takes. They add up in ``busy``."""

    def __init__(
        self,
        time: Time,
        answer: Callable[[str, int, int, int], np.ndarray],
        seconds: Callable[[list[int]], float],
        deal: Callable[[Iterable[Request]], list[list[Request]]],
    ) -> None:
        self.time, self.answer, self.seconds, self.deal = time, answer, seconds, deal
        self.version = -1
        self.busy = 0.0

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        """All at once, when the last engine has finished."""
        version, hands = self.version, self.deal(requests)
        with getattr(self.time, "aside", nullcontext)():  # what an engine answers is no work of the driver
            hands_of_rollouts = [
                [rollout for request in hand for rollout in self.rollouts(request, sampling, version)]
                for hand in hands
            ]
            seconds = [
                self.seconds([len(rollout.token_ids) for rollout in hand]) for hand in hands_of_rollouts
            ]
        self.time.sleep(max(seconds))
        self.busy += sum(seconds)
        for hand in hands_of_rollouts:
            yield from hand

    def rollouts(self, request: Request, sampling: Sampling, version: int) -> Iterator[Rollout]:
        for offset, seed in enumerate(request.seeds):
            token_ids = self.answer(request.prompt.key, seed, version, sampling.max_new_tokens)
            yield Rollout(
                request.prompt.key,
                request.first_index + offset,
                seed,
                token_ids,
                np.full(len(token_ids), -0.5, np.float32),
                "length" if len(token_ids) == sampling.max_new_tokens else "stop",
                version,
            )

    def load_weights(self, update: WeightUpdate) -> int:
        self.version = update.version
        return self.version

    def close(self) -> None: ...


@dataclass(frozen=True)
class LearnerSpeed:
    """Trained and prefilled tokens a second; seconds for which a sync of the weights keeps the learner, and
    then the engines."""

    trained: float
    prefilled: float
    sync: float

    def update(self, batch: Sequence[TrainSample]) -> float:
        return sum(sample.trained for sample in batch) / self.trained

    def prefill(self, prompts: Sequence[Prompt]) -> float:
        return sum(len(prompt.token_ids) for prompt in prompts) / self.prefilled


class SimulatedLearner:
    """Does one thing at a time: what comes meanwhile waits, as in the learner's process."""

    checkpoint_bytes = 0
    features = 2

    def __init__(self, time: Time, speed: LearnerSpeed) -> None:
        self.time, self.speed = time, speed
        self.free_at = 0.0
        self.busy = 0.0
        self.updates = 0

    def occupy(self, seconds: float) -> None:
        self.busy += seconds
        self.free_at = max(self.free_at, self.time.perf_counter()) + seconds

    def wait(self) -> None:
        self.time.sleep(max(self.free_at - self.time.perf_counter(), 0.0))

    def begin_update(self, batch: Sequence[TrainSample]) -> Callable[[], UpdateResult]:
        self.updates += 1
        seconds = self.speed.update(batch)
        self.occupy(seconds)

        def finish_update() -> UpdateResult:
            self.wait()
            metrics = {"seconds": seconds, "optimizer_steps": 1.0, "policy_kl": 0.001}
            return UpdateResult(metrics, [np.zeros(sample.trained, np.float32) for sample in batch])

        return finish_update

    def prompt_features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        self.occupy(self.speed.prefill(prompts))
        self.wait()
        return np.zeros((len(prompts), self.features), np.float32)

    def export(self, directory: Path, trained_only: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text("{}")

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "updates").write_text(str(self.updates))

    def load(self, directory: Path) -> None:
        self.updates = int((directory / "updates").read_text())


class SimulatedSync:
    """Both halves of a sync take the learner's ``sync`` seconds: first the learner's, then the engines'."""

    def __init__(self, learner: SimulatedLearner, engine: Any) -> None:
        self.learner, self.engine = learner, engine

    def start(self, version: int) -> None:
        load(self.engine, WeightUpdate(version))

    def publish(self, version: int) -> Handover:
        self.learner.occupy(self.learner.speed.sync)
        self.learner.wait()
        return Handover(WeightUpdate(version))

    def serve(self, handover: Handover) -> dict[str, float]:
        self.learner.time.sleep(self.learner.speed.sync)
        load(self.engine, handover.update)
        return {}

    def discard(self, handover: Handover) -> None: ...

    def close(self) -> None: ...
