"""Engines and a learner that take time and do nothing else.

They run on the real clock as well as on one that skips (`depo.simulate.clock`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.rollout.dispatch import Dispatcher, Event, Finished, Loaded
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.schedule import Sample, Schedule
from depo.rollout.weights import Handover, load
from depo.types import Prompt, Request, Rollout, TrainSample, UpdateResult

if TYPE_CHECKING:
    from depo.train.metrics import Time

ROUNDING = 1e-9
"""Seconds."""


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


class SimulatedEngine:
    """One of them: what it decodes, and until when. Times are those of the run's clock."""

    def __init__(self, speed: EngineSpeed) -> None:
        self.speed = speed
        self.version = 0
        self.under_way: list[tuple[float, int, Rollout]] = []  # by tokens given to each when it ends
        self.waiting: deque[Rollout] = deque()
        self.ended: list[Rollout] = []  # not told yet
        self.given = self.at = self.busy = 0.0
        self.taken = itertools.count()
        self.loaded_at = math.inf

    @property
    def seconds_a_token(self) -> float:
        return 1 / self.speed.sequence + len(self.under_way) / self.speed.engine

    @property
    def next_at(self) -> float:
        """When there is something to tell."""
        if self.ended:
            return self.at
        if not self.under_way:
            return self.loaded_at
        return self._end_at

    @property
    def _end_at(self) -> float:
        return self.at + (self.under_way[0][0] - self.given) * self.seconds_a_token

    def take(self, rollouts: Sequence[Rollout], now: float) -> None:
        self._until(now)
        self.waiting.extend(rollouts)
        self._fill()

    def tell(self, now: float) -> list[Rollout]:
        """What has ended since it was asked last."""
        self._until(now)
        ended, self.ended = self.ended, []
        return ended

    def _until(self, now: float) -> None:
        while self.under_way and (at := self._end_at) <= now + ROUNDING:
            self._go_on(at, self.under_way[0][0])
            self.ended.append(heapq.heappop(self.under_way)[2])
            self._fill()
        if self.under_way:
            self._go_on(now, self.given + (now - self.at) / self.seconds_a_token)
        self.at = max(self.at, now)

    def _go_on(self, at: float, given: float) -> None:
        self.busy += max(at - self.at, 0.0)
        self.at, self.given = max(at, self.at), given

    def _fill(self) -> None:
        while self.waiting and len(self.under_way) < self.speed.slots:
            rollout = self.waiting.popleft()
            end = self.given + len(rollout.token_ids)
            heapq.heappush(self.under_way, (end, next(self.taken), rollout))


class SimulatedEngines:
    """A rollout engine, dealt to as the real one is. ``slots``: completions that an engine is given at once;
    None: all of its share. ``load_seconds``: for which new weights keep an engine."""

    def __init__(
        self,
        time: Time,
        answer: Callable[[str, int, int, int], np.ndarray],
        speed: EngineSpeed,
        slots: int | None = None,
        load_seconds: float = 0.0,
    ) -> None:
        self.time, self.answer, self.load_seconds = time, answer, load_seconds
        self.engines = {f"engine {i}": SimulatedEngine(speed) for i in range(speed.engines)}
        self.agenda: list[tuple[float, str]] = []  # when something happens
        self.noted: dict[str, float] = {}  # what of it still holds
        self.version = 0  # the newest
        self.woken = time.condition()
        self.news = False
        self.dispatcher = Dispatcher(time.condition(), Schedule(self.engines, slots), self)

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        return self.dispatcher.generate(requests, sampling, oldest)

    @property
    def busy(self) -> float:
        """Seconds so far in which engines had something to decode, added up."""
        with self.woken:
            return sum(
                engine.busy + bool(engine.under_way) * max(self.time.perf_counter() - engine.at, 0.0)
                for engine in self.engines.values()
            )

    # ---------------------------------------------------------------- for the dispatcher

    def give(self, name: str, samples: Sequence[Sample]) -> None:
        if not samples:
            return
        now, engine = self.time.perf_counter(), self.engines[name]
        with self.woken:
            with self.aside():  # what an engine answers is no work of the driver
                rollouts = [
                    rollout for one, sampling in samples for rollout in self.rollouts(one, sampling, engine)
                ]
                engine.take(rollouts, now)
            self._note(name)

    def load(self, name: str) -> None:
        with self.woken:
            self.engines[name].loaded_at = self.time.perf_counter() + self.load_seconds
            self._note(name)

    def wait(self) -> list[Event]:
        with self.woken:
            self.news = False
            seconds = self.agenda[0][0] - self.time.perf_counter() if self.agenda else None
            if seconds is None or seconds > 0:
                self.woken.wait_for(lambda: self.news, seconds)
            now = self.time.perf_counter()
            with self.aside():
                return self._happened(now)

    def lost(self, seed: int, tokens: int) -> None:
        """No simulated engine dies."""

    def _happened(self, now: float) -> list[Event]:
        events: list[Event] = []
        while self.agenda and self.agenda[0][0] <= now + ROUNDING:
            at, name = heapq.heappop(self.agenda)
            if self.noted.get(name) != at:
                continue
            engine = self.engines[name]
            if engine.loaded_at <= now + ROUNDING:
                engine.loaded_at, engine.version = math.inf, self.version
                events.append(Loaded(name, self.version))
            elif ended := engine.tell(now):
                events.append(Finished(name, ended))
            self._note(name)
        return events

    def _note(self, name: str) -> None:
        self.noted[name] = at = self.engines[name].next_at
        if at < math.inf:
            heapq.heappush(self.agenda, (at, name))
        self.news = True
        self.woken.notify_all()

    def aside(self) -> AbstractContextManager[None]:
        return getattr(self.time, "aside", nullcontext)()

    def rollouts(self, request: Request, sampling: Sampling, engine: SimulatedEngine) -> Iterator[Rollout]:
        for offset, seed in enumerate(request.seeds):
            token_ids = self.answer(request.prompt.key, seed, engine.version, sampling.max_new_tokens)
            yield Rollout(
                request.prompt.key,
                request.first_index + offset,
                seed,
                token_ids,
                np.full(len(token_ids), -0.5, np.float32),
                "length" if len(token_ids) == sampling.max_new_tokens else "stop",
                engine.version,
            )

    def offer(self, update: WeightUpdate) -> None:
        self.version = update.version
        self.dispatcher.offer(update.version)

    def load_weights(self, update: WeightUpdate) -> int:
        self.version = update.version
        for engine in self.engines.values():
            engine.version = update.version
        self.dispatcher.serve(update.version)
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

    def offer(self, handover: Handover) -> dict[str, float]:
        self.engine.offer(handover.update)
        return {}

    def close(self) -> None: ...
