"""The child's side of a verifier worker: build the reward, then score chunk after chunk until the pipe ends.

Protocol, over one socket: the parent sends (spec, timeout, MiB of memory or None); the worker answers
(``None``, the reward's version) when it is ready, or (what is wrong with the spec, ""). Then, for each list
of samples, it sends one Score a sample, each as soon as it is known, so that the parent sees which sample a
worker got stuck at.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from multiprocessing.connection import Connection

from reward.base import Sample
from reward.checked import OUT_OF_MEMORY, score_one
from reward.registry import build
from reward.worker_process import MEMORY_STATUS

GRACE = 1.0  # seconds after the timeout until a worker that nobody killed ends itself


def main(descriptor: int) -> None:
    """Serve the pool at the other end of this socket until it closes it or dies."""
    os.set_inheritable(descriptor, False)  # a process that a reward starts must not keep the socket open
    connection = Connection(descriptor)
    # When the parent is gone or done, nothing is left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    spec, timeout, memory_mb = connection.recv()
    try:
        reward = build(spec)
    except ValueError as error:
        connection.send((str(error), ""))
        return
    prepare = getattr(reward, "prepare", None)
    if prepare is not None:
        prepare()
    if memory_mb is not None:
        # What a process may write to, not what it maps: libraries reserve address space that they never use.
        with contextlib.suppress(ValueError, OSError):  # a stricter limit stands already
            resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
    connection.send((None, getattr(reward, "version", "")))
    # An alarm without a handler ends the process, by the kernel, even inside an endless C call. The parent is
    # quicker, unless it was killed: then a stuck worker, which cannot notice the closed pipe, ends here.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        samples: list[Sample] = connection.recv()
        for sample in samples:
            signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
            score = score_one(reward, sample)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if score.detail == OUT_OF_MEMORY:
                os._exit(MEMORY_STATUS)  # what a reward has kept goes with the process
            connection.send(score)
