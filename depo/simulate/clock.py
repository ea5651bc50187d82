"""A clock on which waiting takes no time, for the threads of a simulated run.

Seconds on it are the processor's seconds of this process, and those that were skipped: a thread that computes
takes the time it takes, a thread that sleeps does so in no time. One thread runs until it has to wait. Then
the next one runs that no longer has to. Where all sleep, the clock skips to whoever wakes first. So
the order of events is that of a run which really sleeps, on a machine with nothing else to do.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ROUNDING = 1e-9
"""Seconds that a clock may stand before the time that it has skipped to."""


class SkippingTime:
    """The `depo.train.metrics.Time` of a simulated run. ``compute`` tells the seconds of computing so far.

    Only threads of its own making, and the one that makes them, may wait on it.
    """

    def __init__(self, compute: Callable[[], float] = time.process_time) -> None:
        self.compute = compute
        self.skipped = 0.0
        self.not_counted = 0.0
        self.running = threading.current_thread()
        self.waiting: dict[threading.Thread, tuple[Callable[[], bool], float]] = {}  # first come first
        self.passing_on = threading.Condition()

    def perf_counter(self) -> float:
        return self.computed() + self.skipped

    def computed(self) -> float:
        """Seconds of computing, without what was done ``aside``."""
        return self.compute() - self.not_counted

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is computed here takes no time: it is the simulation's own work. Must not wait."""
        start = self.compute()
        try:
            yield
        finally:
            self.not_counted += self.compute() - start

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, self.perf_counter() + seconds)

    def wait(self, ready: Callable[[], bool], until: float = math.inf) -> None:
        """Let the others run until ``ready`` or until that time."""
        me = threading.current_thread()
        with self.passing_on:
            self.waiting[me] = ready, until
            self.pass_on()
            self.passing_on.wait_for(lambda: self.running is me)

    def pass_on(self) -> None:
        """Choose who runs next. Raises RuntimeError where everyone waits for another."""
        while self.waiting:
            now = self.perf_counter()
            for thread, (ready, until) in self.waiting.items():
                if until <= now + ROUNDING or ready():
                    del self.waiting[thread]
                    self.running = thread
                    self.passing_on.notify_all()
                    return
            earliest = min(until for _, until in self.waiting.values())
            if earliest == math.inf:
                raise RuntimeError(
                    f"a dead-lock: each of {', '.join(one.name for one in self.waiting)} waits"
                )
            self.skipped += earliest - now

    def lock(self) -> SkippingCondition:
        return SkippingCondition(self)

    def condition(self) -> SkippingCondition:
        return SkippingCondition(self)

    def thread(self, target: Callable[[], None], name: str) -> SkippingThread:
        return SkippingThread(self, target, name)


class SkippingCondition:
    """A lock and its condition. Nobody needs notifying: what is waited for is looked at whenever someone
    else waits."""

    def __init__(self, time: SkippingTime) -> None:
        self.time, self.held = time, False

    def acquire(self) -> bool:
        if self.held:
            self.time.wait(lambda: not self.held)
        self.held = True
        return True

    def release(self) -> None:
        self.held = False

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> None:
        """``timeout`` in seconds."""
        self.held = False
        until = math.inf if timeout is None else self.time.perf_counter() + timeout
        self.time.wait(lambda: not self.held and bool(predicate()), until)
        self.acquire()

    def notify_all(self) -> None: ...

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class SkippingThread(threading.Thread):
    """Starts to run when the others wait."""

    def __init__(self, time: SkippingTime, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self.time, self.over = time, False

    def start(self) -> None:
        self.time.waiting[self] = (lambda: True, math.inf)
        super().start()

    def run(self) -> None:
        with self.time.passing_on:
            self.time.passing_on.wait_for(lambda: self.time.running is self)
        try:
            super().run()
        finally:
            self.over = True
            with self.time.passing_on:
                self.time.pass_on()

    def join(self, timeout: float | None = None) -> None:
        until = math.inf if timeout is None else self.time.perf_counter() + timeout
        self.time.wait(lambda: self.over, until)
