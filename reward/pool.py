"""Rewards in killable worker processes, with a hard timeout per sample.

A verifier that hangs inside one C call cannot be interrupted from within its process, so the process is
killed and replaced; only the sample it was at is unscorable. Samples travel in chunks and scores one by one:
few round trips, and the guilty sample is known.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from types import TracebackType
from typing import Any, Self

from depo.reward.base import Sample, Score, score_all, unscorable
from depo.reward.registry import build
from depo.reward.worker import START_TIMEOUT, WorkerProcess, cause_of_death

STARTS = 3  # workers killed by a signal while starting, one after another: then it is no accident
CHUNK = 32  # samples at most; smaller for small batches, so that each worker gets several chunks


class VerifierPool:
    """Scores samples with the reward of ``spec`` in ``workers`` processes, at most ``timeout`` seconds each,
    with at most ``memory_mb`` MiB a process (None: no limit; Linux only).

    Workers start at the first `score`, or earlier in the background with `start`. Rewards that cannot hang
    (``inline = True``) are scored in the calling process, without any worker. Scores do not depend on the
    number of workers. Usable from several threads; calls take turns.

    Raises ``ValueError`` (one line) when the spec is bad.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        workers: int = 2,
        timeout: float = 5.0,
        memory_mb: int | None = 4096,
    ) -> None:
        if workers < 1:
            raise ValueError(f"verification: workers must be at least 1, found {workers}")
        if not timeout > 0:
            raise ValueError(f"verification: timeout must be more than 0 seconds, found {timeout}")
        self._spec = dict(spec)
        self._size = workers
        self._timeout = timeout
        self._memory_mb = memory_mb
        self._reward = build(spec)  # here too, so that a bad spec is reported before anything is started
        self._inline = bool(getattr(self._reward, "inline", False))
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self._closed = False
        self._failed_starts = 0  # since a worker last became ready
        self.replaced = 0
        """Workers that were killed or died, since the beginning."""

    def start(self) -> None:
        """Start the workers without waiting for them: importing sympy takes them a second."""
        with self._lock:
            self._start_workers(self._size)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order. A timeout or crash makes that sample unscorable and no other.

        Raises ``RuntimeError`` when workers cannot start at all, when a user's function has been edited
        meanwhile, or after `close`.
        """
        if self._inline:
            return score_all(self._reward, samples)
        with self._lock:
            if self._closed:
                raise RuntimeError("this VerifierPool is closed")
            self._replace_dead_idle_workers()
            self._start_workers(min(self._size, len(samples)))
            try:
                return self._score(samples)
            finally:
                # On Ctrl-C or an error: answers to an abandoned call must not be taken for the next one's.
                for worker in [worker for worker in self._workers if worker.pending]:
                    self._remove(worker)

    def close(self) -> None:
        """End all workers. Nothing to do twice."""
        with self._lock:
            self._closed = True
            while self._workers:
                self._remove(self._workers[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ one call

    def _score(self, samples: Sequence[Sample]) -> list[Score]:
        scores: dict[int, Score] = {}
        waiting = self._chunks(len(samples))
        while len(scores) < len(samples):
            for worker in self._workers:
                if waiting and worker.ready and not worker.pending:
                    indices = waiting.popleft()
                    worker.assign(indices, [samples[index] for index in indices])
            for worker in self._wait():
                self._collect(worker, scores, waiting)
        return [scores[index] for index in range(len(samples))]

    def _chunks(self, n: int) -> deque[list[int]]:
        # Four chunks a worker: when one worker is held up by slow samples, the others take over.
        size = max(1, min(CHUNK, n // (4 * self._size)))
        return deque(list(range(start, min(start + size, n))) for start in range(0, n, size))

    def _wait(self) -> list[WorkerProcess]:
        """Sleep until a worker has something to say or has run out of time; gives those workers."""
        active = [worker for worker in self._workers if worker.waited_for]
        seconds = min(worker.deadline for worker in active) - time.monotonic()
        speaking = connection.wait([worker.connection for worker in active], timeout=max(0.0, seconds))
        now = time.monotonic()
        return [worker for worker in active if worker.connection in speaking or worker.deadline <= now]

    def _collect(self, worker: WorkerProcess, scores: dict[int, Score], waiting: deque[list[int]]) -> None:
        """Read all that the worker has said. If it has died or has run out of time, replace it."""
        try:
            # Answers that are already there count, even if this process was too busy to read them in time.
            while worker.waited_for and worker.connection.poll(0):
                answer = worker.connection.recv()
                if worker.ready:
                    scores[worker.pending.popleft()] = answer
                else:
                    self._check_start(worker, *answer)
                worker.ready = True
                self._failed_starts = 0
                worker.restart_clock()
        except (EOFError, ConnectionResetError):
            self._give_up(worker, scores, waiting, overran=False)
        else:
            if worker.waited_for and worker.deadline <= time.monotonic():
                self._give_up(worker, scores, waiting, overran=True)

    def _check_start(self, worker: WorkerProcess, problem: str | None, version: str) -> None:
        """Raise unless a worker that has started judges as this process would: a file that is edited while
        workers are at work would otherwise count for those that start later, and for them only."""
        if problem is not None:
            self._remove(worker)
            raise ValueError(problem)
        if version != getattr(self._reward, "version", ""):
            self._remove(worker)
            raise RuntimeError(
                f"the source of reward {self._spec} has changed since this pool was made: a worker "
                "that starts now would judge by another one than those before it"
            )

    def _give_up(
        self, worker: WorkerProcess, scores: dict[int, Score], waiting: deque[list[int]], overran: bool
    ) -> None:
        """Replace a worker; the sample it was at is unscorable, those behind it go to others. One that was
        starting was at no sample."""
        return_code = self._remove(worker, ending=not overran)
        if not worker.ready:
            self._failed_starts += 1
            if return_code < 0 and not overran and self._failed_starts < STARTS:
                self.replaced += 1
                self._start_workers(len(self._workers) + 1)
                return
            why = f"not ready after {START_TIMEOUT:g} s" if overran else cause_of_death(return_code)
            raise RuntimeError(f"a verifier worker for reward {self._spec} could not start: {why}")
        # SIGALRM: the worker's own alarm was quicker than this process, which must have been held up.
        timed_out = overran or return_code == -signal.SIGALRM
        reason = f"timeout after {self._timeout:g} s" if timed_out else cause_of_death(return_code)
        scores[worker.pending.popleft()] = unscorable(reason)
        if worker.pending:
            waiting.appendleft(list(worker.pending))
            worker.pending.clear()
        self.replaced += 1
        self._start_workers(len(self._workers) + 1)

    # ------------------------------------------------------------ workers

    def _start_workers(self, count: int) -> None:
        while not (self._inline or self._closed) and len(self._workers) < count:
            self._workers.append(WorkerProcess(self._spec, self._timeout, self._memory_mb))

    def _replace_dead_idle_workers(self) -> None:
        for worker in [worker for worker in self._workers if worker.ready and not worker.idle_and_alive()]:
            self._remove(worker)
            self.replaced += 1

    def _remove(self, worker: WorkerProcess, ending: bool = False) -> int:
        self._workers.remove(worker)
        return worker.kill(ending)
