"""Which engine gets which completion, and which weights it needs for it.

- Calls wait in line: whoever asks for the newest policy (an evaluation) first, then the oldest step.
- The completions that are expected to be longest go first, to the engine with the fewest expected tokens
  outstanding: up to its slots, and up to its fair share of all that is outstanding or waits.
- The completions of a prompt are about equally long, so an engine that gets all of the longest ends last.
  They are dealt round the engines, unless the prompt is longer than they are: then they stay together, and
  one prefix cache serves them all.
- An engine changes its policy while it holds no request: a completion comes from one policy. It goes on with
  an old one for as long as that is new enough for whoever is first in line. Then it is given nothing until it
  has run dry and loaded.

Nothing here waits or knows what an engine is: see ``depo.rollout.dispatch``.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from depo.rollout.engine import Sampling
from depo.types import Request, Rollout

Sample = tuple[Request, Sampling]
"""One completion to be made: a request with one seed."""

SampleId = tuple[str, int, int]
"""Prompt key, index in its group, and seed: two steps may ask for the same prompt."""


@dataclass(eq=False, slots=True)
class Waiting:
    """Completions of a prompt that no engine has been given: those from ``given`` on."""

    request: Request
    tokens: float
    given: int = 0

    @property
    def left(self) -> int:
        return self.request.n - self.given

    @property
    def together(self) -> bool:
        """Whether reading the prompt again costs more than unequal shares."""
        return len(self.request.prompt.token_ids) > self.tokens


@dataclass(eq=False)
class Call:
    """``oldest``: the oldest policy version that will do; None: the newest there is. ``owed`` completions are
    neither finished nor taken by the caller."""

    sampling: Sampling
    oldest: int | None
    waiting: deque[Waiting] = field(default_factory=deque)
    """Longest expected first."""
    owed: int = 0
    finished: list[Rollout] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return bool(self.waiting)

    @property
    def place(self) -> float:
        return -math.inf if self.oldest is None else self.oldest


@dataclass(eq=False)
class Engine:
    """``held``: by sample, whose it is and how many tokens are expected. ``away``: it loads or starts."""

    name: str
    number: int
    version: int = 0
    held: dict[SampleId, tuple[Call, Request, float]] = field(default_factory=dict)
    tokens: float = 0.0
    away: bool = False
    home: dict[int, Waiting] = field(default_factory=dict)
    """Prompts that it has some of, by identity: they are in its prefix cache."""


class Schedule:
    """``slots``: completions that an engine holds at once; None: all that it is given, at once."""

    def __init__(self, names: Iterable[str], slots: int | None = None) -> None:
        self.engines = {name: Engine(name, number) for number, name in enumerate(names)}
        self.slots = math.inf if slots is None else slots
        self.calls: list[Call] = []
        self.newest = 0
        self.outstanding = 0.0  # expected tokens that are held or waiting
        self.ended, self.ended_tokens = 0, 0

    # ---------------------------------------------------------------- calls

    def add(self, requests: Iterable[Request], sampling: Sampling, oldest: int | None) -> Call:
        """In line from now on."""
        call = Call(sampling, oldest)
        unknown = self.ended_tokens / self.ended if self.ended else float(sampling.max_new_tokens)
        waiting = [Waiting(one, max(one.tokens or unknown, 1.0)) for one in requests if one.n]
        waiting.sort(key=lambda one: -one.tokens)
        call.waiting.extend(waiting)
        call.owed = sum(one.left for one in waiting)
        self.outstanding += sum(one.left * one.tokens for one in waiting)
        self.calls.append(call)
        self.calls.sort(key=lambda one: one.place)  # stable: first come first
        return call

    def end(self, call: Call) -> None:
        """Nothing more is wanted of it. What engines hold of it they finish, for nobody."""
        self.calls.remove(call)
        for waiting in call.waiting:
            self.outstanding -= waiting.left * waiting.tokens
            waiting.given = waiting.request.n

    @property
    def backlog(self) -> bool:
        """Whether something waits for a place in an engine."""
        return any(call.waits for call in self.calls)

    # ---------------------------------------------------------------- what an engine is given

    def wants_weights(self, engine: Engine) -> bool:
        """Whether it is to load the newest policy now: it holds nothing, and will be given something."""
        return not engine.away and not engine.held and engine.version < self.newest and self.backlog

    def share(self, engine: Engine) -> list[Sample]:
        """What this engine takes now; [] when it is to take nothing."""
        given: list[Sample] = []
        while new := self._next(engine):
            given += new
        return given

    def shares(self) -> dict[str, list[Sample]]:
        """The same of all engines, prompt by prompt to the one with the fewest tokens."""
        given: dict[str, list[Sample]] = {}
        line = [(engine.tokens, engine.number, engine) for engine in self.engines.values()]
        heapq.heapify(line)
        while line and self.backlog:
            _, number, engine = line[0]
            if new := self._next(engine):
                given.setdefault(engine.name, []).extend(new)
                heapq.heapreplace(line, (engine.tokens, number, engine))
            else:
                heapq.heappop(line)
        return given

    def _next(self, engine: Engine) -> list[Sample]:
        """Completions of one prompt."""
        call = next((call for call in self.calls if call.waits), None)
        free = self.slots - len(engine.held)
        if call is None or engine.away or free <= 0:
            return []
        if not engine.held and engine.version < self.newest:
            return []  # see wants_weights
        if engine.version < (self.newest if call.oldest is None else call.oldest):
            return []
        lacks = self.outstanding / len(self.engines) - engine.tokens
        if engine.held and lacks <= 0:
            return []
        engine.home = {key: one for key, one in engine.home.items() if one.left}
        own = next((one for one in engine.home.values() if one.together and one in call.waiting), None)
        new = next(
            (one for one in call.waiting if id(one) not in engine.home and not (one.together and one.given)),
            None,
        )
        waiting = own or new or call.waiting[0]
        engine.home[id(waiting)] = waiting
        n = waiting.request.n
        part = math.ceil(lacks / waiting.tokens) if waiting.together else n // len(self.engines)
        many = min(waiting.left, free, max(part, 1))
        given = waiting.request.single(waiting.given, waiting.given + int(many))
        waiting.given += len(given)
        if not waiting.left:
            call.waiting.remove(waiting)
        for one in given:
            engine.held[one.prompt.key, one.first_index, one.seeds[0]] = call, one, waiting.tokens
            engine.tokens += waiting.tokens
        return [(one, call.sampling) for one in given]

    # ---------------------------------------------------------------- what comes back

    def finish(self, engine: Engine, rollout: Rollout) -> None:
        call, _, tokens = engine.held.pop((rollout.key, rollout.index, rollout.seed))
        self._let_go(engine, tokens)
        self.ended += 1
        self.ended_tokens += len(rollout.token_ids)
        call.finished.append(rollout)

    def loaded(self, engine: Engine, version: int) -> None:
        engine.version, engine.away = version, False
        self.newest = max(self.newest, version)

    def died(self, engine: Engine) -> list[Request]:
        """What it held, in the order in which it was given, waits again, first of its call. The engine is
        away until it has loaded."""
        held, engine.held = list(engine.held.values()), {}
        engine.away, engine.home = True, {}
        for call, request, tokens in reversed(held):
            self._let_go(engine, tokens)
            if call in self.calls:
                call.waiting.appendleft(Waiting(request, tokens))
                self.outstanding += tokens
        return [request for _, request, _ in held]

    def forget(self) -> None:
        """Engines hold nothing any more: what they had was for nobody."""
        for engine in self.engines.values():
            for _, _, tokens in engine.held.values():
                self._let_go(engine, tokens)
            engine.held, engine.tokens, engine.home = {}, 0.0, {}

    def _let_go(self, engine: Engine, tokens: float) -> None:
        self.outstanding -= tokens
        engine.tokens = engine.tokens - tokens if engine.held else 0.0
