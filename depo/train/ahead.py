"""Whether rollouts wait for updates: in turn, or up to ``rollout.max_off_policy_steps`` steps ahead.

Ahead, n further threads roll out the coming steps, one step each at a time, while the loop's thread trains on
those that are done, in their order:

    thread 1     pick 1, generate 1 │ pick 3, generate 3 …
    thread 2     pick 2, generate 2 ······· │ pick 4, generate 4 …
    trains                          │ update 1 │ update 2 …

Who *decides* (selector, pool, estimator, ledger, a checkpoint) holds the turn; who only waits for other
processes passes it on. The phases of a step are the seams: see ``around_rollouts`` and ``around_training``.
Several steps are in the engines at once. An engine takes new weights when it has run dry
(``depo.rollout.schedule``), so a rollout has one policy version.

With n steps ahead, step s is begun once the update of step s − n has begun, when there are weights of at
least s − n − 1 updates. It is generated with these or newer ones, and trained on by the policy after s − 1: n
versions later at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from depo.selection import OpenStep
from depo.train.metrics import Clock
from depo.train.state import Run
from depo.types import Group, Outcome

RollOut = Callable[[Run, OpenStep, Clock], list[Group]]
"""Rolls out a step, round after round; all its groups."""

PATIENCE = 30.0
"""Seconds that a run which fails waits for its rollouts' thread, once the engines are closed."""


class Rollouts(Protocol):
    """Where the loop takes its groups from."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def clock(self, step: int) -> Clock:
        """For the phases of the loop."""
        ...

    def take(self, step: int, clock: Clock) -> tuple[OpenStep, list[Group]]:
        """The step, with all its groups; ``clock`` is told what they took."""
        ...

    def sync(self, version: int) -> dict[str, float]:
        """Bring the learner's weights to the engines, now or before they generate next."""
        ...

    def metrics(self, step: int, groups: Sequence[Group], clock: Clock, updated: float) -> dict[str, float]:
        """Of a step that the learner has worked on for ``updated`` seconds."""
        ...

    def stop(self) -> None:
        """The run has what it needs."""
        ...


def rollouts_of(run: Run, roll_out: RollOut) -> Rollouts:
    return Ahead(run, roll_out) if run.recipe.rollout.max_off_policy_steps else InTurn(run, roll_out)


class InTurn:
    """Generation waits for the update, and the update for generation."""

    def __init__(self, run: Run, roll_out: RollOut) -> None:
        self.run, self.roll_out = run, roll_out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def clock(self, step: int) -> Clock:
        return self.run.clock(step)

    def take(self, step: int, clock: Clock) -> tuple[OpenStep, list[Group]]:
        open_step = self.run.open_step(step)
        return open_step, self.roll_out(self.run, open_step, clock)

    def sync(self, version: int) -> dict[str, float]:
        return self.run.weight_sync.serve(self.run.weight_sync.publish(version))

    def metrics(self, step: int, groups: Sequence[Group], clock: Clock, updated: float) -> dict[str, float]:
        return {}

    def stop(self) -> None: ...


class Ahead:
    """Generation goes on while the learner updates, up to n steps ahead.

    A step in flight is an open step of the selector, and so part of every checkpoint: its picks and not its
    rollouts. A resumed run rolls the same picks out again, with the same seeds and today's policy.
    """

    def __init__(self, run: Run, roll_out: RollOut) -> None:
        self.run, self.roll_out = run, roll_out
        self.limit = run.recipe.rollout.max_off_policy_steps
        self.time = run.time
        self.turn = self.time.condition()
        self.in_flight: list[OpenStep] = []
        self.done: dict[int, tuple[OpenStep, list[Group], Clock]] = {}
        self.taken = run.step
        self.next = run.step + 1  # to begin
        self.rolled_out = run.ledger.generated  # rollouts of all steps done so far
        self.stopping = False
        self.error: BaseException | None = None
        self.threads = [self.time.thread(self._roll_out_all, "rollouts") for _ in range(self.limit)]

        self.verifying = self.time.lock()
        self.counting = self.time.lock()
        self.users = 0  # of the engines at this moment
        self.busy, self.since, self.busy_before = 0.0, 0.0, 0.0  # seconds of generation

    def __enter__(self) -> Self:
        self.turn.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping = True
        self.turn.notify_all()
        self.turn.release()
        if any(thread.is_alive() for thread in self.threads):
            self.run.engine.close()  # ends the generation that the threads wait for
            for thread in self.threads:
                if thread.is_alive():
                    thread.join(PATIENCE)

    # ---------------------------------------------------------------- the loop's thread

    def clock(self, step: int) -> Clock:
        return self.run.clock(step, self.around_training)

    @contextmanager
    def around_training(self, phase: str) -> Iterator[None]:
        if phase in ("update", "sync"):  # the learner is waited for
            self.turn.release()
            try:
                yield
            finally:
                self.turn.acquire()
        elif phase == "evaluate":
            with self.verifying, self.generating():
                yield
        else:
            yield

    def take(self, step: int, clock: Clock) -> tuple[OpenStep, list[Group]]:
        """Waits until the step is rolled out. Other threads then make the picks that have become possible,
        before the learner begins an update: a prefill probe asks the learner about candidates."""
        self.busy_before = self.busy_seconds()
        for thread in self.threads:
            if thread.ident is None:
                thread.start()
        with clock.phase("wait"):
            self.turn.wait_for(lambda: step in self.done or self.error)
            if self.error is not None:
                raise self.error
            open_step, groups, rollouts_clock = self.done.pop(step)
            self.taken = step
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.error or not self.may_begin())
        for phase, seconds in rollouts_clock.seconds.items():
            clock.add(phase, seconds)
        return open_step, groups

    def sync(self, version: int) -> dict[str, float]:
        """Publishes the weights; the metrics are those of the newest that an engine has loaded."""
        return self.run.weight_sync.offer(self.run.weight_sync.publish(version))

    def metrics(self, step: int, groups: Sequence[Group], clock: Clock, updated: float) -> dict[str, float]:
        lags = [step - 1 - rollout.policy_version for group in groups for rollout in group.rollouts]
        learner = updated + clock.seconds["sync"]
        engine = self.busy_seconds() - self.busy_before
        return {
            "overlap/lag_mean": float(np.mean(lags)),
            "overlap/lag_max": float(max(lags)),
            "overlap/stale_share": sum(group.outcome == Outcome.STALE for group in groups) / len(groups),
            "overlap/learner_idle": max(1 - learner / clock.total, 0.0),
            "overlap/engine_idle": max(1 - engine / clock.total, 0.0),
        }

    def stop(self) -> None:
        """Begins no further step, and counts what was made for steps that will not come as cancelled. Their
        picks stay open, for a run that is extended."""
        self.stopping = True
        self.turn.notify_all()
        self.turn.release()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()
        self.turn.acquire()
        for _, groups, _ in self.done.values():
            for group in groups:
                tokens = sum(len(rollout.token_ids) for rollout in group.rollouts)
                self.run.ledger.record_ungrouped(
                    group.pick.origin, Outcome.CANCELLED, len(group.rollouts), tokens
                )
        self.done.clear()

    # ---------------------------------------------------------------- the threads that roll out

    def _roll_out_all(self) -> None:
        with self.turn:
            try:
                while self._wait_to_begin():
                    step, self.next = self.next, self.next + 1
                    clock = self.run.clock(step, self.around_rollouts)
                    open_step = self.run.open_step(step)
                    self.in_flight.append(open_step)
                    groups = self.roll_out(self.run, open_step, clock)
                    self.in_flight.remove(open_step)
                    self.done[step] = open_step, groups, clock
                    self.rolled_out += sum(len(group.rollouts) for group in groups)
                    self.turn.notify_all()
            except BaseException as error:  # noqa: BLE001 - handed to the loop's thread and raised there
                self.error = self.error or error
            finally:
                self.turn.notify_all()

    def _wait_to_begin(self) -> bool:
        """False when no further step is needed."""
        self.turn.wait_for(lambda: self.stopping or self.error or self.over or self.may_begin())
        return not (self.stopping or self.error or self.over)

    @property
    def over(self) -> bool:
        """Whether the steps that are done are all that the recipe asks for."""
        recipe = self.run.recipe
        limit = recipe.max_rollouts
        return self.next > recipe.steps or (limit is not None and self.rolled_out >= limit)

    def may_begin(self) -> bool:
        """Whether the next step can begin now: it is near enough, and will be needed even if the steps in
        flight make all rollouts that were picked for them."""
        recipe = self.run.recipe
        picked = sum(len(open_step.picks) for open_step in self.in_flight)
        limit = recipe.max_rollouts or math.inf
        needed = self.rolled_out + picked * recipe.batch.group_size < limit
        return self.next <= min(self.taken + self.limit, recipe.steps) and needed

    @contextmanager
    def around_rollouts(self, phase: str) -> Iterator[None]:
        if phase not in ("generate", "verify"):
            yield
            return
        self.turn.notify_all()
        self.turn.release()
        try:
            if phase == "generate":
                with self.generating():
                    yield
            else:
                with self.verifying:  # the verifiers take one batch at a time, the tokenizer as well
                    yield
        finally:
            self.turn.acquire()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Around a use of the engines: its time is counted."""
        self._count(+1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, by: int) -> None:
        with self.counting:
            now = self.time.perf_counter()
            if self.users:
                self.busy += now - self.since
            self.users, self.since = self.users + by, now

    def busy_seconds(self) -> float:
        """Of the engines so far, with the generation under way."""
        self._count(0)
        return self.busy
