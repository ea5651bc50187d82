"""Several callers at once on several engines: the part of a rollout engine that waits.

Whoever waits for rollouts waits for the engines on behalf of all: one of the callers leads, hands what has
come to whom it belongs, and gives the engines what is next. There is no thread for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from depo.rollout.engine import Sampling
from depo.rollout.schedule import Call, Engine, Sample, Schedule
from depo.types import Request, Rollout


@dataclass(frozen=True, slots=True)
class Finished:
    """Rollouts that an engine has ended."""

    name: str
    rollouts: Sequence[Rollout]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine serves this version now."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Gone:
    """An engine is gone; ``Loaded`` follows when there is another in its place. ``tokens`` had been decoded
    for what it had not ended, of which at most ``under_way`` were decoded together."""

    name: str
    tokens: int
    under_way: int


Event = Finished | Loaded | Gone


class Engines(Protocol):
    def give(self, name: str, samples: Sequence[Sample]) -> None:
        """Further work for an engine, which may be at work, or none: it is to go on. Returns at once."""
        ...

    def load(self, name: str) -> None:
        """Begin to load the newest policy into an engine that has nothing to do."""
        ...

    def wait(self) -> Sequence[Event]:
        """What has happened since, after a while at most: others may have given work meanwhile."""
        ...

    def lost(self, seed: int, tokens: int) -> None:
        """Hears of a completion that was under way in an engine that died."""
        ...


class Dispatcher:
    """``generate`` for any number of threads; ``turn``: the condition that they wait with."""

    def __init__(self, turn: Any, schedule: Schedule, engines: Engines) -> None:
        self.schedule, self.engines, self.turn = schedule, engines, turn
        self.led = False

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        """Rollouts as they finish; see `Call` for ``oldest``. A consumer that stops early does not stop the
        engines."""
        with self.turn:
            call = self.schedule.add(requests, sampling, oldest)
            self._deal()
        try:
            while call.owed:
                yield from self._finished(call)
        finally:
            with self.turn:
                self.schedule.end(call)

    def offer(self, version: int) -> None:
        """There is a newer policy. Engines load it when they have run dry."""
        with self.turn:
            self.schedule.newest = version

    def forget(self) -> None:
        """Engines have dropped what they had, for a caller that is gone."""
        with self.turn:
            self.schedule.forget()

    def serve(self, version: int) -> None:
        """All engines have loaded this version."""
        with self.turn:
            for engine in self.schedule.engines.values():
                self.schedule.loaded(engine, version)

    def _finished(self, call: Call) -> list[Rollout]:
        """Wait until there is something."""
        while True:
            with self.turn:
                self.turn.wait_for(lambda: call.finished or not self.led)
                if call.finished:
                    finished, call.finished = call.finished, []
                    call.owed -= len(finished)
                    return finished
                self.led = True
            events: Sequence[Event] = ()
            try:
                events = self.engines.wait()
            finally:
                with self.turn:
                    self.led = False
                    self._handle(events)
                    self.turn.notify_all()

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            engine = self.schedule.engines[event.name]
            if isinstance(event, Finished):
                for rollout in event.rollouts:
                    self.schedule.finish(engine, rollout)
            elif isinstance(event, Loaded):
                self.schedule.loaded(engine, event.version)
            else:
                self._lost(self.schedule.died(engine)[: event.under_way], event.tokens)
        if any(isinstance(event, Gone) for event in events):
            self._deal()  # for the others
        for name in dict.fromkeys(event.name for event in events):
            engine = self.schedule.engines[name]
            samples = self.schedule.share(engine)
            if samples or (engine.held and not engine.away):
                self.engines.give(name, samples)
            self._refresh(engine)

    def _lost(self, requests: Sequence[Request], tokens: int) -> None:
        for number, one in enumerate(requests):
            each, rest = divmod(tokens, len(requests))
            self.engines.lost(one.seeds[0], each + (number < rest))

    def _deal(self) -> None:
        for name, samples in self.schedule.shares().items():
            self.engines.give(name, samples)
        for engine in self.schedule.engines.values():
            self._refresh(engine)

    def _refresh(self, engine: Engine) -> None:
        if self.schedule.wants_weights(engine):
            engine.away = True
            self.engines.load(engine.name)
